rule align_pairs:
    input:
        traces=reasoned("traces", "patching"),
        grades=reasoned("grades", "patching"),
        dataset="<results>/datasets/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        pairs="<results>/pairs/{model}/{dataset}.parquet",
    log:
        "<logs>/pairs/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/pairs/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=settings("pairs"),
    script:
        "../scripts/align_pairs.py"


rule capture_activations:
    input:
        pairs="<results>/pairs/{model}/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
        check="<results>/model_checks/{model}.json",
    output:
        activations="<results>/activations/{model}/{dataset}.h5",
    log:
        "<logs>/activations/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/activations/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
    params:
        settings=settings("activations"),
    script:
        "../scripts/capture_activations.py"


rule patch_pairs:
    input:
        pairs="<results>/pairs/{model}/{dataset}.parquet",
        activations="<results>/activations/{model}/{dataset}.h5",
        manifest="<results>/models/{model}.json",
    output:
        patching="<results>/patching/{model}/{dataset}.h5",
    log:
        "<logs>/patching/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/patching/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        batch_tokens=STUDY.patching.batch_tokens,
    params:
        settings=settings("patching"),
    script:
        "../scripts/patch_pairs.py"


rule follow_patches:
    input:
        pairs="<results>/pairs/{model}/{dataset}.parquet",
        activations="<results>/activations/{model}/{dataset}.h5",
        ranks="<results>/head_ranks/{model}/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        mechanism="<results>/mechanism/{model}/{dataset}.h5",
    log:
        "<logs>/mechanism/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/mechanism/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        batch_tokens=STUDY.patching.batch_tokens,
    params:
        settings=settings("mechanism"),
    script:
        "../scripts/follow_patches.py"


rule tabulate_patching:
    input:
        patching="<results>/patching/{model}/{dataset}.h5",
    output:
        curves="<results>/tables/{model}/{dataset}/patching_curves.csv",
        controls=table_in_report(
            "<results>/tables/{model}/{dataset}/patching_controls.csv", "3 Patching", "patching controls"
        ),
        hand_off=table_in_report("<results>/tables/{model}/{dataset}/hand_off.csv", "3 Patching", "hand off"),
        ranges="<results>/tables/{model}/{dataset}/patching_ranges.csv",
        first_order=table_in_report(
            "<results>/tables/{model}/{dataset}/patching_first_order.csv", "4 Checks", "patching first order"
        ),
    log:
        "<logs>/tables/{model}/{dataset}/patching.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("patching_tables"),
    script:
        "../scripts/tabulate_patching.py"


rule tabulate_pairs:
    input:
        pairs="<results>/pairs/{model}/{dataset}.parquet",
        patching="<results>/patching/{model}/{dataset}.h5",
    output:
        funnel=table_in_report("<results>/tables/{model}/{dataset}/pair_funnel.csv", "4 Checks", "pair funnel"),
        outcomes="<results>/tables/{model}/{dataset}/pair_outcomes.csv",
    log:
        "<logs>/tables/{model}/{dataset}/pairs.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("pair_tables"),
    script:
        "../scripts/tabulate_pairs.py"


rule tabulate_carriers:
    input:
        patching="<results>/patching/{model}/{dataset}.h5",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        carriers="<results>/tables/{model}/{dataset}/carriers.csv",
        agreement="<results>/tables/{model}/{dataset}/carriers_agreement.csv",
    log:
        "<logs>/tables/{model}/{dataset}/carriers.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("patching_tables"),
    script:
        "../scripts/tabulate_carriers.py"


rule tabulate_mechanism:
    input:
        mechanism="<results>/mechanism/{model}/{dataset}.h5",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        mediation=table_in_report("<results>/tables/{model}/{dataset}/mediation.csv", "3 Patching", "mediation"),
        mlps="<results>/tables/{model}/{dataset}/mediation_mlps.csv",
        attribution="<results>/tables/{model}/{dataset}/attribution.csv",
        lens="<results>/tables/{model}/{dataset}/logit_lens.csv",
        changes="<results>/tables/{model}/{dataset}/later_layers.csv",
    log:
        "<logs>/tables/{model}/{dataset}/mechanism.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("mechanism_tables"),
    script:
        "../scripts/tabulate_mechanism.py"

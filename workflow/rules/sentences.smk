rule measure_sentences:
    input:
        traces=reasoned("traces", "attention"),
        dataset="<results>/datasets/{dataset}.parquet",
        attention="<results>/attention/{model}/{dataset}.h5",
        ranks="<results>/head_ranks/{model}/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
        check="<results>/model_checks/{model}.json",
    output:
        sentences="<results>/sentences/{model}/{dataset}.h5",
    log:
        "<logs>/sentences/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/sentences/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        batch_tokens=STUDY.sentences.batch_tokens,
    params:
        settings=settings("sentences"),
    script:
        "../scripts/measure_sentences.py"


rule resample_sentences:
    input:
        traces=reasoned("traces", "attention"),
        dataset="<results>/datasets/{dataset}.parquet",
        sentences="<results>/sentences/{model}/{dataset}.h5",
        manifest="<results>/models/{model}.json",
    output:
        rollouts="<results>/resampling/{model}/{dataset}.parquet",
    log:
        "<logs>/resampling/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/resampling/{model}/{dataset}.tsv"
    priority: LAST
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        **IN_ENGINE,
    params:
        settings=settings("resampling", condition="with_reasoning"),
    script:
        "../scripts/resample_sentences.py"


rule compare_rollouts:
    input:
        rollouts="<results>/resampling/{model}/{dataset}.parquet",
        sentences="<results>/sentences/{model}/{dataset}.h5",
        manifest="<results>/models/{model}.json",
    output:
        rollouts="<results>/resampling/{model}/{dataset}.compared.parquet",
    log:
        "<logs>/resampling/{model}/{dataset}.compared.log",
    benchmark:
        "<benchmarks>/resampling/{model}/{dataset}.compared.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        batch_tokens=STUDY.sentences.batch_tokens,
    params:
        settings=settings("rollouts"),
    script:
        "../scripts/compare_rollouts.py"


rule tabulate_resampling:
    input:
        rollouts="<results>/resampling/{model}/{dataset}.compared.parquet",
    output:
        table="<results>/tables/{model}/{dataset}/resampling.csv",
    log:
        "<logs>/tables/{model}/{dataset}/resampling.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("resampling_tables"),
    script:
        "../scripts/tabulate_resampling.py"


rule tabulate_sentences:
    input:
        resampling=where("resampled_datasets", "<results>/tables/{model}/{dataset}/resampling.csv"),
        sentences="<results>/sentences/{model}/{dataset}.h5",
        grades=reasoned("grades", "attention"),
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        sentences="<results>/tables/{model}/{dataset}/sentences.csv",
        beliefs="<results>/tables/{model}/{dataset}/beliefs.csv",
        settling=table_in_report(
            "<results>/tables/{model}/{dataset}/settling.csv", "2 Attention", "where belief settles"
        ),
        agreement=table_in_report(
            "<results>/tables/{model}/{dataset}/sentence_agreement.csv", "2 Attention", "agreement on sentences"
        ),
        experiment=table_in_report(
            "<results>/tables/{model}/{dataset}/sentence_experiment.csv",
            "2 Attention",
            "without the sentence most read",
        ),
        costs=table_in_report(
            "<results>/tables/{model}/{dataset}/sentence_costs.csv", "2 Attention", "cost of measures on sentences"
        ),
    log:
        "<logs>/tables/{model}/{dataset}/sentences.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("sentence_tables"),
    script:
        "../scripts/tabulate_sentences.py"

rule probe_heads:
    input:
        manifest="<results>/models/{model}.json",
        haystack=STUDY.probes.haystack,
    output:
        probes="<results>/probes/{model}.h5",
    log:
        "<logs>/probes/{model}.log",
    benchmark:
        "<benchmarks>/probes/{model}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    threads: lambda wildcards: STUDY.models[wildcards.model].threads
    resources:
        gpu=lambda wildcards: STUDY.models[wildcards.model].gpus,
        gpus_needed=lambda wildcards: STUDY.models[wildcards.model].gpus,  # gpu is clipped to Snakemake's limit
        mem_mb=lambda wildcards, attempt: STUDY.models[wildcards.model].memory_mb * attempt,
        runtime=lambda wildcards: STUDY.models[wildcards.model].runtime_minutes,
    params:
        settings=lambda wildcards: stage_settings(STUDY, "probes", wildcards.model),
    script:
        "../scripts/probe_heads.py"


rule score_heads:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
        probes="<results>/probes/{model}.h5",
    output:
        heads="<results>/heads/{model}/{dataset}.parquet",
        by_trace="<results>/heads/{model}/{dataset}.by_trace.parquet",
        lists="<results>/tables/{model}/{dataset}/head_lists.csv",
    log:
        "<logs>/heads/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/heads/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "heads", wildcards.model, wildcards.dataset),
    script:
        "../scripts/score_heads.py"


rule tabulate_attention_quality:
    input:
        by_trace=expand(
            "<results>/heads/{model}/{dataset}.by_trace.parquet",
            model=STUDY.weighted_models,
            dataset=STUDY.graded_datasets,
        ),
        grades=expand(
            "<results>/grades/{model}/{dataset}.parquet", model=STUDY.weighted_models, dataset=STUDY.graded_datasets
        ),
    output:
        table=report(
            "<results>/tables/attention_by_correctness.csv",
            caption="../report/attention_by_correctness.rst",
            category="2 Attention",
            subcategory="Whole study",
            labels={"result": "attention by correctness (table)"},
        ),
    log:
        "<logs>/tables/attention_by_correctness.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "attention_quality"),
    script:
        "../scripts/tabulate_attention_quality.py"

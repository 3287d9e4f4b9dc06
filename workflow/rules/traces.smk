rule generate_traces:
    input:
        dataset="<results>/datasets/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
        checked=lambda wildcards: (
            ["<results>/model_checks/{model}.json"] if wildcards.model in STUDY.weighted_models else []
        ),
    output:
        traces="<results>/traces/{model}/{dataset}.parquet",
    log:
        "<logs>/traces/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/traces/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    threads: lambda wildcards: STUDY.models[wildcards.model].threads
    resources:
        gpu=lambda wildcards: STUDY.models[wildcards.model].gpus,
        gpus_needed=lambda wildcards: STUDY.models[wildcards.model].gpus,  # gpu is clipped to Snakemake's limit
        mem_mb=lambda wildcards, attempt: STUDY.models[wildcards.model].memory_mb * attempt,
        runtime=lambda wildcards: STUDY.models[wildcards.model].runtime_minutes,
        gpu_memory_percent=STUDY.generation.gpu_memory_percent,
        cpu_cache_mb=STUDY.generation.cpu_cache_mb,
        base_url=lambda wildcards: STUDY.endpoint_resources(wildcards.model)["base_url"],
        api_key_variable=lambda wildcards: STUDY.endpoint_resources(wildcards.model)["api_key_variable"],
        max_concurrency=lambda wildcards: STUDY.endpoint_resources(wildcards.model)["max_concurrency"],
        timeout_seconds=lambda wildcards: STUDY.endpoint_resources(wildcards.model)["timeout_seconds"],
    params:
        settings=lambda wildcards: stage_settings(STUDY, "traces", wildcards.model, wildcards.dataset),
    script:
        "../scripts/generate_traces.py"

rule capture_attention:
    input:
        traces="<results>/traces/{model}/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        attention="<results>/attention/{model}/{dataset}.h5",
    log:
        "<logs>/attention/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/attention/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    threads: lambda wildcards: STUDY.models[wildcards.model].threads
    resources:
        gpu=lambda wildcards: STUDY.models[wildcards.model].gpus,
        gpus_needed=lambda wildcards: STUDY.models[wildcards.model].gpus,  # gpu is clipped to Snakemake's limit
        mem_mb=lambda wildcards, attempt: STUDY.models[wildcards.model].memory_mb * attempt,
        runtime=lambda wildcards: STUDY.models[wildcards.model].runtime_minutes,
        batch_tokens=STUDY.attention.batch_tokens,
    params:
        settings=lambda wildcards: stage_settings(STUDY, "attention", wildcards.model, wildcards.dataset),
    script:
        "../scripts/capture_attention.py"


rule capture_rows:
    input:
        traces="<results>/traces/{model}/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        rows="<results>/attention_rows/{model}/{dataset}.h5",
    log:
        "<logs>/attention_rows/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/attention_rows/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    threads: lambda wildcards: STUDY.models[wildcards.model].threads
    resources:
        gpu=lambda wildcards: STUDY.models[wildcards.model].gpus,
        gpus_needed=lambda wildcards: STUDY.models[wildcards.model].gpus,  # gpu is clipped to Snakemake's limit
        mem_mb=lambda wildcards, attempt: STUDY.models[wildcards.model].memory_mb * attempt,
        runtime=lambda wildcards: STUDY.models[wildcards.model].runtime_minutes,
    params:
        settings=lambda wildcards: stage_settings(STUDY, "attention_rows", wildcards.model, wildcards.dataset),
    script:
        "../scripts/capture_rows.py"

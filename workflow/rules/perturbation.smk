rule perturb_reasoning:
    input:
        traces="<results>/traces/{model}/{dataset}.parquet",
        grades="<results>/grades/{model}/{dataset}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        prompts="<results>/perturbation/{model}/{dataset}.prompts.parquet",
        answers="<results>/perturbation/{model}/{dataset}.parquet",
    log:
        "<logs>/perturbation/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/perturbation/{model}/{dataset}.tsv"
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
        settings=lambda wildcards: stage_settings(STUDY, "perturbation", wildcards.model, wildcards.dataset),
    script:
        "../scripts/perturb_reasoning.py"


rule grade_perturbation:
    input:
        answers="<results>/perturbation/{model}/{dataset}.parquet",
        prompts="<results>/perturbation/{model}/{dataset}.prompts.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        grades="<results>/perturbation/{model}/{dataset}.grades.parquet",
    log:
        "<logs>/perturbation/{model}/{dataset}.grades.log",
    benchmark:
        "<benchmarks>/perturbation/{model}/{dataset}.grades.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "grades", wildcards.model, wildcards.dataset),
    script:
        "../scripts/grade_perturbation.py"


rule tabulate_perturbation:
    input:
        prompts="<results>/perturbation/{model}/{dataset}.prompts.parquet",
        grades="<results>/perturbation/{model}/{dataset}.grades.parquet",
    output:
        table="<results>/tables/{model}/{dataset}/perturbation.csv",
        comparisons="<results>/tables/{model}/{dataset}/perturbation_comparisons.csv",
        funnel="<results>/tables/{model}/{dataset}/perturbation_funnel.csv",
    log:
        "<logs>/tables/{model}/{dataset}/perturbation.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "evaluation", wildcards.model, wildcards.dataset),
    script:
        "../scripts/tabulate_perturbation.py"

rule ablate_heads:
    input:
        traces="<results>/traces/{model}/{dataset}.parquet",
        heads="<results>/heads/{model}/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        answers="<results>/ablated_answers/{model}/{dataset}.parquet",
    log:
        "<logs>/ablated_answers/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/ablated_answers/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    threads: lambda wildcards: STUDY.models[wildcards.model].threads
    resources:
        gpu=lambda wildcards: STUDY.models[wildcards.model].gpus,
        gpus_needed=lambda wildcards: STUDY.models[wildcards.model].gpus,  # gpu is clipped to Snakemake's limit
        mem_mb=lambda wildcards, attempt: STUDY.models[wildcards.model].memory_mb * attempt,
        runtime=lambda wildcards: STUDY.models[wildcards.model].runtime_minutes,
        batch_tokens=STUDY.ablation.batch_tokens,
    params:
        settings=lambda wildcards: stage_settings(STUDY, "ablation", wildcards.model, wildcards.dataset),
    script:
        "../scripts/ablate_heads.py"


rule judge_ablation:
    input:
        answers="<results>/ablated_answers/{model}/{dataset}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        graded="<results>/ablation/{model}/{dataset}.parquet",
        effect=report(
            "<results>/tables/{model}/{dataset}/ablation.csv",
            caption="../report/ablation_effect.rst",
            category="2 Attention",
            subcategory="{model}, {dataset}",
            labels={"result": "ablation (table)"},
        ),
    log:
        "<logs>/ablation/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/ablation/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "ablation_effect", wildcards.model, wildcards.dataset),
    script:
        "../scripts/judge_ablation.py"

rule resolve_judge:
    input:
        source=lambda wildcards: STUDY.source_files(STUDY.judges[wildcards.judge]),
    output:
        manifest="<results>/judges/{judge}.json",
    log:
        "<logs>/judges/{judge}.log",
    benchmark:
        "<benchmarks>/judges/{judge}.tsv"
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "judges", judge=wildcards.judge),
    script:
        "../scripts/resolve_judge.py"


rule judge_answers:
    input:
        traces=expand("<results>/traces/{model}/{{dataset}}.parquet", model=STUDY.models),
        dataset="<results>/datasets/{dataset}.parquet",
        template="resources/judging/checklist.md",
        manifest="<results>/judges/{judge}.json",
    output:
        judgements="<results>/judgements/{judge}/{dataset}.parquet",
    log:
        "<logs>/judgements/{judge}/{dataset}.log",
    benchmark:
        "<benchmarks>/judgements/{judge}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    threads: lambda wildcards: STUDY.judges[wildcards.judge].threads
    resources:
        gpu=lambda wildcards: STUDY.judges[wildcards.judge].gpus,
        gpus_needed=lambda wildcards: STUDY.judges[wildcards.judge].gpus,  # gpu is clipped to Snakemake's limit
        mem_mb=lambda wildcards, attempt: STUDY.judges[wildcards.judge].memory_mb * attempt,
        runtime=lambda wildcards: STUDY.judges[wildcards.judge].runtime_minutes,
        gpu_memory_percent=STUDY.generation.gpu_memory_percent,
        cpu_cache_mb=STUDY.generation.cpu_cache_mb,
        base_url=lambda wildcards: STUDY.judge_resources(wildcards.judge)["base_url"],
        api_key_variable=lambda wildcards: STUDY.judge_resources(wildcards.judge)["api_key_variable"],
        max_concurrency=lambda wildcards: STUDY.judge_resources(wildcards.judge)["max_concurrency"],
        timeout_seconds=lambda wildcards: STUDY.judge_resources(wildcards.judge)["timeout_seconds"],
        replies=lambda wildcards: STUDY.judge_resources(wildcards.judge)["replies"],
    params:
        settings=lambda wildcards: stage_settings(STUDY, "judgements", dataset=wildcards.dataset, judge=wildcards.judge),
    script:
        "../scripts/judge_answers.py"


rule tabulate_judgements:
    input:
        judgements=expand(
            "<results>/judgements/{judge}/{dataset}.parquet", judge=STUDY.judges, dataset=STUDY.judged_datasets
        ),
    output:
        scores="<results>/tables/judge_scores.csv",
        effect=report(
            "<results>/tables/judge_effect.csv",
            caption="../report/judge_effect.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "judge effect (table)"},
        ),
        agreement=report(
            "<results>/tables/judge_agreement.csv",
            caption="../report/judge_agreement.rst",
            category="4 Checks",
            subcategory="Whole study",
            labels={"result": "judge agreement (table)"},
        ),
    log:
        "<logs>/tables/judgements.log",
    benchmark:
        "<benchmarks>/tables/judgements.tsv"
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "judge_tables"),
    script:
        "../scripts/tabulate_judgements.py"


# Not part of any study: makes what ships as resources/models/tiny-judge again.
rule write_tiny_judge:
    input:
        recipe="config/tiny_models.yaml",
        template="resources/judging/checklist.md",
    output:
        judge=directory("results/tiny_training/tiny-judge"),
    log:
        "results/tiny_training/logs/tiny-judge.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    script:
        "../scripts/write_tiny_judge.py"

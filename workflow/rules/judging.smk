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
        ENVIRONMENT
    params:
        settings=settings("judges"),
    script:
        "../scripts/resolve_judge.py"


rule judge_answers:
    input:
        traces=written("traces", datasets="{dataset}"),
        dataset="<results>/datasets/{dataset}.parquet",
        template=located("resources/judging/checklist.md"),
        manifest="<results>/judges/{judge}.json",
    output:
        judgements="<results>/judgements/{judge}/{dataset}.parquet",
    log:
        "<logs>/judgements/{judge}/{dataset}.log",
    benchmark:
        "<benchmarks>/judgements/{judge}/{dataset}.tsv"
    priority: LAST
    conda:
        ENVIRONMENT
    threads: threads_of("judge")
    resources:
        **ON_JUDGE,
        **IN_ENGINE,
        replies=lambda wildcards: STUDY.judge_resources(wildcards.judge)["replies"],
    params:
        settings=settings("judgements"),
    script:
        "../scripts/judge_answers.py"


rule tabulate_judgements:
    input:
        judgements=expand(
            "<results>/judgements/{judge}/{dataset}.parquet", judge=STUDY.judges, dataset=STUDY.judged_datasets
        ),
    output:
        scores="<results>/tables/judge_scores.csv",
        effect=table_in_report("<results>/tables/judge_effect.csv", "1 Answers", "judge effect"),
        agreement=table_in_report("<results>/tables/judge_agreement.csv", "4 Checks", "judge agreement"),
    log:
        "<logs>/tables/judgements.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("judge_tables"),
    script:
        "../scripts/tabulate_judgements.py"


# Not part of any study: regenerates resources/models/tiny-judge.
rule write_tiny_judge:
    input:
        recipe="config/tiny_models.yaml",
        template="resources/judging/checklist.md",
    output:
        judge=directory("results/tiny_training/tiny-judge"),
    log:
        "results/tiny_training/logs/tiny-judge.log",
    conda:
        ENVIRONMENT
    script:
        "../scripts/write_tiny_judge.py"

rule put_hints:
    input:
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        hints="<results>/hints/{dataset}.parquet",
    log:
        "<logs>/hints/{dataset}.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("hints"),
    script:
        "../scripts/put_hints.py"


rule answer_hinted:
    input:
        hints="<results>/hints/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        answers="<results>/hints/{model}/{dataset}.parquet",
    log:
        "<logs>/hints/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/hints/{model}/{dataset}.tsv"
    priority: LAST
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        **IN_ENGINE,
    params:
        settings=settings("hinted_answers", condition="with_reasoning"),
    script:
        "../scripts/answer_hinted.py"


rule grade_hints:
    input:
        answers="<results>/hints/{model}/{dataset}.parquet",
        hints="<results>/hints/{dataset}.parquet",
        traces=reasoned("traces", "hints"),
        grades=reasoned("grades", "hints"),
    output:
        grades="<results>/hints/{model}/{dataset}.grades.parquet",
    log:
        "<logs>/hints/{model}/{dataset}.grades.log",
    benchmark:
        "<benchmarks>/hints/{model}/{dataset}.grades.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=settings("hint_grades"),
    script:
        "../scripts/grade_hints.py"


rule judge_hints:
    input:
        grades=expand(
            "<results>/hints/{model}/{dataset}.grades.parquet", model=STUDY.weighted_models, allow_missing=True
        ),
        hints="<results>/hints/{dataset}.parquet",
        template=located("resources/judging/hint.md"),
        manifest="<results>/judges/{judge}.json",
    output:
        judged="<results>/judgements/{judge}/{dataset}.hints.parquet",
    log:
        "<logs>/judgements/{judge}/{dataset}.hints.log",
    benchmark:
        "<benchmarks>/judgements/{judge}/{dataset}.hints.tsv"
    priority: LAST
    conda:
        ENVIRONMENT
    threads: threads_of("judge")
    resources:
        **ON_JUDGE,
        **IN_ENGINE,
        replies=lambda wildcards: STUDY.judge_resources(wildcards.judge)["replies"],
    params:
        settings=settings("hint_judgements"),
    script:
        "../scripts/judge_hints.py"


rule tabulate_hints:
    input:
        grades="<results>/hints/{model}/{dataset}.grades.parquet",
        judged=expand(
            "<results>/judgements/{judge}/{dataset}.hints.parquet", judge=[*STUDY.judges][:1], allow_missing=True
        ),
    output:
        table="<results>/tables/{model}/{dataset}/hints.csv",
    log:
        "<logs>/tables/{model}/{dataset}/hints.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("hint_tables"),
    script:
        "../scripts/tabulate_hints.py"

rule grade_traces:
    input:
        traces="<results>/traces/{model}/{dataset}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        grades="<results>/grades/{model}/{dataset}.parquet",
    log:
        "<logs>/grades/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/grades/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("grades", wildcards.model, wildcards.dataset),
    script:
        "../scripts/grade_traces.py"


rule tabulate_evaluation:
    input:
        traces=expand("<results>/traces/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.datasets),
        grades=expand("<results>/grades/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.graded_datasets),
        datasets=expand("<results>/datasets/{dataset}.parquet", dataset=STUDY.graded_datasets),
    output:
        funnel="<results>/tables/funnel.csv",
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
    log:
        "<logs>/tables/evaluation.log",
    benchmark:
        "<benchmarks>/tables/evaluation.tsv"
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("evaluation"),
    script:
        "../scripts/tabulate_evaluation.py"


rule tabulate_disagreements:
    input:
        grades=expand("<results>/grades/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.graded_datasets),
        datasets=expand("<results>/datasets/{dataset}.parquet", dataset=STUDY.graded_datasets),
    output:
        disagreements="<results>/tables/grader_disagreements.csv",
    log:
        "<logs>/tables/grader_disagreements.log",
    benchmark:
        "<benchmarks>/tables/grader_disagreements.tsv"
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("disagreements"),
    script:
        "../scripts/tabulate_disagreements.py"

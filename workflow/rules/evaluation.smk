rule grade_traces:
    input:
        traces="<results>/traces/{model}/{dataset}/{condition}.{decoding}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        grades="<results>/grades/{model}/{dataset}/{condition}.{decoding}.parquet",
    log:
        "<logs>/grades/{model}/{dataset}/{condition}.{decoding}.log",
    benchmark:
        "<benchmarks>/grades/{model}/{dataset}/{condition}.{decoding}.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=settings("grades"),
    script:
        "../scripts/grade_traces.py"


rule tabulate_evaluation:
    input:
        traces=written("traces"),
        grades=written("grades", datasets=STUDY.graded_datasets),
        datasets=expand("<results>/datasets/{dataset}.parquet", dataset=STUDY.graded_datasets),
    output:
        funnel="<results>/tables/funnel.csv",
        accuracy="<results>/tables/accuracy.csv",
        effect=table_in_report("<results>/tables/effect.csv", "1 Answers", "effect"),
        budgets="<results>/tables/budgets.csv",
        problems=table_in_report("<results>/tables/problems.csv", "1 Answers", "problems"),
        decodings="<results>/tables/decodings.csv",
        variants="<results>/tables/variants.csv",
    log:
        "<logs>/tables/evaluation.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("evaluation"),
    script:
        "../scripts/tabulate_evaluation.py"


rule tabulate_models:
    input:
        manifests=expand("<results>/models/{model}.json", model=STUDY.models),
        effect="<results>/tables/effect.csv",
        attention=measured("<results>/attention/{model}/{dataset}.h5"),
        hand_off=each("<results>/tables/{model}/{dataset}/hand_off.csv", STUDY.patched_models, STUDY.pair_datasets),
        mediation=each("<results>/tables/{model}/{dataset}/mediation.csv", STUDY.patched_models, STUDY.pair_datasets),
    output:
        table=table_in_report("<results>/tables/models.csv", "1 Answers", "across models"),
        trends="<results>/tables/model_trends.csv",
    log:
        "<logs>/tables/models.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("across_models"),
    script:
        "../scripts/tabulate_models.py"


rule tabulate_disagreements:
    input:
        grades=written("grades", datasets=STUDY.graded_datasets),
        datasets=expand("<results>/datasets/{dataset}.parquet", dataset=STUDY.graded_datasets),
    output:
        disagreements=table_in_report("<results>/tables/grader_disagreements.csv", "4 Checks", "grader disagreements"),
    log:
        "<logs>/tables/grader_disagreements.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("disagreements"),
    script:
        "../scripts/tabulate_disagreements.py"

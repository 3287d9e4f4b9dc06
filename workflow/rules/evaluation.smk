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
        effect=report(
            "<results>/tables/effect.csv",
            caption="../report/effect.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "effect (table)"},
        ),
        budgets="<results>/tables/budgets.csv",
        problems=report(
            "<results>/tables/problems.csv",
            caption="../report/problems.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "problems (table)"},
        ),
        decodings="<results>/tables/decodings.csv",
        variants="<results>/tables/variants.csv",
    log:
        "<logs>/tables/evaluation.log",
    benchmark:
        "<benchmarks>/tables/evaluation.tsv"
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
        table=report(
            "<results>/tables/models.csv",
            caption="../report/models.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "across models (table)"},
        ),
        trends="<results>/tables/model_trends.csv",
    log:
        "<logs>/tables/models.log",
    benchmark:
        "<benchmarks>/tables/models.tsv"
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
        disagreements=report(
            "<results>/tables/grader_disagreements.csv",
            caption="../report/grader_disagreements.rst",
            category="4 Checks",
            subcategory="Whole study",
            labels={"result": "grader disagreements (table)"},
        ),
    log:
        "<logs>/tables/grader_disagreements.log",
    benchmark:
        "<benchmarks>/tables/grader_disagreements.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("disagreements"),
    script:
        "../scripts/tabulate_disagreements.py"

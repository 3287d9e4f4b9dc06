rule ablate_heads:
    input:
        traces=reasoned("traces", "ablation"),
        ranks="<results>/head_ranks/{model}/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
        check="<results>/model_checks/{model}.json",
    output:
        answers="<results>/ablated_answers/{model}/{dataset}.parquet",
    log:
        "<logs>/ablated_answers/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/ablated_answers/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        batch_tokens=STUDY.ablation.batch_tokens,
    params:
        settings=settings("ablation"),
    script:
        "../scripts/ablate_heads.py"


rule grade_ablation:
    input:
        answers="<results>/ablated_answers/{model}/{dataset}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        graded="<results>/ablation/{model}/{dataset}.parquet",
    log:
        "<logs>/ablation/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/ablation/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=settings("first_grades"),
    script:
        "../scripts/grade_ablation.py"


rule tabulate_ablation:
    input:
        graded="<results>/ablation/{model}/{dataset}.parquet",
    output:
        effect=table_in_report("<results>/tables/{model}/{dataset}/ablation.csv", "2 Attention", "ablation"),
    log:
        "<logs>/tables/{model}/{dataset}/ablation.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("ablation_tables"),
    script:
        "../scripts/tabulate_ablation.py"

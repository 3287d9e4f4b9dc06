rule diagnose_heads:
    input:
        manifest="<results>/models/{model}.json",
        check="<results>/model_checks/{model}.json",
        haystack=STUDY.diagnostics.haystack,
    output:
        diagnostics="<results>/diagnostics/{model}.h5",
    log:
        "<logs>/diagnostics/{model}.log",
    benchmark:
        "<benchmarks>/diagnostics/{model}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
    params:
        settings=settings("diagnostics"),
    script:
        "../scripts/diagnose_heads.py"


rule score_heads:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
        diagnostics="<results>/diagnostics/{model}.h5",
    output:
        heads="<results>/heads/{model}/{dataset}.parquet",
        by_trace="<results>/heads/{model}/{dataset}.by_trace.parquet",
        lists="<results>/tables/{model}/{dataset}/head_lists.csv",
    log:
        "<logs>/heads/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/heads/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=settings("heads"),
    script:
        "../scripts/score_heads.py"


rule tabulate_attention_quality:
    input:
        by_trace=measured("<results>/heads/{model}/{dataset}.by_trace.parquet", STUDY.graded_datasets),
        grades=measured(reasoned("grades", "attention"), STUDY.graded_datasets),
    output:
        table=table_in_report(
            "<results>/tables/attention_by_correctness.csv", "2 Attention", "attention by correctness"
        ),
    log:
        "<logs>/tables/attention_by_correctness.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("attention_quality"),
    script:
        "../scripts/tabulate_attention_quality.py"

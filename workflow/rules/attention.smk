rule capture_attention:
    input:
        traces=both("traces", "attention"),
        manifest="<results>/models/{model}.json",
        check="<results>/model_checks/{model}.json",
    output:
        attention="<results>/attention/{model}/{dataset}.h5",
    log:
        "<logs>/attention/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/attention/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        batch_tokens=STUDY.attention.batch_tokens,
    params:
        settings=settings("attention"),
    script:
        "../scripts/capture_attention.py"


rule order_heads:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
    output:
        ranks="<results>/head_ranks/{model}/{dataset}.parquet",
    log:
        "<logs>/head_ranks/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/head_ranks/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=settings("head_ranks"),
    script:
        "../scripts/order_heads.py"


rule capture_rows:
    input:
        traces=reasoned("traces", "attention"),
        manifest="<results>/models/{model}.json",
        ranks="<results>/head_ranks/{model}/{dataset}.parquet",
    output:
        rows="<results>/attention_rows/{model}/{dataset}.h5",
    log:
        "<logs>/attention_rows/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/attention_rows/{model}/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
    params:
        settings=settings("attention_rows"),
    script:
        "../scripts/capture_rows.py"

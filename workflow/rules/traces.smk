rule generate_traces:
    input:
        dataset="<results>/datasets/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
        # that every stage works on the model is found out first. Not ancient: Snakemake 9.27 would overlook what else
        # has changed for the jobs behind an ancient file that is made again
        checked=lambda wildcards: (
            ["<results>/model_checks/{model}.json"] if wildcards.model in STUDY.weighted_models else []
        ),
    output:
        traces="<results>/traces/{model}/{dataset}/{condition}.{decoding}.parquet",
    log:
        "<logs>/traces/{model}/{dataset}/{condition}.{decoding}.log",
    benchmark:
        "<benchmarks>/traces/{model}/{dataset}/{condition}.{decoding}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        **IN_ENGINE,
    params:
        settings=settings("traces"),
    script:
        "../scripts/generate_traces.py"

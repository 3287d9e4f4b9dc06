rule score_heads:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
    output:
        heads="<results>/heads/{model}/{dataset}.parquet",
    log:
        "<logs>/heads/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/heads/{model}/{dataset}.tsv"
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("heads", wildcards.model, wildcards.dataset),
    script:
        "../scripts/score_heads.py"

rule load_dataset:
    input:
        source=lambda wildcards: STUDY.source_files(STUDY.datasets[wildcards.dataset]),
    output:
        dataset="<results>/datasets/{dataset}.parquet",
    log:
        "<logs>/datasets/{dataset}.log",
    benchmark:
        "<benchmarks>/datasets/{dataset}.tsv"
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("datasets", dataset=wildcards.dataset),
    script:
        "../scripts/load_dataset.py"

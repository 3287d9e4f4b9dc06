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
        ENVIRONMENT
    params:
        settings=settings("datasets"),
    script:
        "../scripts/load_dataset.py"


# Not part of any study: regenerates the comparison pairs under resources/datasets from facts.
rule write_comparisons:
    input:
        questions="resources/comparisons/questions.csv",
        facts=sorted(str(path) for path in Path("resources/comparisons").glob("*.csv")),
    output:
        comparisons="results/comparisons/everyday_comparisons.csv",
    log:
        "results/comparisons/logs/everyday_comparisons.log",
    conda:
        ENVIRONMENT
    script:
        "../scripts/write_comparisons.py"

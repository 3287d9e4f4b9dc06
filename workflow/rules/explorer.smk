rule write_explorer:
    input:
        datasets=expand("<results>/datasets/{dataset}.parquet", dataset=STUDY.datasets),
        manifests=expand("<results>/models/{model}.json", model=STUDY.models),
        traces=expand("<results>/traces/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.datasets),
        grades=expand("<results>/grades/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.graded_datasets),
        attention=expand(
            "<results>/attention/{model}/{dataset}.h5", model=STUDY.weighted_models, dataset=STUDY.datasets
        ),
        rows=expand(
            "<results>/attention_rows/{model}/{dataset}.h5", model=STUDY.weighted_models, dataset=STUDY.datasets
        ),
        heads=expand("<results>/heads/{model}/{dataset}.parquet", model=STUDY.weighted_models, dataset=STUDY.datasets),
        pairs=expand(
            "<results>/pairs/{model}/{dataset}.parquet", model=STUDY.patched_models, dataset=STUDY.pair_datasets
        ),
        patching=expand(
            "<results>/patching/{model}/{dataset}.h5", model=STUDY.patched_models, dataset=STUDY.pair_datasets
        ),
    output:
        index="<results>/explorer/index.html",
        data=directory("<results>/explorer/data"),
    log:
        "<logs>/explorer.log",
    benchmark:
        "<benchmarks>/explorer.tsv"
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "explorer"),
    script:
        "../scripts/write_explorer.py"

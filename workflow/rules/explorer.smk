# what sentences written anew bring about, where they are
REWRITTEN = (
    {
        "importance": each(
            "<results>/tables/{model}/{dataset}/resampling.csv", STUDY.parsed_models, STUDY.resampled_datasets
        ),
        "rollouts": each(
            "<results>/resampling/{model}/{dataset}.compared.parquet", STUDY.parsed_models, STUDY.resampled_datasets
        ),
    }
    if STUDY.resampled_datasets
    else {}
)


rule write_explorer:
    input:
        **REWRITTEN,
        datasets=expand("<results>/datasets/{dataset}.parquet", dataset=STUDY.datasets),
        manifests=expand("<results>/models/{model}.json", model=STUDY.models),
        traces=each(both("traces", "explorer")),
        grades=each(both("grades", "explorer"), datasets=STUDY.graded_datasets),
        attention=measured("<results>/attention/{model}/{dataset}.h5"),
        rows=measured("<results>/attention_rows/{model}/{dataset}.h5"),
        heads=measured("<results>/heads/{model}/{dataset}.parquet"),
        sentences=each("<results>/sentences/{model}/{dataset}.h5", STUDY.parsed_models, STUDY.graded_datasets),
        pairs=each("<results>/pairs/{model}/{dataset}.parquet", STUDY.patched_models, STUDY.pair_datasets),
        patching=each("<results>/patching/{model}/{dataset}.h5", STUDY.patched_models, STUDY.pair_datasets),
    output:
        index="<results>/explorer/index.html",
        data=directory("<results>/explorer/data"),
    log:
        "<logs>/explorer.log",
    benchmark:
        "<benchmarks>/explorer.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("explorer"),
    script:
        "../scripts/write_explorer.py"

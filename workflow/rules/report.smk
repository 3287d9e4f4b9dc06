rule write_summary:
    input:
        accuracy_figure="<results>/figures/accuracy.png",
        funnel="<results>/tables/funnel.csv",
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
        disagreements="<results>/tables/grader_disagreements.csv",
        attention=expand(
            "<results>/attention/{model}/{dataset}.h5", model=STUDY.weighted_models, dataset=STUDY.datasets
        ),
        heads=expand("<results>/heads/{model}/{dataset}.parquet", model=STUDY.weighted_models, dataset=STUDY.datasets),
        head_figures=expand(
            "<results>/figures/{model}/{dataset}/{figure}.png",
            model=STUDY.weighted_models,
            dataset=STUDY.datasets,
            figure=["decomposition", "head_map", "patterns", "tracking"],
        ),
        pairs=expand(
            "<results>/pairs/{model}/{dataset}.parquet", model=STUDY.weighted_models, dataset=STUDY.pair_datasets
        ),
        patching=expand(
            "<results>/patching/{model}/{dataset}.h5", model=STUDY.weighted_models, dataset=STUDY.pair_datasets
        ),
        curves=expand(
            "<results>/tables/{model}/{dataset}/patching_curves.csv",
            model=STUDY.weighted_models,
            dataset=STUDY.pair_datasets,
        ),
        controls=expand(
            "<results>/tables/{model}/{dataset}/patching_controls.csv",
            model=STUDY.weighted_models,
            dataset=STUDY.pair_datasets,
        ),
        hand_off=expand(
            "<results>/tables/{model}/{dataset}/hand_off.csv", model=STUDY.weighted_models, dataset=STUDY.pair_datasets
        ),
        patching_figures=expand(
            "<results>/figures/{model}/{dataset}/{figure}.png",
            model=STUDY.weighted_models,
            dataset=STUDY.pair_datasets,
            figure=["patching_case", "patching_curves"],
        ),
    output:
        summary="<results>/summary.md",
        findings="<results>/summary.txt",
    log:
        "<logs>/summary.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("summary"),
    script:
        "../scripts/write_summary.py"

rule plot_accuracy:
    input:
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
    output:
        multiext("<results>/figures/accuracy", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/accuracy.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_accuracy.py"


rule plot_decomposition:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        multiext("<results>/figures/{model}/{dataset}/decomposition", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/decomposition.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_decomposition.py"


rule plot_head_map:
    input:
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        multiext("<results>/figures/{model}/{dataset}/head_map", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/head_map.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_head_map.py"


rule plot_patching_case:
    input:
        patching="<results>/patching/{model}/{dataset}.h5",
        pairs="<results>/pairs/{model}/{dataset}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        multiext("<results>/figures/{model}/{dataset}/patching_case", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/patching_case.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_case.py"


rule plot_patching_curves:
    input:
        curves="<results>/tables/{model}/{dataset}/patching_curves.csv",
        controls="<results>/tables/{model}/{dataset}/patching_controls.csv",
        hand_off="<results>/tables/{model}/{dataset}/hand_off.csv",
    output:
        multiext("<results>/figures/{model}/{dataset}/patching_curves", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/patching_curves.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_curves.py"


rule plot_patterns:
    input:
        rows="<results>/attention_rows/{model}/{dataset}.h5",
    output:
        multiext("<results>/figures/{model}/{dataset}/patterns", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/patterns.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patterns.py"


rule plot_tracking:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
        rows="<results>/attention_rows/{model}/{dataset}.h5",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        multiext("<results>/figures/{model}/{dataset}/tracking", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/tracking.log",
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_tracking.py"

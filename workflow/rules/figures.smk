rule plot_accuracy:
    input:
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
    output:
        multiext("<results>/figures/accuracy", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/accuracy.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_accuracy.py"


rule plot_areas:
    input:
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
    output:
        multiext("<results>/figures/areas", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/areas.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_areas.py"


rule plot_beside_paper:
    input:
        effect="<results>/tables/effect.csv",
        funnel="<results>/tables/funnel.csv",
        paper=PAPER_NUMBERS,
    output:
        multiext("<results>/figures/beside_paper", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/beside_paper.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_beside_paper.py"


rule plot_budgets:
    input:
        budgets="<results>/tables/budgets.csv",
    output:
        multiext("<results>/figures/budgets", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/budgets.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_budgets.py"


rule plot_changes:
    input:
        changes="<results>/tables/{change}.csv",
    output:
        multiext("<results>/figures/{change}", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{change}.log",
    wildcard_constraints:
        change="decodings|variants",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_changes.py"


rule plot_disagreements:
    input:
        grades=expand("<results>/grades/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.graded_datasets),
    output:
        multiext("<results>/figures/disagreements", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/disagreements.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_disagreements.py"


rule plot_funnel:
    input:
        funnel="<results>/tables/funnel.csv",
    output:
        multiext("<results>/figures/funnel", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/funnel.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=STUDY.stage("figures"),
    script:
        "../scripts/plot_funnel.py"


rule plot_decomposition:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        multiext("<results>/figures/{model}/{dataset}/decomposition", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/decomposition.log",
    localrule: True
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
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_head_map.py"


rule plot_head_atlas:
    input:
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        multiext("<results>/figures/{model}/{dataset}/head_atlas", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/head_atlas.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_head_atlas.py"


rule plot_patching_case:
    input:
        patching="<results>/patching/{model}/{dataset}.h5",
        pairs="<results>/pairs/{model}/{dataset}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        multiext("<results>/figures/{model}/{dataset}/patching_case", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/patching_case.log",
    localrule: True
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
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_curves.py"


rule plot_patching_components:
    input:
        curves="<results>/tables/{model}/{dataset}/patching_curves.csv",
    output:
        multiext("<results>/figures/{model}/{dataset}/patching_components", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/patching_components.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_components.py"


rule plot_patching_ranges:
    input:
        ranges="<results>/tables/{model}/{dataset}/patching_ranges.csv",
    output:
        multiext("<results>/figures/{model}/{dataset}/patching_ranges", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/patching_ranges.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_ranges.py"


rule plot_carriers:
    input:
        carriers="<results>/tables/{model}/{dataset}/carriers.csv",
        agreement="<results>/tables/{model}/{dataset}/carriers_agreement.csv",
    output:
        multiext("<results>/figures/{model}/{dataset}/carriers", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/carriers.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_carriers.py"


rule plot_patterns:
    input:
        rows="<results>/attention_rows/{model}/{dataset}.h5",
    output:
        multiext("<results>/figures/{model}/{dataset}/patterns", svg=".svg", png=".png", table=".csv"),
    log:
        "<logs>/figures/{model}/{dataset}/patterns.log",
    localrule: True
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
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: STUDY.stage("figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_tracking.py"

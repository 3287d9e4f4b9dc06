rule plot_accuracy:
    input:
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
    output:
        svg="<results>/figures/accuracy.svg",
        png=report(
            "<results>/figures/accuracy.png",
            caption="../report/accuracy.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "accuracy"},
        ),
        table="<results>/figures/accuracy.csv",
    log:
        "<logs>/figures/accuracy.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "figures"),
    script:
        "../scripts/plot_accuracy.py"


rule plot_areas:
    input:
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
    output:
        svg="<results>/figures/areas.svg",
        png=report(
            "<results>/figures/areas.png",
            caption="../report/areas.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "areas"},
        ),
        table="<results>/figures/areas.csv",
    log:
        "<logs>/figures/areas.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "figures"),
    script:
        "../scripts/plot_areas.py"


rule plot_beside_paper:
    input:
        effect="<results>/tables/effect.csv",
        funnel="<results>/tables/funnel.csv",
        paper=PAPER_NUMBERS,
    output:
        svg="<results>/figures/beside_paper.svg",
        png=report(
            "<results>/figures/beside_paper.png",
            caption="../report/beside_paper.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "beside paper"},
        ),
        table="<results>/figures/beside_paper.csv",
    log:
        "<logs>/figures/beside_paper.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "figures"),
    script:
        "../scripts/plot_beside_paper.py"


rule plot_budgets:
    input:
        budgets="<results>/tables/budgets.csv",
    output:
        svg="<results>/figures/budgets.svg",
        png=report(
            "<results>/figures/budgets.png",
            caption="../report/budgets.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "budgets"},
        ),
        table="<results>/figures/budgets.csv",
    log:
        "<logs>/figures/budgets.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "figures"),
    script:
        "../scripts/plot_budgets.py"


rule plot_changes:
    input:
        changes="<results>/tables/{change}.csv",
    output:
        svg="<results>/figures/{change}.svg",
        png=report(
            "<results>/figures/{change}.png",
            caption="../report/changes.rst",
            category="1 Answers",
            subcategory="Whole study",
            labels={"result": "{change}"},
        ),
        table="<results>/figures/{change}.csv",
    log:
        "<logs>/figures/{change}.log",
    wildcard_constraints:
        change="decodings|variants",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "figures"),
    script:
        "../scripts/plot_changes.py"


rule plot_disagreements:
    input:
        grades=expand("<results>/grades/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.graded_datasets),
    output:
        svg="<results>/figures/disagreements.svg",
        png=report(
            "<results>/figures/disagreements.png",
            caption="../report/disagreements.rst",
            category="4 Checks",
            subcategory="Whole study",
            labels={"result": "disagreements"},
        ),
        table="<results>/figures/disagreements.csv",
    log:
        "<logs>/figures/disagreements.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "figures"),
    script:
        "../scripts/plot_disagreements.py"


rule plot_funnel:
    input:
        funnel="<results>/tables/funnel.csv",
    output:
        svg="<results>/figures/funnel.svg",
        png=report(
            "<results>/figures/funnel.png",
            caption="../report/funnel.rst",
            category="4 Checks",
            subcategory="Whole study",
            labels={"result": "funnel"},
        ),
        table="<results>/figures/funnel.csv",
    log:
        "<logs>/figures/funnel.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "figures"),
    script:
        "../scripts/plot_funnel.py"


rule plot_decomposition:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        svg="<results>/figures/{model}/{dataset}/decomposition.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/decomposition.png",
            caption="../report/decomposition.rst",
            category="2 Attention",
            subcategory="{model}, {dataset}",
            labels={"result": "decomposition"},
        ),
        table="<results>/figures/{model}/{dataset}/decomposition.csv",
    log:
        "<logs>/figures/{model}/{dataset}/decomposition.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_decomposition.py"


rule plot_head_map:
    input:
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        svg="<results>/figures/{model}/{dataset}/head_map.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/head_map.png",
            caption="../report/head_map.rst",
            category="2 Attention",
            subcategory="{model}, {dataset}",
            labels={"result": "head map"},
        ),
        table="<results>/figures/{model}/{dataset}/head_map.csv",
    log:
        "<logs>/figures/{model}/{dataset}/head_map.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_head_map.py"


rule plot_head_atlas:
    input:
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        svg="<results>/figures/{model}/{dataset}/head_atlas.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/head_atlas.png",
            caption="../report/head_atlas.rst",
            category="2 Attention",
            subcategory="{model}, {dataset}",
            labels={"result": "head atlas"},
        ),
        table="<results>/figures/{model}/{dataset}/head_atlas.csv",
    log:
        "<logs>/figures/{model}/{dataset}/head_atlas.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_head_atlas.py"


rule plot_patching_case:
    input:
        patching="<results>/patching/{model}/{dataset}.h5",
        pairs="<results>/pairs/{model}/{dataset}.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        svg="<results>/figures/{model}/{dataset}/patching_case.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/patching_case.png",
            caption="../report/patching_case.rst",
            category="3 Patching",
            subcategory="{model}, {dataset}",
            labels={"result": "patching case"},
        ),
        table="<results>/figures/{model}/{dataset}/patching_case.csv",
    log:
        "<logs>/figures/{model}/{dataset}/patching_case.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_case.py"


rule plot_patching_curves:
    input:
        curves="<results>/tables/{model}/{dataset}/patching_curves.csv",
        controls="<results>/tables/{model}/{dataset}/patching_controls.csv",
        hand_off="<results>/tables/{model}/{dataset}/hand_off.csv",
    output:
        svg="<results>/figures/{model}/{dataset}/patching_curves.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/patching_curves.png",
            caption="../report/patching_curves.rst",
            category="3 Patching",
            subcategory="{model}, {dataset}",
            labels={"result": "patching curves"},
        ),
        table="<results>/figures/{model}/{dataset}/patching_curves.csv",
    log:
        "<logs>/figures/{model}/{dataset}/patching_curves.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_curves.py"


rule plot_patching_components:
    input:
        curves="<results>/tables/{model}/{dataset}/patching_curves.csv",
    output:
        svg="<results>/figures/{model}/{dataset}/patching_components.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/patching_components.png",
            caption="../report/patching_components.rst",
            category="3 Patching",
            subcategory="{model}, {dataset}",
            labels={"result": "patching components"},
        ),
        table="<results>/figures/{model}/{dataset}/patching_components.csv",
    log:
        "<logs>/figures/{model}/{dataset}/patching_components.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_components.py"


rule plot_patching_ranges:
    input:
        ranges="<results>/tables/{model}/{dataset}/patching_ranges.csv",
    output:
        svg="<results>/figures/{model}/{dataset}/patching_ranges.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/patching_ranges.png",
            caption="../report/patching_ranges.rst",
            category="3 Patching",
            subcategory="{model}, {dataset}",
            labels={"result": "patching ranges"},
        ),
        table="<results>/figures/{model}/{dataset}/patching_ranges.csv",
    log:
        "<logs>/figures/{model}/{dataset}/patching_ranges.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patching_ranges.py"


rule plot_carriers:
    input:
        carriers="<results>/tables/{model}/{dataset}/carriers.csv",
        agreement="<results>/tables/{model}/{dataset}/carriers_agreement.csv",
    output:
        svg="<results>/figures/{model}/{dataset}/carriers.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/carriers.png",
            caption="../report/carriers.rst",
            category="3 Patching",
            subcategory="{model}, {dataset}",
            labels={"result": "carriers"},
        ),
        table="<results>/figures/{model}/{dataset}/carriers.csv",
    log:
        "<logs>/figures/{model}/{dataset}/carriers.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_carriers.py"


rule plot_patterns:
    input:
        rows="<results>/attention_rows/{model}/{dataset}.h5",
    output:
        svg="<results>/figures/{model}/{dataset}/patterns.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/patterns.png",
            caption="../report/patterns.rst",
            category="2 Attention",
            subcategory="{model}, {dataset}",
            labels={"result": "patterns"},
        ),
        table="<results>/figures/{model}/{dataset}/patterns.csv",
    log:
        "<logs>/figures/{model}/{dataset}/patterns.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_patterns.py"


rule plot_tracking:
    input:
        attention="<results>/attention/{model}/{dataset}.h5",
        rows="<results>/attention_rows/{model}/{dataset}.h5",
        heads="<results>/heads/{model}/{dataset}.parquet",
    output:
        svg="<results>/figures/{model}/{dataset}/tracking.svg",
        png=report(
            "<results>/figures/{model}/{dataset}/tracking.png",
            caption="../report/tracking.rst",
            category="2 Attention",
            subcategory="{model}, {dataset}",
            labels={"result": "tracking"},
        ),
        table="<results>/figures/{model}/{dataset}/tracking.csv",
    log:
        "<logs>/figures/{model}/{dataset}/tracking.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=lambda wildcards: stage_settings(STUDY, "figures", wildcards.model, wildcards.dataset),
    script:
        "../scripts/plot_tracking.py"

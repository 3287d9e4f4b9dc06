from r2a.figures.registry import figure_paths


rule write_summary:
    input:
        figures=[f"<results>/figures/{path}.png" for path in figure_paths(STUDY)],
        traces=expand("<results>/traces/{model}/{dataset}.parquet", model=STUDY.models, dataset=STUDY.datasets),
        funnel="<results>/tables/funnel.csv",
        accuracy="<results>/tables/accuracy.csv",
        effect="<results>/tables/effect.csv",
        budgets="<results>/tables/budgets.csv",
        decodings="<results>/tables/decodings.csv",
        variants="<results>/tables/variants.csv",
        problems="<results>/tables/problems.csv",
        disagreements="<results>/tables/grader_disagreements.csv",
        judge_tables=(
            expand("<results>/tables/judge_{table}.csv", table=["scores", "effect", "agreement"])
            if STUDY.judged_datasets
            else []
        ),
        perturbation=expand(
            "<results>/tables/{model}/{dataset}/perturbation.csv",
            model=STUDY.weighted_models,
            dataset=STUDY.perturbed_datasets,
        ),
        perturbation_comparisons=expand(
            "<results>/tables/{model}/{dataset}/perturbation_comparisons.csv",
            model=STUDY.weighted_models,
            dataset=STUDY.perturbed_datasets,
        ),
        perturbation_funnel=expand(
            "<results>/tables/{model}/{dataset}/perturbation_funnel.csv",
            model=STUDY.weighted_models,
            dataset=STUDY.perturbed_datasets,
        ),
        attention=expand(
            "<results>/attention/{model}/{dataset}.h5", model=STUDY.weighted_models, dataset=STUDY.datasets
        ),
        heads=expand("<results>/heads/{model}/{dataset}.parquet", model=STUDY.weighted_models, dataset=STUDY.datasets),
        probes=expand("<results>/probes/{model}.h5", model=STUDY.weighted_models),
        attention_quality="<results>/tables/attention_by_correctness.csv",
        ablation=expand(
            "<results>/tables/{model}/{dataset}/ablation.csv",
            model=STUDY.ablated_models,
            dataset=STUDY.graded_datasets,
        ),
        pair_funnels=expand(
            "<results>/tables/{model}/{dataset}/pair_funnel.csv",
            model=STUDY.patched_models,
            dataset=STUDY.pair_datasets,
        ),
        patching=expand(
            "<results>/patching/{model}/{dataset}.h5", model=STUDY.patched_models, dataset=STUDY.pair_datasets
        ),
        curves=expand(
            "<results>/tables/{model}/{dataset}/patching_curves.csv",
            model=STUDY.patched_models,
            dataset=STUDY.pair_datasets,
        ),
        controls=expand(
            "<results>/tables/{model}/{dataset}/patching_controls.csv",
            model=STUDY.patched_models,
            dataset=STUDY.pair_datasets,
        ),
        hand_off=expand(
            "<results>/tables/{model}/{dataset}/hand_off.csv", model=STUDY.patched_models, dataset=STUDY.pair_datasets
        ),
        first_order=expand(
            "<results>/tables/{model}/{dataset}/patching_first_order.csv",
            model=STUDY.patched_models,
            dataset=STUDY.pair_datasets,
        ),
        carriers=expand(
            "<results>/tables/{model}/{dataset}/carriers_agreement.csv",
            model=STUDY.patched_models,
            dataset=STUDY.pair_datasets,
        ),
    output:
        summary="<results>/summary.md",
        page=report(
            "<results>/summary.html",
            caption="../report/summary.rst",
            category="Summary",
            labels={"result": "summary"},
        ),
        findings="<results>/summary.txt",
    log:
        "<logs>/summary.log",
    localrule: True
    conda:
        f"../../envs/{STUDY.environment}.yaml"
    params:
        settings=stage_settings(STUDY, "summary"),
        benchmarks=f"results/{STUDY.study}/benchmarks",  # params take no pathvars
    script:
        "../scripts/write_summary.py"

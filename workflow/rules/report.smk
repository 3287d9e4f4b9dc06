from r2a.figures.registry import figure_paths


rule write_summary:
    input:
        figures=[f"<results>/figures/{path}.png" for path in figure_paths(STUDY)],
        traces=written("traces"),
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
        perturbation=measured("<results>/tables/{model}/{dataset}/perturbation.csv", STUDY.perturbed_datasets),
        perturbation_comparisons=measured(
            "<results>/tables/{model}/{dataset}/perturbation_comparisons.csv", STUDY.perturbed_datasets
        ),
        perturbation_funnel=measured(
            "<results>/tables/{model}/{dataset}/perturbation_funnel.csv", STUDY.perturbed_datasets
        ),
        attention=measured("<results>/attention/{model}/{dataset}.h5"),
        heads=measured("<results>/heads/{model}/{dataset}.parquet"),
        diagnostics=expand("<results>/diagnostics/{model}.h5", model=STUDY.weighted_models),
        attention_quality="<results>/tables/attention_by_correctness.csv",
        ablation=each("<results>/tables/{model}/{dataset}/ablation.csv", STUDY.ablated_models, STUDY.graded_datasets),
        pair_funnels=each(
            "<results>/tables/{model}/{dataset}/pair_funnel.csv", STUDY.patched_models, STUDY.pair_datasets
        ),
        patching=each("<results>/patching/{model}/{dataset}.h5", STUDY.patched_models, STUDY.pair_datasets),
        curves=each("<results>/tables/{model}/{dataset}/patching_curves.csv", STUDY.patched_models, STUDY.pair_datasets),
        controls=each(
            "<results>/tables/{model}/{dataset}/patching_controls.csv", STUDY.patched_models, STUDY.pair_datasets
        ),
        hand_off=each("<results>/tables/{model}/{dataset}/hand_off.csv", STUDY.patched_models, STUDY.pair_datasets),
        first_order=each(
            "<results>/tables/{model}/{dataset}/patching_first_order.csv", STUDY.patched_models, STUDY.pair_datasets
        ),
        carriers=each(
            "<results>/tables/{model}/{dataset}/carriers_agreement.csv", STUDY.patched_models, STUDY.pair_datasets
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
        ENVIRONMENT
    params:
        settings=settings("summary"),
        benchmarks=f"results/{STUDY.study}/benchmarks",  # params take no pathvars
    script:
        "../scripts/write_summary.py"

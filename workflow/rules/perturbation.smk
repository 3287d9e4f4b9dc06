# what the heads read, for kinds of perturbation that go by it
READ_BY_HEADS = (
    {
        "attention": "<results>/attention/{model}/{dataset}.h5",
        "ranks": "<results>/head_ranks/{model}/{dataset}.parquet",
    }
    if STUDY.datasets_perturbed_by_heads
    else {}
)


rule perturb_reasoning:
    input:
        **READ_BY_HEADS,
        traces=reasoned("traces", "perturbation"),
        grades=reasoned("grades", "perturbation"),
        dataset="<results>/datasets/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        prompts="<results>/perturbation/{model}/{dataset}.prompts.parquet",
    log:
        "<logs>/perturbation/{model}/{dataset}.prompts.log",
    benchmark:
        "<benchmarks>/perturbation/{model}/{dataset}.prompts.tsv"
    conda:
        ENVIRONMENT
    resources:
        **STUDY.paraphraser_resources,
    params:
        settings=settings("perturbation"),
    script:
        "../scripts/perturb_reasoning.py"


rule answer_perturbed:
    input:
        prompts="<results>/perturbation/{model}/{dataset}.prompts.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
        manifest="<results>/models/{model}.json",
    output:
        answers="<results>/perturbation/{model}/{dataset}.parquet",
    log:
        "<logs>/perturbation/{model}/{dataset}.log",
    benchmark:
        "<benchmarks>/perturbation/{model}/{dataset}.tsv"
    priority: LAST
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
        **IN_ENGINE,
    params:
        settings=settings("perturbed_answers", condition="with_reasoning"),
    script:
        "../scripts/answer_perturbed.py"


rule grade_perturbation:
    input:
        answers="<results>/perturbation/{model}/{dataset}.parquet",
        prompts="<results>/perturbation/{model}/{dataset}.prompts.parquet",
        dataset="<results>/datasets/{dataset}.parquet",
    output:
        grades="<results>/perturbation/{model}/{dataset}.grades.parquet",
    log:
        "<logs>/perturbation/{model}/{dataset}.grades.log",
    benchmark:
        "<benchmarks>/perturbation/{model}/{dataset}.grades.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=settings("first_grades"),
    script:
        "../scripts/grade_perturbation.py"


rule tabulate_perturbation:
    input:
        prompts="<results>/perturbation/{model}/{dataset}.prompts.parquet",
        grades="<results>/perturbation/{model}/{dataset}.grades.parquet",
    output:
        table="<results>/tables/{model}/{dataset}/perturbation.csv",
        comparisons="<results>/tables/{model}/{dataset}/perturbation_comparisons.csv",
        early="<results>/tables/{model}/{dataset}/early_answering.csv",
        funnel="<results>/tables/{model}/{dataset}/perturbation_funnel.csv",
    log:
        "<logs>/tables/{model}/{dataset}/perturbation.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("perturbation_tables"),
    script:
        "../scripts/tabulate_perturbation.py"

rule resolve_model:
    input:
        source=lambda wildcards: STUDY.source_files(STUDY.models[wildcards.model]),
    output:
        manifest="<results>/models/{model}.json",
    log:
        "<logs>/models/{model}.log",
    benchmark:
        "<benchmarks>/models/{model}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings("models"),
    script:
        "../scripts/resolve_model.py"


rule check_model:
    input:
        manifest="<results>/models/{model}.json",
    output:
        check="<results>/model_checks/{model}.json",
    log:
        "<logs>/model_checks/{model}.log",
    benchmark:
        "<benchmarks>/model_checks/{model}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("model")
    resources:
        **ON_MODEL,
    params:
        settings=settings("model_check"),
    script:
        "../scripts/check_model.py"


# Not part of any study: regenerates what ships under resources/models.
rule train_tiny_model:
    input:
        recipe="config/tiny_models.yaml",
    output:
        model=directory("results/tiny_training/models/{tiny_model}"),
    log:
        "results/tiny_training/logs/{tiny_model}.log",
    benchmark:
        "results/tiny_training/benchmarks/{tiny_model}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    script:
        "../scripts/train_tiny_model.py"


# Not part of any study: regenerates what ships under resources/models.
rule train_hint_follower:
    input:
        recipe="config/tiny_models.yaml",
        bases=expand("resources/models/{base}/model.safetensors", base=["tiny-llama"]),
    output:
        model=directory("results/tiny_training/followers/{follower}"),
    log:
        "results/tiny_training/logs/followers/{follower}.log",
    benchmark:
        "results/tiny_training/benchmarks/followers/{follower}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    script:
        "../scripts/train_hint_follower.py"


# Not part of any study: regenerates what ships under resources/datasets.
rule write_tiny_datasets:
    input:
        recipe="config/tiny_models.yaml",
    output:
        puzzles="results/tiny_training/datasets/puzzles.jsonl",
        comparisons="results/tiny_training/datasets/comparisons.csv",
        requests="results/tiny_training/datasets/requests.jsonl",
    log:
        "results/tiny_training/logs/datasets.log",
    conda:
        ENVIRONMENT
    script:
        "../scripts/write_tiny_datasets.py"


# Not part of any study: trains the adapter under resources/models again, on what `make real-model` builds.
rule train_reasoner:
    input:
        recipe="config/reasoner.yaml",
        weights=".models/smollm2-135m/model.safetensors",
    output:
        adapter=directory("results/reasoner_training/smollm2-reasoner"),
    log:
        "results/reasoner_training/logs/smollm2-reasoner.log",
    benchmark:
        "results/reasoner_training/benchmarks/smollm2-reasoner.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    script:
        "../scripts/train_reasoner.py"


# Not part of any study: regenerates what ships under resources/datasets.
rule write_reasoner_datasets:
    input:
        recipe="config/reasoner.yaml",
    output:
        problems="results/reasoner_training/datasets/word_problems.jsonl",
        comparisons="results/reasoner_training/datasets/contextual_comparisons.csv",
    log:
        "results/reasoner_training/logs/datasets.log",
    conda:
        ENVIRONMENT
    script:
        "../scripts/write_reasoner_datasets.py"

# What rules of one kind share. A rule's settings come from the table of stages (workflow/scripts/r2a/study/stages.py).
ENVIRONMENT = f"../../envs/{STUDY.environment}.yaml"
CONDITIONS_AND_DECODINGS = {"condition": CONDITIONS, "decoding": list(STUDY.decodings)}


def settings(stage, **fixed):
    """All that a stage's results depend on, for the job's model, dataset and so on."""
    named = ("model", "dataset", "judge", "condition", "decoding")
    return lambda wildcards: stage_settings(
        STUDY, stage, **{name: wildcards[name] for name in named if name in wildcards.keys()}, **fixed
    )


def of_model(key):
    return lambda wildcards: getattr(STUDY.models[wildcards.model], key)


def of_judge(key):
    return lambda wildcards: getattr(STUDY.judges[wildcards.judge], key)


def threads_of(kind):
    """The threads of a job of a model or judge: its own number, or, if that is less, its GPUs' share of the cores."""

    def threads(wildcards):
        entry, limits = getattr(STUDY, f"{kind}s")[wildcards[kind]], workflow.global_resources
        n_cores, n_gpus = (limits[name].value if name in limits else None for name in ("_cores", "gpu"))
        return share_of_cores(entry.threads, entry.gpus, n_cores, n_gpus)

    return threads


def priority_of(place):
    """Earlier stages first, by the place of their rule, so that jobs that can share a start are ready together.

    Of a rule, each model's first job runs before the others, which its process also makes.
    """
    firsts = {
        "dataset": next(iter(STUDY.datasets)),
        "condition": CONDITIONS[0],
        "decoding": next(iter(STUDY.decodings)),
    }
    return lambda wildcards: 2 * place + all(wildcards.get(name, first) == first for name, first in firsts.items())


def of_server(key):
    """Where a judge's or a model's endpoint is and how fast to ask it, which changes no results; empty without one."""
    return lambda wildcards: (
        STUDY.judge_resources(wildcards.judge)
        if "judge" in wildcards.keys()
        else STUDY.endpoint_resources(wildcards.model)
    )[key]


LAST = 1  # of rules that ask models about their traces: by then, most of what one engine can complete is ready


# Snakemake clips gpu to its limit, so gpus_needed says what a job really needs
ON_MODEL = {
    "gpu": of_model("gpus"),
    "gpus_needed": of_model("gpus"),
    "mem_mb": lambda wildcards, attempt: STUDY.models[wildcards.model].memory_mb * attempt,
    "runtime": of_model("runtime_minutes"),
}
ON_JUDGE = {
    "gpu": of_judge("gpus"),
    "gpus_needed": of_judge("gpus"),
    "mem_mb": lambda wildcards, attempt: STUDY.judges[wildcards.judge].memory_mb * attempt,
    "runtime": of_judge("runtime_minutes"),
}
IN_ENGINE = {
    "gpu_memory_percent": STUDY.generation.gpu_memory_percent,
    "cpu_cache_mb": STUDY.generation.cpu_cache_mb,
    **{key: of_server(key) for key in ("base_url", "api_key_variable", "max_concurrency", "timeout_seconds")},
}


def reasoned(store, stage):
    """A model's and dataset's traces (or their grades) with reasoning, of the decoding that a stage reads."""
    return f"<results>/{store}/{{model}}/{{dataset}}/with_reasoning.{getattr(STUDY, stage).decoding}.parquet"


def both(store, stage):
    """The same, in both conditions."""
    return expand(
        reasoned(store, stage).replace("with_reasoning", "{condition}"), condition=CONDITIONS, allow_missing=True
    )


def where(named, path):
    """The path, for a dataset that a property of Study names; else none."""
    return lambda wildcards: [path] if wildcards.dataset in getattr(STUDY, named) else []


def table_in_report(path, category, label):
    """A table that Snakemake's report shows, with the caption of the same name in workflow/report."""
    return report(
        path,
        caption=f"../report/{Path(path).stem}.rst",
        category=category,
        subcategory="{model}, {dataset}" if "{model}" in path else "Whole study",
        labels={"result": f"{label} (table)"},
    )


def each(path, models=STUDY.models, datasets=STUDY.datasets, **more):
    """The path for each of the models and datasets, and what else it names."""
    return expand(path, model=models, dataset=datasets, **more)


def measured(path, datasets=STUDY.datasets, **more):
    """The path for each model that can be measured and each of the datasets."""
    return each(path, STUDY.weighted_models, datasets, **more)


def written(store, models=STUDY.models, datasets=STUDY.datasets):
    """A store's files of all conditions and decodings."""
    return each(
        f"<results>/{store}/{{model}}/{{dataset}}/{{condition}}.{{decoding}}.parquet",
        models,
        datasets,
        **CONDITIONS_AND_DECODINGS,
    )

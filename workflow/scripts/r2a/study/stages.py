"""The one table of what each stage of a study depends on; a rule's params come from it alone.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from itertools import product
from typing import Any, NamedTuple

from pydantic import BaseModel

from r2a.extensions import CONTROLS, GRADERS, HEAD_SCORES, HINTS, JUDGE_KINDS, PERTURBATION_KINDS, PROBES
from r2a.study.schema import Study
from r2a.study.subjects import VARIED


class Stage(NamedTuple):
    """A kind of job: its version, raised when its results change, and the keys of the study that they depend on.

    A key is a dotted path. <model>, <dataset>, <judge>, <condition> and <decoding> stand for the job's own, * for every
    name, and {a,b} for several keys. "key ? condition | condition" counts only if one of the conditions holds: a key
    whose value is not 0, empty or null, or <condition>=name if that is the job's.
    """

    version: int
    keys: Mapping[str, str]  # by their names in the stage's settings


def _stage(version: int, *keys: str, **named: str) -> Stage:
    """keys: each named after its last part. named: keys with other names; {a,b} at the end makes a mapping of both."""
    alone = {}
    for key in keys:
        place, mark, condition = key.partition(" ? ")
        for path in _alternatives(place):
            alone[path.rpartition(".")[2]] = f"{path}{mark}{condition}"
    return Stage(version, alone | named)


def _alternatives(place: str) -> Iterator[str]:
    """The paths that a path with {a,b} in it stands for."""
    parts = [part[1:-1].split(",") if part[0] == "{" else [part] for part in re.findall(r"\{[^}]*\}|[^{]+", place)]
    return map("".join, product(*parts))


PROMPTED = (
    "models.<model>.{prompt,without_reasoning,think_tags,reasoning_format,template_arguments,system_turn}",
    "date",
)
# what a completion depends on
GENERATED = (
    *PROMPTED,
    "datasets.<dataset>.{kind,instruction}",
    "decodings.<decoding>.temperature",
    "decodings.<decoding>.{top_p,n_samples} ? decodings.<decoding>.temperature",
    "generation.{max_new_tokens,repetition,reasoning_budget}",
    "seed ? decodings.<decoding>.temperature",
)
SERVED = {"endpoint": "models.<model>.endpoint.{model,kind,body,prefill}"}
SOURCE = {"source": "models.<model>.{path,hub,revision}"}
LABEL = {"model_label": "models.<model>.label", "dataset_label": "datasets.<dataset>.label"}
LABELS = {"model_labels": "models.*.label", "dataset_labels": "datasets.*.label"}
STATISTICS = ("statistics.{n_resamples,confidence}", "seed")
Names = Mapping[str, str | None]  # of a job's model, dataset, judge, condition and decoding; None where it has none


# what a model is checked for before anything is generated, and the stages that depend on it
CHECKED = {
    "attention": ("attention", "diagnostics"),
    "ablation": ("ablation",),
    "patching": ("activations", "patching"),
    "sentences": ("sentences",),
}


def _checked(study: Study, job: Names) -> dict[str, dict[str, int]]:
    """Everything that a model is checked for, with versions, so that an upgrade that can do more checks it again.

    The same for every study: generation depends on the check, and should not wait for it again when a study asks for
    another stage.
    """
    return {check: {stage: STAGES[stage].version for stage in stages} for check, stages in CHECKED.items()}


def _judge_kind(study: Study, job: Names) -> str:
    judge = study.judges[str(job["judge"])]
    return judge.kind or ("endpoint" if judge.endpoint else "batch" if judge.batch else "weights")


def _judge_options(study: Study, job: Names) -> dict[str, Any]:
    judge = study.judges[str(job["judge"])]
    asked = judge.endpoint or judge.batch
    return asked.model_dump(include={"model", "body"}) if asked else judge.options


# values derived from several keys or from a registry, each with the keys that it depends on
DERIVED: dict[str, tuple[Callable[[Study, Names], Any], list[str]]] = {
    "is_toy": (
        lambda study, job: any(model.is_toy for name, model in study.models.items() if job["model"] in (None, name)),
        ["models.*.is_toy"],
    ),
    "variants": (
        lambda study, _: study.variants,
        [f"models.*.{key}" for key in ("variant_of", "label", *VARIED)],
    ),
    "checked": (_checked, []),
    "judge_kind": (_judge_kind, ["judges.*.kind"]),
    "options": (
        _judge_options,
        ["judges.*.options", *(f"judges.*.{way}.{key}" for way in ("endpoint", "batch") for key in ("model", "body"))],
    ),
    # versions of what is registered: each is raised when its results change
    "judge_kind_version": (lambda study, job: JUDGE_KINDS[_judge_kind(study, job)].version, ["judges.*.kind"]),
    "kind_versions": (lambda study, _: PERTURBATION_KINDS.versions(study.perturbation.kinds), ["perturbation.kinds"]),
    "hint_versions": (lambda study, _: HINTS.versions(study.hints.kinds), ["hints.kinds"]),
    "grader_versions": (lambda study, _: GRADERS.versions(study.grading.graders), ["grading.graders"]),
    "first_grader_version": (lambda study, _: GRADERS.versions(study.grading.graders[:1]), ["grading.graders.0"]),
    "n_read_heads": (
        lambda study, _: study.attention.n_top_heads if study.datasets_perturbed_by_heads else None,
        ["attention.n_top_heads", "perturbation.kinds"],
    ),
    "is_resampled": (
        lambda study, job: job["dataset"] in study.resampled_datasets,
        ["resampling.kinds", "datasets.*.kind"],
    ),
    "resampled_datasets": (lambda study, _: study.resampled_datasets, ["resampling.kinds", "datasets.*.kind"]),
    "probe_versions": (lambda study, _: PROBES.versions(study.patching.probes), ["patching.probes"]),
    "control_versions": (lambda study, _: CONTROLS.versions(study.patching.controls), ["patching.controls"]),
    "scores": (lambda study, _: HEAD_SCORES.versions(HEAD_SCORES), []),
}

STAGES = {
    "datasets": _stage(
        5,
        "datasets.<dataset>.{kind,path,hub,revision,subset,split,delimiter,fields,areas,filter,single_turn}",
        "datasets.<dataset>.{unreadable_references,n_problems}",
        "seed ? datasets.<dataset>.n_problems | datasets.<dataset>.fields.wrong_answers",
    ),
    "models": _stage(3, "models.<model>.dtype", *PROMPTED, endpoint="models.<model>.endpoint.{model}", **SOURCE),
    "model_check": _stage(3, stages="checked"),
    "judges": _stage(1, "judges.<judge>.dtype", source="judges.<judge>.{path,hub,revision}"),
    "traces": _stage(3, *GENERATED, **SERVED),
    "grades": _stage(2, "grading.{graders,seconds,memory_mb}", "grader_versions"),
    "judgements": _stage(
        2,
        "date",
        "judges.<judge>.{temperature,top_p,max_tokens,n_problems,dtype}",
        "seed ? judges.<judge>.temperature | judges.<judge>.n_problems",
        "judge_kind",
        "judge_kind_version",
        "options",
    ),
    "hint_judgements": _stage(
        1,
        "date",
        "judges.<judge>.{temperature,top_p,max_tokens,dtype}",
        "seed ? judges.<judge>.temperature",
        "judge_kind",
        "judge_kind_version",
        "options",
        "hint_versions",
    ),
    "perturbation": _stage(
        3,
        "perturbation.{decoding,kinds,cuts,filler,n_problems}",
        "attention.cue_words",
        "seed",
        "kind_versions",
        "n_read_heads",
        paraphraser="perturbation.paraphraser.{model,body}",
    ),
    "perturbed_answers": _stage(2, "perturbation.decoding", *GENERATED, **SERVED),
    "hints": _stage(1, "hints.{kinds,points_at,n_problems}", "seed", "hint_versions"),
    "hinted_answers": _stage(1, "hints.decoding", *GENERATED, **SERVED),
    "hint_grades": _stage(
        2, "grading.{seconds,memory_mb}", "first_grader_version", "hint_versions", grader="grading.graders.0"
    ),
    "attention": _stage(5, "attention.{decoding,kernel,cue_words}", "decodings.<decoding>.temperature"),
    "attention_rows": _stage(
        2,
        "attention.{decoding,kernel,cue_words,n_top_heads,n_cases,row_heads,row_dtype,case_megabytes}",
        "seed",
        uids="attention.case_uids.<dataset>",
    ),
    "diagnostics": _stage(
        2, "diagnostics.{n_repeats,repeat_tokens,induction_prompts,haystack,needles,lengths,depths}", "seed"
    ),
    "head_ranks": _stage(1),
    "ablation": _stage(3, "ablation.{decoding,n_problems,modes,selections,doses,n_draws,extra_tokens}", "seed"),
    "first_grades": _stage(2, "grading.{seconds,memory_mb}", "first_grader_version", grader="grading.graders.0"),
    "pairs": _stage(4, "patching.{decoding,probes,keep_reasoning,alignment}", "seed", "probe_versions"),
    "activations": _stage(3, "patching.components"),
    "patching": _stage(
        7,
        "patching.{components,range_tokens,controls,layer_step,scan_effect}",
        "seed",
        "control_versions",
    ),
    "sentences": _stage(4, "attention.{decoding,n_top_heads}", "sentences.{n_problems,stub,n_matrices}", "seed"),
    "resampling": _stage(
        1,
        *PROMPTED,
        "datasets.<dataset>.{kind,instruction}",
        "generation.{max_new_tokens,repetition,reasoning_budget}",
        "attention.decoding",
        "resampling.{n_rollouts,n_problems,n_sentences,temperature,top_p}",
        "seed",
        **SERVED,
    ),
    "rollouts": _stage(2),
    "mechanism": _stage(1, "attention.n_top_heads", "patching.range_tokens", "seed"),
    # ---- tables
    "heads": _stage(4, "attention.n_top_heads", "scores", *STATISTICS),
    "evaluation": _stage(6, *STATISTICS, "variants", **LABELS),
    "disagreements": _stage(1, "grading.graders", **LABELS),
    "judge_tables": _stage(2, *STATISTICS, judge_labels="judges.*.label", **LABELS),
    "attention_quality": _stage(2, *STATISTICS, **LABELS),
    "perturbation_tables": _stage(8, *STATISTICS, **LABEL),
    "hint_tables": _stage(4, *STATISTICS, **LABEL),
    "ablation_tables": _stage(5, *STATISTICS, **LABEL),
    "sentence_tables": _stage(4, *STATISTICS, "is_resampled", **LABEL),
    "resampling_tables": _stage(2, "resampling.similarity", *STATISTICS),
    "pair_tables": _stage(3, **LABEL),
    "patching_tables": _stage(4, "patching.{components,controls}", *STATISTICS, **LABEL),
    "mechanism_tables": _stage(1, *STATISTICS, **LABEL),
    "across_models": _stage(
        2, "attention.n_top_heads", *STATISTICS, models="models.*.{label,distillation,variant_of}", **LABELS
    ),
    # ---- what people read
    "figures": _stage(1, *STATISTICS, "variants", "is_toy", **LABEL, **LABELS),
    "explorer": _stage(6, "explorer.{decoding,n_problems}", "resampled_datasets", "is_toy", **LABELS),
    "summary": _stage(4, "is_toy", "statistics.confidence", **LABELS),
}
# keys that change which results a study has, or which jobs make them, but none of the results
ASKED = ("models.*.leave_out", "models.*.shards", "hints.dataset_kinds")
# keys that change the speed, place or cost of a result, but not the result: they only reach a rule's resources
COST = (
    "models.*.{gpus,threads,memory_mb,runtime_minutes,tokens_per_second}",
    "{models,judges}.*.endpoint.{base_url,api_key_variable,max_concurrency,timeout_seconds}",
    "perturbation.paraphraser.{base_url,api_key_variable,max_concurrency,timeout_seconds}",
    "judges.*.{gpus,threads,memory_mb,runtime_minutes}",
    "judges.*.batch.replies",
    "generation.{gpu_memory_percent,cpu_cache_mb}",
    "{attention,ablation,patching,sentences}.batch_tokens",
)


def stages_of(key: str) -> list[str]:
    """The stages whose results depend on a key of the schema, e.g. patching.components or models.*.label.

    A whole section may be named. Stages that read these results then depend on the key too.
    """
    return [name for name, stage in STAGES.items() if any(_covers(path, key) for path in _schema_keys(stage))]


def _schema_keys(stage: Stage) -> Iterator[str]:
    """The keys that a stage reads, and those of its conditions, with * for each name."""
    for path in stage.keys.values():
        place, _, conditions = path.partition(" ? ")
        for one in [place, *(c for c in conditions.split(" | ") if c and "=" not in c)]:
            for known in DERIVED[one][1] if one in DERIVED else _alternatives(one):
                yield re.sub(r"<\w+>", "*", known).removesuffix(".0")


def _covers(path: str, key: str) -> bool:
    return f"{path}.".startswith(f"{key}.") or f"{key}.".startswith(f"{path}.")


def stage_settings(
    study: Study,
    name: str,
    model: str | None = None,
    dataset: str | None = None,
    judge: str | None = None,
    condition: str | None = None,
    decoding: str | None = None,
) -> dict[str, Any]:
    """A stage's settings for a job of this model, dataset and so on: plain values of everything that its results depend
    on.

    decoding: the job's own; a stage with a decoding among its keys uses that instead.
    """
    stage = STAGES[name]
    job = {"model": model, "dataset": dataset, "judge": judge, "condition": condition, "decoding": decoding}
    if "decoding" in stage.keys:
        job["decoding"] = _look_up(study, stage.keys["decoding"], job)
    settings = {"stage": name, "version": stage.version, "study": study.study}
    settings |= {kind: chosen for kind, chosen in job.items() if chosen is not None}
    for key, path in stage.keys.items():
        place, _, conditions = path.partition(" ? ")
        is_read = not conditions or any(_holds(study, condition, job) for condition in conditions.split(" | "))
        settings[key] = _look_up(study, place, job) if is_read else None
    return settings


def _holds(study: Study, condition: str, job: Names) -> bool:
    kind, is_named, name = condition.partition("=")
    return job[kind.strip("<>")] == name if is_named else bool(_look_up(study, condition, job))


def _look_up(study: Study, path: str, job: Names) -> Any:
    if path in DERIVED:
        return DERIVED[path][0](study, job)
    found: Any = study
    parts = path.split(".")
    for number, part in enumerate(parts):
        if found is None:
            return None
        if part == "*":
            rest = ".".join(parts[number + 1 :])
            return {name: _look_up(entry, rest, job) for name, entry in found.items()}
        if part[0] == "{":
            return {name: _plain(getattr(found, name)) for name in part[1:-1].split(",")}
        name = job[part[1:-1]] if part[0] == "<" else part
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list):
            found = found[int(str(name))]
        else:
            found = getattr(found, str(name))
    return _plain(found)


def _plain(value: Any) -> Any:
    """A value as Snakemake compares it and provenance keeps it: no pydantic models."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, date):
        return value.isoformat()
    return [_plain(entry) for entry in value] if isinstance(value, list) else value

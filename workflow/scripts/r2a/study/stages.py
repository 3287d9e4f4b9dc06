"""What each stage of a study depends on.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

from typing import Any

from r2a.extensions import CONTROLS, GRADERS, HEAD_SCORES, JUDGE_KINDS, PERTURBATION_KINDS, PROBES
from r2a.study.schema import Study

# Bumped when a stage's results change; part of the stage's params, so Snakemake reruns it.
STAGE_VERSIONS = {
    "datasets": 5,
    "models": 2,
    "model_check": 1,
    "judges": 1,
    "traces": 2,
    "grades": 2,
    "judgements": 2,
    "perturbation": 2,
    "evaluation": 4,
    "judge_tables": 2,
    "disagreements": 1,
    "attention": 3,
    "attention_rows": 2,
    "probes": 2,
    "heads": 4,
    "attention_quality": 2,
    "across_models": 1,
    "ablation": 2,
    "ablation_effect": 3,
    "pairs": 3,
    "activations": 2,
    "patching": 3,
    "explorer": 2,
    "figures": 1,
    "summary": 3,
}
# the stages whose tables have intervals and tests
STATISTICAL = (
    "evaluation", "judge_tables", "heads", "attention_quality", "across_models", "ablation_effect", "patching",
    "figures",
)  # fmt: skip


def stage_settings(
    study: Study, name: str, model: str | None = None, dataset: str | None = None, judge: str | None = None
) -> dict[str, Any]:
    """Plain values that a stage's results depend on: its version, the seed and its settings.

    Settings that change how fast a result comes, not what it is, are left out.
    """
    params: dict[str, Any] = {
        "stage": name,
        "version": STAGE_VERSIONS[name],
        "study": study.study,
        "seed": study.seed,
    }
    if name == "explorer":
        params |= study.explorer.model_dump()
    if name in ("explorer", "figures", "summary"):
        params["is_toy"] = any(entry.is_toy for entry in study.models.values())
    if model is not None:
        settings = study.models[model]
        params |= {"model": model, "model_label": study.model_label(model), "is_toy": settings.is_toy}
        params |= {"source": settings.model_dump(include={"path", "hub", "revision"})}
        params |= {"dtype": settings.dtype, "prompt": settings.prompt}
        if name in ("models", "traces", "perturbation"):
            keys = {"without_reasoning", "think_tags", "reasoning_format", "template_arguments", "system_turn"}
            params |= settings.model_dump(include=keys) | {"date": study.date.isoformat()}
        if name in ("models", "traces", "perturbation"):
            fields = {"model", "kind", "body", "prefill"}
            params["endpoint"] = settings.endpoint and settings.endpoint.model_dump(include=fields)
    if dataset is not None:
        params |= {
            "dataset": dataset,
            "dataset_label": study.dataset_label(dataset),
            "kind": study.datasets[dataset].kind,
        }
    if name == "datasets" and dataset is not None:
        params |= study.datasets[dataset].model_dump(exclude={"label", "instruction"})
    if name in ("traces", "perturbation") and dataset is not None:
        params["instruction"] = study.datasets[dataset].instruction
        params["decodings"] = {key: decoding.model_dump() for key, decoding in study.decodings.items()}
        params |= study.generation.model_dump(include={"max_new_tokens", "repetition", "reasoning_budget"})
    if name == "perturbation":
        params |= study.perturbation.model_dump()
        params["kind_versions"] = PERTURBATION_KINDS.versions(study.perturbation.kinds)
    if name == "grades":
        params |= study.grading.model_dump()
        params["grader_versions"] = GRADERS.versions(study.grading.graders)
    if judge is not None:
        chosen = study.judges[judge]
        params |= {"judge": judge, "judge_label": chosen.label or judge}
        params |= {"source": chosen.model_dump(include={"path", "hub", "revision"}), "dtype": chosen.dtype}
        if name == "judgements":
            params["date"] = study.date.isoformat()
            params |= chosen.model_dump(include={"temperature", "top_p", "max_tokens", "n_problems"})
            asked = chosen.endpoint or chosen.batch
            kind = chosen.kind or ("endpoint" if chosen.endpoint else "batch" if chosen.batch else "weights")
            params["judge_kind"], params["judge_kind_version"] = kind, JUDGE_KINDS[kind].version
            params["options"] = asked.model_dump(include={"model", "body"}) if asked else chosen.options
    if name == "disagreements":
        params["graders"] = study.grading.graders
    if name in STATISTICAL:
        params |= study.statistics.model_dump()
    if name in ("evaluation", "figures") and model is None:
        params["variants"] = study.variants
    if name == "attention":
        params |= study.attention.model_dump(include={"decoding", "kernel", "cue_words"})
        params["is_greedy"] = study.decodings[study.attention.decoding].temperature == 0
    if name == "attention_rows" and dataset is not None:
        fields = {"decoding", "kernel", "cue_words", "n_cases", "row_heads", "row_dtype", "case_megabytes"}
        params |= study.attention.model_dump(include=fields)
        params["uids"] = study.attention.case_uids.get(dataset, [])
    if name == "probes":
        params |= study.probes.model_dump()
    if name in ("heads", "across_models"):
        params |= study.attention.model_dump(include={"n_top_heads"})
    if name == "heads":
        params["scores"] = HEAD_SCORES.versions(HEAD_SCORES)
    if name == "across_models":
        told = {"distillation", "variant_of"}
        params["models"] = {
            key: {"label": study.model_label(key)} | entry.model_dump(include=told)
            for key, entry in study.models.items()
        }
    if name == "ablation":
        params |= study.ablation.model_dump(exclude={"batch_tokens"})
    if name == "ablation_effect":
        params |= {"grader": study.grading.graders[0], **study.grading.model_dump(exclude={"graders"})}
        params["grader_versions"] = GRADERS.versions(study.grading.graders[:1])
    if name in ("pairs", "patching"):
        params |= study.patching.model_dump(include={"decoding", "probes", "keep_reasoning", "alignment"})
        params["probe_versions"] = PROBES.versions(study.patching.probes)
    if name == "model_check" and model is not None:
        params["stages"] = ["attention"]
        params["stages"] += ["ablation"] * (model in study.ablated_models and bool(study.graded_datasets))
        params["stages"] += ["patching"] * (model in study.patched_models and bool(study.pair_datasets))
    if name in ("activations", "patching", "model_check"):
        params["components"] = study.patching.components
    if name == "patching":
        params |= study.patching.model_dump(include={"range_tokens", "controls"})
        params["control_versions"] = CONTROLS.versions(study.patching.controls)
    return params

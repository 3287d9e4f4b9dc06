"""The tables of answers: how many traces are valid, how many are right, and what reasoning changes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.evaluation.budgets import budget_table
from r2a.evaluation.changes import decoding_table, variant_table
from r2a.evaluation.outcomes import WITH, WITHOUT, mean, n_samples, n_unreadable, problem_shares, read_traces
from r2a.evaluation.problems import problem_table
from r2a.progress import logger
from r2a.statistics import (
    TOO_FEW,
    difference_interval,
    excluded_bounds,
    holm,
    invalid_wrong_bounds,
    is_testable,
    mcnemar_p,
    paired_t,
    share_interval,
    sign_flip_p,
)
from r2a.store import provenance, write_csv
from r2a.study import CONDITIONS

FUNNEL_STEPS = {"finished": "is_finished", "well_formed": "is_well_formed", "extracted": "is_valid"}
NAMES = ["model", "dataset", "condition", "decoding"]
GROUPING = ["by", "group", "area", "level"]
FUNNEL_COLUMNS = [
    *NAMES, "total", *FUNNEL_STEPS, "repeating", "closed_by_budget", "unreadable", "compliance", "low", "high",
]  # fmt: skip
ACCURACY_COLUMNS = [
    *NAMES, *GROUPING, "n_problems", "n_samples", "n_undecided", "accuracy", "low", "high", "n_valid",
    "valid_accuracy",
]  # fmt: skip
EFFECT_COLUMNS = [
    "model", "dataset", "decoding", *GROUPING, "n_problems", "n_samples", "n_undecided", "accuracy_with",
    "accuracy_without", "difference", "low", "high", "test", "p", "p_holm", "b", "c",
    "n_common", "common_accuracy_with", "common_accuracy_without", "common_difference", "common_low", "common_high",
    "common_t", "common_p", "excluded_low", "excluded_high", "invalid_wrong_low", "invalid_wrong_high",
]  # fmt: skip


def funnel_table(traces: pd.DataFrame, confidence: float, unreadable: Mapping[str, int] | None = None) -> pd.DataFrame:
    """One row per model, dataset, condition and decoding: how many traces each step of the funnel leaves.

    traces: model, dataset, uid, condition, decoding, sample, is_finished, is_well_formed, is_valid, finish_reason,
    n_forced_tokens. repeating: traces stopped because they repeated themselves; these are unfinished. closed_by_budget:
    traces whose reasoning was closed at generation.reasoning_budget. compliance: extracted / total, with its interval
    (share_interval). unreadable: problems of the dataset that were left out before generation because their references
    cannot be read, by the dataset's label; total does not include them.
    """
    rows = []
    for names, part in traces.groupby(NAMES, sort=False):
        shares = part.groupby("uid")["is_valid"].mean().to_numpy(float)
        low, high = share_interval(shares, n_samples(part), confidence)
        rows.append(
            dict(zip(NAMES, names, strict=True))
            | {"total": len(part), "unreadable": (unreadable or {}).get(str(part["dataset"].iloc[0]), 0)}
            | {"repeating": int((part["finish_reason"] == "repetition").sum())}
            | {"closed_by_budget": int((part["n_forced_tokens"] > 0).sum())}
            | {step: int(part[column].sum()) for step, column in FUNNEL_STEPS.items()}
            | {"compliance": part["is_valid"].mean(), "low": low, "high": high}
        )
    return pd.DataFrame(rows, columns=FUNNEL_COLUMNS)


def accuracy_table(graded: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per model, dataset, condition, decoding and group: accuracy over all traces, and over valid ones.

    graded: with_outcomes. by: all, area, level or area_level. Intervals: share_interval.
    """
    rows = []
    for names, part in graded.groupby(NAMES, sort=False):
        for group, members in _groups(part):
            decided = members[~members["is_undecided"]]
            shares = decided.groupby("uid")["is_right"].mean().to_numpy(float)
            low, high = share_interval(shares, n_samples(members), confidence)
            valid = decided[decided["is_valid"]]
            rows.append(
                dict(zip(NAMES, names, strict=True))
                | group
                | {
                    "n_problems": len(shares), "n_samples": n_samples(members),
                    "n_undecided": len(members) - len(decided), "accuracy": mean(shares), "low": low, "high": high,
                    "n_valid": len(valid), "valid_accuracy": mean(valid["is_right"].to_numpy(float)),
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=ACCURACY_COLUMNS)


def effect_table(graded: pd.DataFrame, n_resamples: int, confidence: float, seed: int) -> pd.DataFrame:
    """One row per model, dataset, decoding and group: accuracy with reasoning minus without, problem by problem.

    graded: with_outcomes. difference, low, high (difference_interval) and p are over all problems, where an invalid
    answer counts as wrong. p: exact McNemar for one sample per problem, otherwise a sign-flip permutation; nan, and the
    test TOO_FEW, if no outcome of so few problems could be significant. b and c: the problems that are right only with,
    and only without, reasoning. p_holm is adjusted over the areas, over the levels, and over the areas by level of one
    model, dataset and decoding. common_*: the paper's estimand, over problems with valid answers in both conditions.
    excluded_*: bounds on the difference if each other problem had gone against, or for, reasoning. invalid_wrong_*:
    bounds if invalid answers count as wrong and the other valid answers are unknown (one sample only). METHOD section
    2.
    """
    rows = []
    for names, part in graded.groupby(["model", "dataset", "decoding"], sort=False):
        for group, members in _groups(part):
            measured = _effect(members, n_resamples, confidence, seed)
            rows.append(dict(zip(("model", "dataset", "decoding"), names, strict=True)) | group | measured)
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    family = table.groupby(["model", "dataset", "decoding", "by"], sort=False)["p"]
    table["p_holm"] = family.transform(lambda p: holm(p.to_numpy(float)))
    return table.astype({"b": "Int64", "c": "Int64"})


def write_evaluation(
    traces: Sequence[Path],
    grades: Sequence[Path],
    datasets: Sequence[Path],
    outputs: Mapping[str, Path],
    settings: Mapping[str, Any],
) -> None:
    """Write the tables funnel, accuracy, effect, budgets, problems, decodings and variants as CSV files.

    traces: one file per model, dataset, condition and decoding. grades: the same, except for datasets without reference
    answers. datasets: those of the grades. outputs: one path per table. settings: n_resamples, confidence, seed,
    variants, model_labels, dataset_labels. Models and datasets go by their labels. Raises EvaluationError as
    read_traces does.
    """
    all_traces, graded = read_traces(traces, grades, datasets, settings)
    confidence = settings["confidence"]
    tables = {
        "funnel": funnel_table(all_traces, confidence, n_unreadable(datasets, settings)),
        "accuracy": accuracy_table(graded, confidence),
        "effect": effect_table(graded, settings["n_resamples"], confidence, settings["seed"]),
        "budgets": budget_table(graded, settings["n_resamples"], confidence, settings["seed"]),
        "problems": problem_table(graded),
        "decodings": decoding_table(all_traces, graded, confidence),
        "variants": variant_table(all_traces, graded, settings["variants"], confidence),
    }
    origin = provenance(settings, [*traces, *grades, *datasets])
    for name, table in tables.items():
        write_csv(outputs[name], table, origin)
        logger.info(f"{outputs[name]}: {len(table)} rows")


def _groups(part: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """All rows, then those of each area, each level, and each level of each area, with the group's names."""
    yield {"by": "all", "group": "all", "area": None, "level": None}, part
    for area, members in part.groupby("area"):
        yield {"by": "area", "group": str(area), "area": area, "level": None}, members
    for level, members in part.groupby("level"):
        yield {"by": "level", "group": f"level {level}", "area": None, "level": level}, members
    for (area, level), members in part.groupby(["area", "level"]):
        yield {"by": "area_level", "group": f"{area}, level {level}", "area": area, "level": level}, members


def _effect(members: pd.DataFrame, n_resamples: int, confidence: float, seed: int) -> dict[str, Any]:
    """The paired comparison over one group's problems."""
    decided = members[~members["is_undecided"]]
    right, differences, interval = _paired(decided, confidence)
    measured: dict[str, Any] = {
        "n_problems": len(right), "n_samples": n_samples(members), "n_undecided": len(members) - len(decided),
        "accuracy_with": mean(right[WITH].to_numpy()), "accuracy_without": mean(right[WITHOUT].to_numpy()),
        "difference": mean(differences), "low": interval[0], "high": interval[1],
    }  # fmt: skip
    common, common_differences, common_interval = _paired(decided[decided["is_valid"]], confidence)
    n_all, common_sum = members["uid"].nunique(), float(common_differences.sum())
    t, t_p = paired_t(common_differences)
    measured |= {
        "n_common": len(common), "common_accuracy_with": mean(common[WITH].to_numpy()),
        "common_accuracy_without": mean(common[WITHOUT].to_numpy()),
        "common_difference": mean(common_differences), "common_low": common_interval[0],
        "common_high": common_interval[1], "common_t": t, "common_p": t_p,
    }  # fmt: skip
    measured["excluded_low"], measured["excluded_high"] = excluded_bounds(n_all, len(common), common_sum)
    if n_samples(members) == 1:
        b, c = int((differences > 0).sum()), int((differences < 0).sum())
        n_valid = members.groupby("condition")["is_valid"].sum().reindex(list(CONDITIONS), fill_value=0)
        bounds = invalid_wrong_bounds(n_all, int(n_valid[WITH]), int(n_valid[WITHOUT]), len(common), common_sum)
        measured |= {"test": "exact McNemar", "p": float(mcnemar_p(b, c)), "b": b, "c": c}
        measured["invalid_wrong_low"], measured["invalid_wrong_high"] = bounds
    else:
        measured |= {"test": "sign-flip permutation", "p": sign_flip_p(differences, n_resamples, seed)}
    if not is_testable(len(right), confidence):
        measured |= {"test": TOO_FEW, "p": np.nan}
    return measured


def _paired(rows: pd.DataFrame, confidence: float) -> tuple[pd.DataFrame, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Shares of right answers [problem, condition], their differences, and the interval of the mean difference."""
    shares = problem_shares(rows, "is_right").dropna()
    with_reasoning, without = shares[WITH].to_numpy(), shares[WITHOUT].to_numpy()
    samples = n_samples(rows)
    return shares, with_reasoning - without, difference_interval(with_reasoning, without, samples, samples, confidence)

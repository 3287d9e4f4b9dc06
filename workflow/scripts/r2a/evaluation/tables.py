"""The tables of stage 1: how many traces survive, how many are right, and what reasoning changes.

All shares are fractions of 1. "Graded" tables have one row a trace, with columns model, dataset, uid, area,
level (may be null), condition, decoding, sample, is_valid and is_correct (null where it could not be decided).
A trace counts as right where it is valid and correct; one that is valid but undecided is left out and counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.config import CONDITIONS
from r2a.progress import logger
from r2a.statistics import (
    bootstrap_interval,
    excluded_bounds,
    holm,
    invalid_wrong_bounds,
    mcnemar_p,
    paired_t,
    sign_flip_p,
    wilson_interval,
)
from r2a.store import provenance, read_parquet, read_provenance, write_csv

WITH, WITHOUT = CONDITIONS
TRACE_KEYS = ["uid", "condition", "decoding", "sample"]
FUNNEL_STEPS = {"finished": "is_finished", "well_formed": "is_well_formed", "extracted": "is_valid"}
GROUPING = ["by", "group", "area", "level"]
FUNNEL_COLUMNS = [
    "model", "dataset", "condition", "decoding", "total", *FUNNEL_STEPS, "compliance", "low", "high",
]  # fmt: skip
ACCURACY_COLUMNS = [
    "model", "dataset", "condition", "decoding", *GROUPING, "n_problems", "n_samples", "n_undecided",
    "accuracy", "low", "high", "n_valid", "valid_accuracy",
]  # fmt: skip
EFFECT_COLUMNS = [
    "model", "dataset", "decoding", *GROUPING, "n_problems", "n_samples", "n_undecided", "accuracy_with",
    "accuracy_without", "difference", "low", "high", "test", "p", "p_holm", "b", "c",
    "n_common", "common_accuracy_with", "common_accuracy_without", "common_difference", "common_t", "common_p",
    "excluded_low", "excluded_high", "invalid_wrong_low", "invalid_wrong_high",
]  # fmt: skip


class EvaluationError(Exception):
    """Tables cannot be made; the message names the files and the remedy."""


def funnel_table(traces: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row a model, dataset, condition and decoding: how many traces each step of the funnel leaves.

    traces: model, dataset, condition, decoding, is_finished, is_well_formed, is_valid. compliance is
    extracted / total, with its Wilson interval.
    """
    rows = [
        dict(zip(FUNNEL_COLUMNS[:4], names, strict=True))
        | {"total": len(part)}
        | {step: int(part[column].sum()) for step, column in FUNNEL_STEPS.items()}
        for names, part in traces.groupby(FUNNEL_COLUMNS[:4], sort=False)
    ]
    table = pd.DataFrame(rows, columns=FUNNEL_COLUMNS)
    table["compliance"] = table["extracted"] / table["total"]
    table["low"], table["high"] = wilson_interval(table["extracted"].to_numpy(), table["total"].to_numpy(), confidence)
    return table


def accuracy_table(graded: pd.DataFrame, n_resamples: int, confidence: float, seed: int) -> pd.DataFrame:
    """One row a model, dataset, condition, decoding and group: accuracy over all, and over valid traces.

    The interval of accuracy is Wilson's for one sample a problem, else a bootstrap over problems. by is all,
    area, level or area_level.
    """
    rows = []
    for names, part in _with_outcomes(graded).groupby(FUNNEL_COLUMNS[:4], sort=False):
        for group, members in _groups(part):
            decided = members[~members["is_undecided"]]
            shares = decided.groupby("uid")["is_right"].mean().to_numpy(float)
            n_samples = _n_samples(members)
            if n_samples == 1:
                low, high = (float(end) for end in wilson_interval(int(shares.sum()), len(shares), confidence))
            else:
                low, high = bootstrap_interval(shares, n_resamples, confidence, seed)
            valid = decided[decided["is_valid"]]
            rows.append(
                dict(zip(FUNNEL_COLUMNS[:4], names, strict=True))
                | group
                | {
                    "n_problems": len(shares), "n_samples": n_samples, "n_undecided": len(members) - len(decided),
                    "accuracy": _mean(shares), "low": low, "high": high,
                    "n_valid": len(valid), "valid_accuracy": _mean(valid["is_right"].to_numpy(float)),
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=ACCURACY_COLUMNS)


def effect_table(graded: pd.DataFrame, n_resamples: int, confidence: float, seed: int) -> pd.DataFrame:
    """One row a model, dataset, decoding and group: accuracy with reasoning minus without, problem by problem.

    difference, low, high (bootstrap over problems) and p (exact McNemar for one sample a problem, else a
    sign-flip permutation) are over all problems, an invalid answer counting wrong; b and c are the problems
    right only with and only without reasoning. p_holm is adjusted over the areas, over the levels, and over
    the areas by level of one model, dataset and decoding. common_* is the paper's estimand, over problems
    with valid answers in both conditions. excluded_* bounds the difference had each other problem gone
    against or for reasoning; invalid_wrong_* where invalid counts wrong and the other valid answers are not
    known (one sample only). METHOD section 2.
    """
    rows = []
    for names, part in _with_outcomes(graded).groupby(["model", "dataset", "decoding"], sort=False):
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
    funnel: Path,
    accuracy: Path,
    effect: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write the three tables as CSV files, models and datasets by their labels.

    traces: one file a model and dataset; grades: the same, but for datasets without reference answers;
    datasets: those of the grades. settings: n_resamples, confidence, seed. Raises EvaluationError where two
    models or datasets share a label, or grades don't belong to their traces.
    """
    problems = {_names(path)["dataset"]: read_parquet(path, ["uid", "area", "level"]) for path in datasets}
    grades_of = {(_names(path)["model"], _names(path)["dataset"]): path for path in grades}
    _check_labels([_names(path) for path in traces])
    parts, graded = [], []
    for path in traces:
        names = _names(path)
        part = read_parquet(path, [*TRACE_KEYS, *FUNNEL_STEPS.values()])
        part.insert(0, "model", names["model_label"])
        part.insert(1, "dataset", names["dataset_label"])
        parts.append(part)
        grade_path = grades_of.get((names["model"], names["dataset"]))
        if grade_path is not None:
            table = part.merge(read_parquet(grade_path, [*TRACE_KEYS, "is_correct"]), on=TRACE_KEYS)
            table = table.merge(problems[names["dataset"]], on="uid")
            if len(table) != len(part):
                raise EvaluationError(f"{grade_path}: not one grade a trace of {path}; delete it and run again")
            graded.append(table)
    origin = provenance(settings, [*traces, *grades, *datasets])
    statistics = settings["n_resamples"], settings["confidence"], settings["seed"]
    all_graded = pd.concat(graded, ignore_index=True) if graded else _no_graded()
    tables = {
        funnel: funnel_table(pd.concat(parts, ignore_index=True), settings["confidence"]),
        accuracy: accuracy_table(all_graded, *statistics),
        effect: effect_table(all_graded, *statistics),
    }
    for output, table in tables.items():
        write_csv(output, table, origin)
        logger.info(f"{output}: {len(table)} rows")


def _names(path: Path) -> dict[str, str]:
    return read_provenance(path)["parameters"]


def _check_labels(names: Sequence[Mapping[str, str]]) -> None:
    for kind in ("model", "dataset"):
        pairs = {(entry[kind], entry[f"{kind}_label"]) for entry in names}
        labels = [label for _, label in pairs]
        shared = sorted({label for label in labels if labels.count(label) > 1})
        if shared:
            raise EvaluationError(
                f"{kind}s share the label {', '.join(shared)}: give each its own label in the configuration"
            )


def _no_graded() -> pd.DataFrame:
    columns = ["model", "dataset", *TRACE_KEYS, "is_valid", "is_correct", "area", "level"]
    return pd.DataFrame(columns=columns)


def _with_outcomes(graded: pd.DataFrame) -> pd.DataFrame:
    is_valid = graded["is_valid"].astype(bool)
    is_undecided = is_valid & graded["is_correct"].isna()
    is_right = is_valid & graded["is_correct"].eq(True).fillna(False).astype(bool)
    return graded.assign(is_valid=is_valid, is_undecided=is_undecided, is_right=is_right)


def _groups(part: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """All rows, then those of each area, each level, and each area's levels, with what they are called."""
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
    right = _by_condition(decided, "is_right").dropna()
    differences = (right[WITH] - right[WITHOUT]).to_numpy()
    n_samples = _n_samples(members)
    low, high = bootstrap_interval(differences, n_resamples, confidence, seed)
    measured: dict[str, Any] = {
        "n_problems": len(right), "n_samples": n_samples, "n_undecided": len(members) - len(decided),
        "accuracy_with": _mean(right[WITH].to_numpy()), "accuracy_without": _mean(right[WITHOUT].to_numpy()),
        "difference": _mean(differences), "low": low, "high": high,
    }  # fmt: skip
    common = _by_condition(decided[decided["is_valid"]], "is_right").dropna()
    common_differences = (common[WITH] - common[WITHOUT]).to_numpy()
    n_all, common_sum = members["uid"].nunique(), float(common_differences.sum())
    t, t_p = paired_t(common_differences)
    measured |= {
        "n_common": len(common), "common_accuracy_with": _mean(common[WITH].to_numpy()),
        "common_accuracy_without": _mean(common[WITHOUT].to_numpy()),
        "common_difference": _mean(common_differences), "common_t": t, "common_p": t_p,
    }  # fmt: skip
    measured["excluded_low"], measured["excluded_high"] = excluded_bounds(n_all, len(common), common_sum)
    if n_samples == 1:
        b, c = int((differences > 0).sum()), int((differences < 0).sum())
        n_valid = members.groupby("condition")["is_valid"].sum().reindex(list(CONDITIONS), fill_value=0)
        bounds = invalid_wrong_bounds(n_all, int(n_valid[WITH]), int(n_valid[WITHOUT]), len(common), common_sum)
        measured |= {"test": "exact McNemar", "p": float(mcnemar_p(b, c)), "b": b, "c": c}
        measured["invalid_wrong_low"], measured["invalid_wrong_high"] = bounds
    else:
        measured |= {"test": "sign-flip permutation", "p": sign_flip_p(differences, n_resamples, seed)}
    return measured


def _by_condition(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of a column over each problem's samples, as [problem, condition]; nan where there is none."""
    means = rows.groupby(["uid", "condition"])[column].mean().unstack()
    return means.reindex(columns=list(CONDITIONS)).astype(float)


def _n_samples(members: pd.DataFrame) -> int:
    return int(members["sample"].nunique())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan

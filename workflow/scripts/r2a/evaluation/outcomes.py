"""Traces with their verdicts and problems, and which of them count as right.

All shares are fractions of 1. "Graded" tables have one row per trace, with columns model, dataset, uid, area, level
(may be null), condition, decoding, sample, is_valid and is_correct (null if it could not be decided). A trace is right
if it is valid and correct; a valid one that is undecided is left out and counted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.statistics import TOO_FEW, difference_interval, is_testable, mcnemar_p, sign_flip_p
from r2a.store import labelled, read_parquet, read_provenance
from r2a.study import CONDITIONS
from r2a.traces import TRACE_KEYS

WITH, WITHOUT = CONDITIONS
SHORT = {condition: condition.split("_")[0] for condition in CONDITIONS}  # in names of columns
TRACE_COLUMNS = [
    *TRACE_KEYS, "is_finished", "is_well_formed", "is_valid", "invalid_reason", "finish_reason", "n_forced_tokens",
]  # fmt: skip


class EvaluationError(Exception):
    """Tables cannot be made; the message names the files and the remedy."""


def read_traces(
    traces: Sequence[Path], grades: Sequence[Path], datasets: Sequence[Path], settings: Mapping[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All traces, one row each, and those with grades as a graded table, under the labels of models and datasets.

    Both have n_tokens, the completion's tokens including EOS, or nan if an endpoint gave none. settings: model_labels,
    dataset_labels. Raises EvaluationError if two models or datasets share a label, or if grades do not belong to their
    traces.
    """
    problems = {labelled(path, settings)["dataset"]: read_parquet(path, ["uid", "area", "level"]) for path in datasets}
    grades_of = {_place(labelled(path, settings)): path for path in grades}
    _check_labels([labelled(path, settings) for path in traces])
    parts, graded = [], []
    for path in traces:
        names = labelled(path, settings)
        part = read_parquet(path, [*TRACE_COLUMNS, "completion_token_ids"])
        lengths = part.pop("completion_token_ids").map(len)
        part["n_tokens"] = lengths if lengths[part["is_finished"]].all() else np.nan
        part.insert(0, "model", names["model_label"])
        part.insert(1, "dataset", names["dataset_label"])
        parts.append(part)
        grade_path = grades_of.get(_place(names))
        if grade_path is not None:
            table = part.merge(read_parquet(grade_path, [*TRACE_KEYS, "is_correct", "reason"]), on=list(TRACE_KEYS))
            table = table.merge(problems[names["dataset"]], on="uid")
            if len(table) != len(part):
                raise EvaluationError(
                    f"{grade_path}: does not have one grade per trace of {path}; delete it and run again"
                )
            graded.append(table)
    all_graded = pd.concat(graded, ignore_index=True) if graded else _no_graded()
    return pd.concat(parts, ignore_index=True), with_outcomes(all_graded)


def n_unreadable(datasets: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, int]:
    """How many problems were left out because their references cannot be read, by the dataset's label."""
    found = {}
    for path in datasets:
        origin = read_provenance(path)
        if origin["parameters"].get("unreadable_references") == "drop":
            found[labelled(path, settings)["dataset_label"]] = len(origin["unreadable_references"])
    return found


def with_outcomes(graded: pd.DataFrame) -> pd.DataFrame:
    """A graded table with the columns is_undecided and is_right added."""
    is_valid = graded["is_valid"].astype(bool)
    is_undecided = is_valid & graded["is_correct"].isna()
    is_right = is_valid & graded["is_correct"].eq(True).fillna(False).astype(bool)
    return graded.assign(is_valid=is_valid, is_undecided=is_undecided, is_right=is_right)


def problem_shares(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of a column over each problem's samples, as [problem, condition]; nan where there are none."""
    means = rows.groupby(["uid", "condition"])[column].mean().unstack()
    return means.reindex(columns=list(CONDITIONS)).astype(float)


def n_samples(rows: pd.DataFrame) -> int:
    return int(rows["sample"].nunique())


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def paired_test(first: np.ndarray, second: np.ndarray, n_samples: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The difference between two shares of the same problems [problem]: difference, low, high, b, c, test and p.

    difference: the first minus the second (difference_interval). p: exact McNemar or, with several samples per problem,
    sign flips; nan for too few problems to test. b and c: problems in which the first, and the second, is larger.
    settings: n_resamples, confidence, seed.
    """
    difference = first - second
    low, high = difference_interval(first, second, n_samples, n_samples, settings["confidence"])
    b, c = int((difference > 0).sum()), int((difference < 0).sum())
    p, test = float("nan"), TOO_FEW
    if is_testable(len(difference), settings["confidence"]):
        p, test = float(mcnemar_p(b, c)), "exact McNemar"
        if n_samples > 1:
            p, test = sign_flip_p(difference, settings["n_resamples"], settings["seed"]), "sign-flip permutation"
    return {
        "difference": mean(difference), "low": float(low), "high": float(high), "b": b, "c": c, "p": p, "test": test
    }  # fmt: skip


def _place(names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(names.get(kind, "") for kind in ("model", "dataset", "condition", "decoding"))


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
    columns = ["model", "dataset", *TRACE_COLUMNS, "n_tokens", "is_correct", "reason", "area", "level"]
    return pd.DataFrame(columns=columns)

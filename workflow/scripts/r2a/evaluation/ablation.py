"""What the ablation of heads does to the answers (METHOD section 3)."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.evaluation.outcomes import mean
from r2a.roles import RFH, UNABLATED
from r2a.statistics import (
    bootstrap_interval,
    difference_interval,
    holm,
    is_testable,
    label_p,
    mcnemar_p,
    share_interval,
    sign_flip_p,
)
from r2a.store import provenance, read_parquet, write_csv

SHARES = ("accuracy", "agreement", "format")
MEASURED = ("tracking", "a2r")  # metrics that are not shares of answers
CHECK = "a2r"  # ablation changes it by construction, so testing it would be circular
COLUMNS = [
    "mode", "dose", "selection", "metric", "n_problems", "n_undecided", "n_draws", "value", "low", "high",
    "difference", "difference_low", "difference_high", "test", "p", "p_holm", "overlap",
]  # fmt: skip


def write_ablation(graded: Path, effect: Path, settings: Mapping[str, Any]) -> None:
    """Write ablation_effect_table of one model and dataset as CSV. settings: n_resamples, confidence, seed."""
    write_csv(effect, ablation_effect_table(read_parquet(graded), settings), provenance(settings, [graded]))


def ablation_effect_table(graded: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per (mode, dose, selection, metric): the metric after ablation, and how it compares with the RFHs'.

    value: the mean over problems, after averaging a problem's samples and a selection's draws; the unablated answers
    are a mode of their own. Undecided answers are left out and counted in n_undecided. difference: the value for the
    Reasoning-Focus Heads minus the selection's, in the same mode and at the same dose, over the same problems. p: where
    the selection has several draws, a test that moves the label RFH among a problem's arms (label_p); otherwise exact
    McNemar, or sign flips for metrics that are not yes or no. p_holm is adjusted over the modes, doses and selections
    of a metric. a2r is a manipulation check and has no p. Intervals: share_interval and difference_interval; for other
    metrics, a bootstrap over problems. overlap: the share of the selection's heads that are among the RFHs ablated at
    that dose. METHOD section 3.
    """
    rows = []
    metrics = [metric for metric in (*SHARES, *MEASURED) if metric in graded]
    for (mode, dose), of_dose in graded.groupby(["mode", "dose"], sort=False):
        parts = dict(list(of_dose.groupby("selection", sort=False)))
        arms = {name: part.pivot_table(metrics, "uid", "draw", dropna=False) for name, part in parts.items()}
        overlaps = {name: _overlap(part, parts[RFH]) for name, part in parts.items() if RFH in parts}
        for metric, (selection, part) in product(metrics, parts.items()):
            values = arms[selection][metric]
            row = {"mode": mode, "dose": dose, "selection": selection, "metric": metric}
            row |= {"n_problems": len(values), "n_undecided": int(part[metric].isna().sum())}
            row |= {"n_draws": values.shape[1]}
            row |= _value(values, metric, part["sample"].nunique() if "sample" in part else 1, settings)
            if selection not in (RFH, UNABLATED) and RFH in parts:
                row |= _compared(arms[RFH][metric], values, metric, settings)
                row["overlap"] = overlaps[selection]
            rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["p_holm"] = table.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(float)))
    return table


def _value(values: pd.DataFrame, metric: str, n_samples: int, settings: Mapping[str, Any]) -> dict[str, float]:
    """Mean and interval over problems of values [problem, draw], whose draws are averaged."""
    means = values.mean(axis=1).dropna().to_numpy(float)
    ends: tuple[Any, Any]
    if metric in SHARES:
        ends = share_interval(means, values.shape[1] * n_samples, settings["confidence"])
    else:
        ends = bootstrap_interval(means, settings["n_resamples"], settings["confidence"], settings["seed"])
    return {"value": mean(means), "low": float(ends[0]), "high": float(ends[1])}


def _compared(
    rfh: pd.DataFrame, other: pd.DataFrame, metric: str, settings: Mapping[str, Any]
) -> dict[str, float | str]:
    """RFHs minus another selection, values [problem, draw] each, over the problems that both have."""
    draws = settings["n_resamples"], settings["seed"]
    both = pd.DataFrame({"rfh": rfh.mean(axis=1), "other": other.mean(axis=1)}).dropna()
    first, second = both.to_numpy(float).T
    difference = first - second
    ends: tuple[Any, Any]
    if metric in SHARES:
        ends = difference_interval(first, second, rfh.shape[1], other.shape[1], settings["confidence"])
    else:
        ends = bootstrap_interval(difference, draws[0], settings["confidence"], draws[1])
    row: dict[str, float | str] = {"difference": mean(difference)}
    row |= {"difference_low": float(ends[0]), "difference_high": float(ends[1]), "p": np.nan, "test": ""}
    if metric == CHECK or not is_testable(len(both), settings["confidence"]):
        return row
    if other.shape[1] > 1:
        # a problem with undecided draws has no label to move
        arms = rfh.mean(axis=1).to_frame("rfh").join(other).dropna().to_numpy(float)
        return row | {"p": label_p(arms, *draws), "test": "label permutation"}
    if np.isin(difference, (-1, 0, 1)).all():
        p = float(mcnemar_p(int((difference > 0).sum()), int((difference < 0).sum())))
        return row | {"p": p, "test": "exact McNemar"}
    return row | {"p": sign_flip_p(difference, *draws), "test": "sign-flip permutation"}


def _overlap(arms: pd.DataFrame, of_rfhs: pd.DataFrame) -> float:
    """Share of a selection's heads that are among the RFHs ablated at the same dose, mean over its arms."""
    rfhs = set(zip(of_rfhs["layers"].iloc[0], of_rfhs["heads"].iloc[0], strict=True))
    heads = [set(zip(row.layers, row.heads, strict=True)) for row in arms.itertuples()]
    return float(np.mean([len(drawn & rfhs) / len(rfhs) for drawn in heads]))

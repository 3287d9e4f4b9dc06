"""What the ablation of heads does to the answers (METHOD section 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.evaluation.outcomes import mean
from r2a.roles import RANDOM, RFH, UNABLATED
from r2a.statistics import bootstrap_interval, difference_interval, holm, share_interval, sign_flip_p
from r2a.store import provenance, read_parquet, write_csv

METRICS = ("accuracy", "agreement", "format", "a2r")


def write_ablation(graded: Path, effect: Path, settings: Mapping[str, Any]) -> None:
    """Write effect_table of one model and dataset as CSV. settings: n_resamples, confidence, seed."""
    write_csv(effect, effect_table(read_parquet(graded), settings), provenance(settings, [graded]))


def effect_table(graded: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row a (mode, metric, dose): what is left of a metric, problem by problem, in METHOD section 3's terms.

    rfh and random are means over problems, a problem's draws of random heads being averaged first; dose 0 is the
    unablated answer in both. Undecided answers are left out, and counted in n_undecided. difference is rfh minus random
    on the same problems, with its sign-flip p; p_holm is adjusted over the modes and doses of a metric. Intervals are
    share_interval's and difference_interval's, and for a2r, which is no share of answers, a bootstrap over problems.
    overlap: the share of the random heads that are among the RFHs ablated at that dose, because their layer has too
    few others.
    """
    rows = []
    unablated = graded[graded["mode"] == UNABLATED].set_index("uid")
    ablated = graded[graded["mode"] != UNABLATED]
    for metric in METRICS:
        by_problem = ablated.pivot_table(metric, "uid", ["mode", "selection", "dose"], dropna=False)
        for mode in ablated["mode"].unique():
            for dose in [0, *sorted(ablated["dose"].unique())]:
                rfh, other = (
                    by_problem[mode, selection, dose] if dose else unablated[metric] for selection in (RFH, RANDOM)
                )
                arms = ablated[(ablated["mode"] == mode) & (ablated["dose"] == dose)] if dose else unablated
                row = {"mode": mode, "metric": metric, "dose": dose}
                row |= {"n_problems": len(unablated), "n_undecided": int(arms[metric].isna().sum())}
                n_draws = arms["draw"].nunique()
                row |= _measured("rfh", [rfh], [1], metric, settings)
                row |= _measured("random", [other], [n_draws], metric, settings)
                if dose:
                    row |= _measured("difference", [rfh, other], [1, n_draws], metric, settings)
                    difference = (rfh - other).dropna().to_numpy()
                    row["p"] = sign_flip_p(difference, settings["n_resamples"], settings["seed"])
                    row["overlap"] = _overlap(arms)
                rows.append(row)
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(float)))
    return table


def _measured(
    name: str, values: Sequence[pd.Series], n_answers: Sequence[int], metric: str, settings: Mapping[str, Any]
) -> dict[str, float]:
    """Mean and interval over problems of a metric, each of n_answers, or of one minus another."""
    decided = pd.concat(values, axis=1).dropna().to_numpy(float).T
    means = decided[0] - decided[1] if len(decided) == 2 else decided[0]
    ends: tuple[Any, Any]
    if metric == "a2r":
        ends = bootstrap_interval(means, settings["n_resamples"], settings["confidence"], settings["seed"])
    elif len(decided) == 2:
        ends = difference_interval(decided[0], decided[1], n_answers[0], n_answers[1], settings["confidence"])
    else:
        ends = share_interval(decided[0], n_answers[0], settings["confidence"])
    return {name: mean(means), f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}


def _overlap(arms: pd.DataFrame) -> float:
    """Share of random heads that are among the RFHs ablated at the same dose."""
    heads = pd.Series([set(zip(row.layers, row.heads, strict=True)) for row in arms.itertuples()], arms.index)
    rfhs = heads[arms["selection"] == RFH].iloc[0]
    return float(np.mean([len(drawn & rfhs) / len(rfhs) for drawn in heads[arms["selection"] == RANDOM]]))

"""Is attention to the reasoning related to correctness? Right answers against wrong ones."""

from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from r2a.evaluation.outcomes import mean
from r2a.roles import BETWEEN, WITHIN
from r2a.statistics import holm
from r2a.store import labelled, provenance, read_parquet, why_empty, write_csv
from r2a.traces import TRACE_KEYS

# a2r grows with the reasoning's length, which grows with difficulty; lift is a2r adjusted for length
QUALITIES = ("a2r", "lift", "tracking", "spread")
COLUMNS = [
    "model", "dataset", "decoding", "score", "compared", "n_problems", "n_right", "n_wrong", "right", "wrong",
    "difference", "auc", "p", "p_holm",
]  # fmt: skip


def quality_table(traces: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per score: its mean over right and over wrong answers, and whether it ranks one above the other.

    traces: uid, is_correct and the scores. Traces with an undefined score (nan) are left out; n counts the others. If
    problems have several samples, right samples are compared with wrong ones of the same problem, over the n_problems
    that have both: right, wrong and difference average over problems, auc is the probability that a right sample scores
    above a wrong one (ties count half), and p permutes the verdicts among each problem's samples. With one sample per
    problem, the comparison is between problems, by the two-sided Mann-Whitney test (1947), and difficulty may explain
    it. Holm's correction is over the scores. p is nan if there are too few problems to reach significance. settings:
    n_resamples, confidence, seed.
    """
    compared = WITHIN if traces["uid"].duplicated().any() else BETWEEN
    rows = []
    for score in QUALITIES:
        defined = traces[traces[score].notna() & traces["is_correct"].notna()]
        is_right = defined["is_correct"].astype(bool).to_numpy()
        values, problems = defined[score].to_numpy(float), defined["uid"].to_numpy()
        compare = _within if compared == WITHIN else _between
        rows.append((score, compared, *compare(values, is_right, problems, settings)))
    table = pd.DataFrame(rows, columns=COLUMNS[3:-1])
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def _between(
    values: np.ndarray, is_right: np.ndarray, problems: np.ndarray, settings: Mapping[str, Any]
) -> tuple[float, ...]:
    right, wrong = values[is_right], values[~is_right]
    auc = p = np.nan
    if len(right) and len(wrong):
        test = mannwhitneyu(right, wrong)
        auc = float(test.statistic) / (len(right) * len(wrong))
        least_p = 2 / comb(len(values), len(right))  # over all ways to choose the right ones
        p = float(test.pvalue) if least_p <= 1 - settings["confidence"] else np.nan
    means = [mean(part) for part in (right, wrong)]
    return len(values), len(right), len(wrong), *means, means[0] - means[1], auc, p


def _within(
    values: np.ndarray, is_right: np.ndarray, problems: np.ndarray, settings: Mapping[str, Any]
) -> tuple[float, ...]:
    frame = pd.DataFrame({"problem": problems, "value": values, "is_right": is_right})
    has_both = frame.groupby("problem")["is_right"].transform("nunique") == 2
    frame = frame[has_both].sort_values("problem", kind="stable")
    sides = frame.groupby(["problem", "is_right"])["value"].mean().unstack()
    n_right, n_wrong = int(frame["is_right"].sum()), int((~frame["is_right"]).sum())
    if frame.empty:
        return 0, 0, 0, *[np.nan] * 5
    means = float(sides[True].mean()), float(sides[False].mean())
    auc, p = within_problems(
        frame["value"].to_numpy(), frame["is_right"].to_numpy(), frame["problem"].to_numpy(), settings
    )
    return len(sides), n_right, n_wrong, *means, means[0] - means[1], auc, p


def within_problems(
    values: np.ndarray, is_right: np.ndarray, problems: np.ndarray, settings: Mapping[str, Any]
) -> tuple[float, float]:
    """AUC of right against wrong samples of the same problem, mean over the problems that have both, and its two-sided
    p.

    values, is_right, problems: [sample], with each problem's samples next to each other. A problem's AUC is computed
    from the mid-ranks of its right samples, so that p is that of a stratified rank test (van Elteren, 1960) by
    permutation within problems. p is nan if not even the most extreme permutation would be significant.
    """
    _, of, n_samples = np.unique(problems, return_inverse=True, return_counts=True)
    n_right = np.bincount(of, is_right)
    ranks = pd.Series(values).groupby(of).rank().to_numpy()
    # what a sample would add to its problem's AUC if it were right
    parts = ranks / (n_right * (n_samples - n_right))[of]
    constant = ((n_right + 1) / 2 / (n_samples - n_right)).sum()
    observed = (parts[is_right].sum() - constant) / len(n_samples)
    rng, n_extreme, n_done = np.random.default_rng(settings["seed"]), 0, 0
    first = np.repeat(np.cumsum(n_samples) - n_samples, n_samples)
    position = np.arange(len(values)) - first
    chosen = position < n_right[of]  # the first places of each problem's shuffled samples
    while n_done < settings["n_resamples"]:
        n_now = min(settings["n_resamples"] - n_done, max(1, 2**22 // len(values)))
        shuffled = np.argsort(of + rng.random((n_now, len(values))), axis=1)
        drawn = (parts[shuffled][:, chosen].sum(1) - constant) / len(n_samples)
        n_extreme += int(np.sum(np.abs(drawn - 0.5) >= abs(observed - 0.5) - 1e-9))
        n_done += n_now
    log_ways = sum(np.log(comb(int(n), int(k))) for n, k in zip(n_samples, n_right, strict=True))
    is_possible = log_ways >= np.log(2 / (1 - settings["confidence"]))
    return float(observed), (1 + n_extreme) / (1 + n_done) if is_possible else np.nan


def write_attention_quality(
    by_trace: Sequence[Path], grades: Sequence[Path], output: Path, settings: Mapping[str, Any]
) -> None:
    """Write quality_table for every model and dataset as CSV, under their labels.

    by_trace: the RFHs' scores of each trace, as the stage `heads` writes them. grades: of the same models and datasets.
    settings: n_resamples, confidence, seed.
    """
    parts = []
    for path, grades_path in zip(by_trace, grades, strict=True):
        if why_empty(path) is not None:
            continue
        names, traces = labelled(path, settings), read_parquet(path)
        verdicts = read_parquet(grades_path, [*TRACE_KEYS, "is_correct"])
        table = quality_table(traces.merge(verdicts, on=list(TRACE_KEYS), how="left", validate="1:1"), settings)
        named = {"model": names["model_label"], "dataset": names["dataset_label"], "decoding": traces["decoding"][0]}
        parts.append(table.assign(**named)[COLUMNS])
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    write_csv(output, found, provenance(settings, [*by_trace, *grades]))

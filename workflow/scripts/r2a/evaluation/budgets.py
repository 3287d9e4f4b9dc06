"""Accuracy as a function of the token budget, from traces that were given more."""

import numpy as np
import pandas as pd

from r2a.evaluation.outcomes import SHORT, WITH, WITHOUT, n_samples
from r2a.statistics import difference_interval, share_interval, simultaneous_confidence
from r2a.study import CONDITIONS

MOST_BUDGETS = 40
NAMES = ["model", "dataset", "decoding"]
MEASURED = ("accuracy", "low", "high", "finished")
BUDGET_COLUMNS = [
    *NAMES, "budget", "n_problems", "n_samples",
    *(f"{name}_{short}" for short in SHORT.values() for name in MEASURED), "difference", "low", "high", "band_low",
    "band_high",
]  # fmt: skip


def budget_table(graded: pd.DataFrame, n_resamples: int, confidence: float, seed: int) -> pd.DataFrame:
    """One row per model, dataset, decoding and budget: accuracy if completions were cut off at so many tokens.

    graded: with_outcomes, with n_tokens (including EOS, excluding the prompt's closed reasoning); where these are
    unknown, there is no row. An answer that is incomplete at the budget is wrong. Budgets: evenly spaced among the
    lengths at which completions of either condition ended; the last one is the longest, at which nothing is cut.
    finished_*: the share of completions that are complete within it. difference: with reasoning minus without. low and
    high hold at each budget by itself (difference_interval), band_low and band_high at all budgets at once (at
    simultaneous_confidence). METHOD section 2.
    """
    rows = []
    for names, part in graded.groupby(NAMES, sort=False):
        ended = part.loc[part["is_finished"], "n_tokens"].dropna()
        if not len(ended):
            continue
        budgets = np.unique(np.quantile(ended, np.linspace(0, 1, MOST_BUDGETS), method="higher"))
        decided = part[~part["is_undecided"]]
        uids = decided.groupby("uid")["condition"].nunique().eq(len(CONDITIONS))
        paired = decided[decided["uid"].map(uids)]
        samples = n_samples(part)
        right = {c: _shares_within(paired[paired["condition"] == c], "is_right", budgets) for c in CONDITIONS}
        finished = {c: _shares_within(paired[paired["condition"] == c], "is_finished", budgets) for c in CONDITIONS}
        measured = {"difference": right[WITH].mean(-1) - right[WITHOUT].mean(-1)}
        at_once = simultaneous_confidence(right[WITH] - right[WITHOUT], n_resamples, confidence, seed)
        for prefix, level in (("", confidence), ("band_", at_once)):
            ends = difference_interval(right[WITH], right[WITHOUT], samples, samples, level)
            measured |= dict(zip((f"{prefix}low", f"{prefix}high"), ends, strict=True))
        for condition, short in SHORT.items():
            low, high = share_interval(right[condition], samples, confidence)
            values = right[condition].mean(-1), low, high, finished[condition].mean(-1)
            measured |= {f"{name}_{short}": value for name, value in zip(MEASURED, values, strict=True)}
        constant = dict(zip(NAMES, names, strict=True)) | {"n_problems": int(uids.sum()), "n_samples": samples}
        rows.append(pd.DataFrame({"budget": budgets, **measured}).assign(**constant))
    return pd.concat(rows, ignore_index=True)[BUDGET_COLUMNS] if rows else pd.DataFrame(columns=BUDGET_COLUMNS)


def _shares_within(rows: pd.DataFrame, column: str, budgets: np.ndarray) -> np.ndarray:
    """The share of each problem's traces that are within each budget and have the column true, as [budget, problem]."""
    holds = rows[column].to_numpy(bool)[:, None] & (rows["n_tokens"].to_numpy(int)[:, None] <= budgets)
    return pd.DataFrame(holds, index=rows["uid"]).groupby(level=0).mean().to_numpy(float).T

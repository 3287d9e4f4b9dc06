"""How much the final answer depends on what a sentence says: counterfactual importance (METHOD section 5)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.store import provenance, read_parquet, write_csv

LEAST_ROLLOUTS = 2  # needed with the sentence kept, and with another one in its place
N_ANSWERS = 3  # of each side that are named
PSEUDOCOUNT = 0.5  # added to every answer's count, so that an answer unseen on one side keeps the divergence finite


def write_resampling(rollouts: Path, table: Path, settings: Mapping[str, Any]) -> None:
    """Write resampling_table as CSV. settings: similarity, n_resamples, confidence, seed."""
    write_csv(table, resampling_table(read_parquet(rollouts), settings), provenance(settings, [rollouts]))


def resampling_table(rollouts: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per resampled sentence: does another sentence in its place change the final answer?

    importance: the KL divergence (nats) of the answers' distribution with a sentence of another meaning in its place
    from that with the sentence kept (Bogdan et al. 2025, arXiv 2506.19143, method 1); nan with fewer than
    LEAST_ROLLOUTS on either side. A sentence has another meaning if its similarity is below settings["similarity"], or
    if there is none. low, high: a bootstrap over the rollouts. Columns: uid, sample, sentence (from 1), n_kept,
    n_resampled (rollouts from before it), n_other (those with another meaning), share_kept_answer and
    share_other_answer (of the most frequent answer with the sentence kept), importance, low, high, answers_kept and
    answers_other (the N_ANSWERS most frequent, each with its count), n_tokens (written by the rollouts of both cuts).
    """
    rows = []
    for (uid, sample), trace in rollouts.groupby(["uid", "sample"], sort=False):
        by_step = dict(list(trace.groupby("step")))
        for step in sorted(by_step):
            if step + 1 not in by_step:
                continue
            before, kept = by_step[step], by_step[step + 1]["answer"].tolist()
            is_other = ~(before["similarity"] >= settings["similarity"])
            other = before["answer"][is_other].tolist()
            importance, low, high = divergence(other, kept, settings)
            most = max(sorted(set(kept)), key=kept.count)
            rows.append(
                {
                    "uid": uid, "sample": sample, "sentence": step + 1, "n_kept": len(kept),
                    "n_resampled": len(before), "n_other": len(other),
                    "share_kept_answer": kept.count(most) / len(kept),
                    "share_other_answer": other.count(most) / len(other) if other else np.nan,
                    "importance": importance, "low": low, "high": high,
                    "answers_kept": _named(kept), "answers_other": _named(other),
                    "n_tokens": int(before["n_tokens"].sum() + by_step[step + 1]["n_tokens"].sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _named(answers: Sequence[str]) -> str:
    """The most frequent answers in words."""
    most = Counter(sorted(answers)).most_common(N_ANSWERS)
    return ", ".join(f"{answer or 'none'} ({n})" for answer, n in most)


def divergence(other: Sequence[str], kept: Sequence[str], settings: Mapping[str, Any]) -> tuple[float, float, float]:
    """KL divergence of one distribution of answers from another, in nats, and its bootstrap interval."""
    if min(len(other), len(kept)) < LEAST_ROLLOUTS:
        return np.nan, np.nan, np.nan
    answers = sorted({*other, *kept})
    counts = [np.array([side.count(answer) for answer in answers], float) for side in (other, kept)]
    rng = np.random.default_rng(settings["seed"])
    drawn = [rng.multinomial(int(n.sum()), n / n.sum(), settings["n_resamples"]) for n in counts]
    tails = (1 - settings["confidence"]) / 2
    low, high = np.quantile(_divergences(*drawn), [tails, 1 - tails])
    return float(_divergences(*counts)), float(low), float(high)


def _divergences(other: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """KL divergence [...] from counts [..., answer]."""
    p, q = ((n + PSEUDOCOUNT) / (n + PSEUDOCOUNT).sum(-1, keepdims=True) for n in (other, kept))
    return (p * np.log(p / q)).sum(-1)

"""How far different scores select the same heads (METHOD section 3)."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from r2a.heads.registry import Weighted
from r2a.statistics import percentile_ends, resampled_means

RANKINGS = ("a2r", "sink_free", "density", "contribution")  # scores by which heads are listed
COLUMNS = [
    "first", "second", "n_top", "n_heads", "expected", "n_shared", "n_shared_low", "n_shared_high",
    "rank_correlation", "rank_correlation_low", "rank_correlation_high",
]  # fmt: skip


def compare_lists(
    scores: Mapping[str, Weighted],
    n_top: int,
    n_resamples: int,
    confidence: float,
    seed: int,
    problems: np.ndarray | None = None,
) -> pd.DataFrame:
    """One row per pair of RANKINGS among the scores: how many of their n_top heads they share.

    scores: values [trace, layer, head]; problems: the problem of each trace. n_shared and the Spearman rank_correlation
    over all heads, with ends by a bootstrap over problems that draws both scores' traces together; expected: how many
    heads two random lists share. A head with an undefined score ranks last by it.
    """
    ranks, drawn, n_clusters = {}, {}, 0
    for name in (name for name in RANKINGS if name in scores):
        flat = Weighted(*(part.reshape(len(part), -1) for part in scores[name]))
        n_clusters = len(flat.values) if problems is None else len(np.unique(problems))
        ranks[name] = _ranks(flat.mean()[None])
        drawn[name] = _ranks(resampled_means(flat.values, n_resamples, seed, problems, flat.weights))
    rows = []
    for first, second in combinations(ranks, 2):
        n_heads = ranks[first].shape[1]
        row = {"first": first, "second": second, "n_top": n_top, "n_heads": n_heads, "expected": n_top**2 / n_heads}
        for measure, of in (("n_shared", _shared), ("rank_correlation", _correlation)):
            (row[measure],) = of(ranks[first], ranks[second], n_top)
            ends = percentile_ends(of(drawn[first], drawn[second], n_top)[:, None], n_clusters, confidence)
            row |= {f"{measure}_{end}": float(value[0]) for end, value in zip(("low", "high"), ends, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks of scores [draw, head], 1 the highest; of equal ones the first head is higher."""
    return rankdata(-np.nan_to_num(scores, nan=-np.inf), method="ordinal", axis=-1)


def _shared(first: np.ndarray, second: np.ndarray, n_top: int) -> np.ndarray:
    return ((first <= n_top) & (second <= n_top)).sum(-1).astype(float)


def _correlation(first: np.ndarray, second: np.ndarray, _: int) -> np.ndarray:
    n = first.shape[-1]
    return 1 - 6 * ((first - second).astype(float) ** 2).sum(-1) / (n * (n**2 - 1))

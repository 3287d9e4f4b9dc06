"""Reasoning-Focus Heads (METHOD section 3; Zhang et al. 2025, section 4)."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from r2a.traces import QUERY_SEGMENTS, SEGMENTS

ANSWER, REASONING = QUERY_SEGMENTS.index("answer"), QUERY_SEGMENTS.index("reasoning")
# the paper's short names: (query segment, key segment)
SHORT_NAMES = {
    "a2r": ("answer", "reasoning"), "a2p": ("answer", "prompt"), "a2bos": ("answer", "bos"),
    "a2bot": ("answer", "think_open"), "a2eot": ("answer", "think_close"), "a2a": ("answer", "answer"),
    "r2r": ("reasoning", "reasoning"), "r2p": ("reasoning", "prompt"), "r2bos": ("reasoning", "bos"),
    "r2bot": ("reasoning", "think_open"),
}  # fmt: skip


def short_mass(mass: np.ndarray, name: str) -> np.ndarray:
    """The [..., query_segment, key_segment] mass that the paper calls `name`, as [...]."""
    query, key = SHORT_NAMES[name]
    return mass[..., QUERY_SEGMENTS.index(query), SEGMENTS.index(key)]


def uniform_a2r(bounds: np.ndarray) -> np.ndarray:
    """a2r of a head that attends evenly to all visible keys, per trace [trace]; bounds [trace, 8]."""
    rows = [(b[4] - b[3]) * np.mean(1 / np.arange(b[5] + 1, b[6] + 1)) for b in bounds]
    return np.array(rows)


def rank_heads(
    mass: np.ndarray, bounds: np.ndarray, n_top: int, n_resamples: int, confidence: float, seed: int
) -> pd.DataFrame:
    """One row a (layer, head): every segment mass averaged over traces, and how it ranks by a2r.

    mass: [trace, layer, head, query_segment, key_segment]; bounds: [trace, 8] token positions.
    Columns: layer, head, the paper's short names, a2r_low and a2r_high (bootstrap over traces), rank (1 is
    the highest a2r), lift (a2r over uniform attention's), top_share (share of traces in whose own n_top the
    head is), bootstrap_share (share of bootstrap draws in whose n_top it is), is_rfh (rank <= n_top).
    """
    n_traces, n_layers, n_heads = mass.shape[:3]
    a2r = short_mass(mass, "a2r").reshape(n_traces, -1).astype(np.float64)
    draws = np.random.default_rng(seed).multinomial(n_traces, np.full(n_traces, 1 / n_traces), n_resamples)
    resampled = draws @ a2r / n_traces
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail], axis=0)
    means = {name: short_mass(mass, name).reshape(n_traces, -1).mean(0) for name in SHORT_NAMES}
    rank = rankdata(-a2r.mean(0), method="ordinal")
    layers, heads = np.divmod(np.arange(n_layers * n_heads), n_heads)
    return pd.DataFrame(
        {
            "layer": layers,
            "head": heads,
            **means,
            "a2r_low": low,
            "a2r_high": high,
            "rank": rank,
            "lift": (a2r / uniform_a2r(bounds)[:, None]).mean(0),
            "top_share": _in_top(a2r, n_top).mean(0),
            "bootstrap_share": _in_top(resampled, n_top).mean(0),
            "is_rfh": rank <= n_top,
        }
    )


def _in_top(scores: np.ndarray, n_top: int) -> np.ndarray:
    """For each row of scores [row, head], which heads are among its n_top highest."""
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1, kind="stable")[:, :n_top], True, axis=1)
    return chosen

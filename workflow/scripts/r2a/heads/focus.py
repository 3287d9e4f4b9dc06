"""Reasoning-Focus Heads (METHOD section 3; Zhang et al. 2025, section 4)."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from r2a.extensions import head_score
from r2a.heads.registry import Weighted, score_columns, stacked
from r2a.statistics import percentile_ends, resampled_means
from r2a.traces import QUERY_SEGMENTS, SEGMENTS, SHORT_NAMES, Bounds

LEAST_REST = 1e-4  # the least attention of which shares are taken; less is rounding


def short_mass(mass: np.ndarray, name: str) -> np.ndarray:
    """The [..., query_segment, key_segment] mass that the paper calls `name`, as [...]."""
    query, key = SHORT_NAMES[name]
    return mass[..., QUERY_SEGMENTS.index(query), SEGMENTS.index(key)]


def uniform_a2r(bounds: Bounds) -> float:
    """a2r of a head that attends evenly to all visible keys, in a trace with these bounds."""
    n_visible = np.arange(bounds.answer, bounds.eos) + 1
    return float((bounds.think_close - bounds.reasoning) * np.mean(1 / n_visible))


@head_score(label="a2r: on the reasoning", store="attention")
def a2r(segment_mass: np.ndarray) -> np.ndarray:
    """Share of the answer tokens' attention that lies on the reasoning; it grows with the reasoning's length."""
    return short_mass(segment_mass, "a2r")


@head_score(label="lift: a2r / even attention's", store="attention")
def lift(segment_mass: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """a2r adjusted for length: divided by the reasoning's share of what the answer tokens see.

    That share, the mean over answer tokens of reasoning tokens / visible tokens, is the a2r of even attention.
    """
    return short_mass(segment_mass, "a2r") / uniform_a2r(Bounds.of(bounds))


@head_score(label="a2r without sinks", store="attention")
def sink_free(segment_mass: np.ndarray) -> Weighted:
    """a2r of rows re-normalised without the first token, on which a head that does nothing rests its attention.

    The mean over traces is that of a2r, divided by that of the attention that is not on the first token.
    """
    rest = 1 - short_mass(segment_mass, "a2bos").astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Weighted(np.where(rest > LEAST_REST, short_mass(segment_mass, "a2r") / rest, np.nan), rest)


@head_score(label="density: per token of the reasoning / other", store="attention", version=2)
def density(segment_mass: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Attention per reasoning token, divided by that per other token that the answer sees.

    The first token and the delimiters are excluded. Each of the answer's tokens sees itself and those before it, (n +
    1) / 2 tokens on average. 1 is no preference. Attention on the others counts as LEAST_REST if it is less: a head
    that attends to the reasoning alone has a high density, and one that rests on the first token has 0.
    """
    at = Bounds.of(bounds)
    n_others = at.think_open - at.prompt + (at.eos - at.answer + 1) / 2
    others = (short_mass(segment_mass, "a2p") + short_mass(segment_mass, "a2a")).astype(np.float64)
    per_token = short_mass(segment_mass, "a2r") / (at.think_close - at.reasoning)
    return per_token * n_others / np.maximum(others, LEAST_REST)


@head_score(label="in a trace's own top", store="attention")
def top_share(segment_mass: np.ndarray, n_top_heads: int) -> np.ndarray:
    """1 where the head is among the trace's own n_top_heads by a2r, else 0; its mean is a share of traces."""
    values = short_mass(segment_mass, "a2r")
    return _in_top(values.reshape(1, -1), n_top_heads).reshape(values.shape).astype(np.float32)


def rank_heads(
    mass: np.ndarray,
    bounds: np.ndarray,
    n_top: int,
    n_resamples: int,
    confidence: float,
    seed: int,
    problems: np.ndarray | None = None,
) -> pd.DataFrame:
    """One row per (layer, head): every segment mass averaged over traces, and the head's rank by a2r.

    mass: [trace, layer, head, query_segment, key_segment]; bounds: [trace, 8] token positions; problems: the problem of
    each trace (by default each its own), since the bootstrap draws problems with all their samples. Columns: layer,
    head, the paper's short names, rank (1 is the highest a2r), rank_low and rank_high (bootstrap over problems),
    bootstrap_share (share of bootstrap draws in which it is among the n_top), is_rfh (rank <= n_top), and the
    score_columns of a2r, lift and top_share. Heads of layers without attention, nan in every trace, rank last.
    """
    n_traces, n_layers, n_heads = mass.shape[:3]
    values = short_mass(mass, "a2r").reshape(n_traces, -1).astype(np.float64)
    is_there = ~np.isnan(values).all(0)
    values = np.nan_to_num(values, nan=-1)  # heads of layers without attention rank last
    resampled = resampled_means(values, n_resamples, seed, problems)
    n_problems = n_traces if problems is None else len(np.unique(problems))
    ends = percentile_ends(rankdata(-resampled, axis=1, method="ordinal"), n_problems, confidence)
    rank_low, rank_high = np.floor(ends[0]), np.ceil(ends[1])
    means = {name: short_mass(mass, name).reshape(n_traces, -1).mean(0) for name in SHORT_NAMES}
    rank = rankdata(-values.mean(0), method="ordinal")
    layers, heads = np.divmod(np.arange(n_layers * n_heads), n_heads)
    focus = {
        "a2r": [a2r(m) for m in mass],
        "lift": [lift(m, b) for m, b in zip(mass, bounds, strict=True)],
        "top_share": [top_share(m, n_top) for m in mass],
    }
    columns = [score_columns(name, stacked(v), n_resamples, confidence, seed, problems) for name, v in focus.items()]
    return pd.DataFrame(
        {
            "layer": layers,
            "head": heads,
            **means,
            "rank": rank,
            "rank_low": rank_low,
            "rank_high": rank_high,
            "bootstrap_share": _in_top(resampled, n_top).mean(0),
            "is_rfh": (rank <= n_top) & is_there,
            **{name: column for found in columns for name, column in found.items()},
        }
    )


def _in_top(scores: np.ndarray, n_top: int) -> np.ndarray:
    """For each row of scores [row, head], which heads are among its n_top highest."""
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1, kind="stable")[:, :n_top], True, axis=1)
    return chosen

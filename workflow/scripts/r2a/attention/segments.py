"""The quantities of METHOD section 3, computed from what is kept of each trace's attention."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from r2a.traces import QUERY_SEGMENTS, SEGMENTS, Bounds

# A head whose centre moves by less than this share of the reasoning does not move: its ranks would be rounding errors.
LEAST_MOVE = 1e-5


class EmptySegment(ValueError):
    """A query segment of a trace has no token, so its mean attention is undefined."""


@dataclass(frozen=True)
class TraceAttention:
    """What is kept of one trace's attention, float32. Positions in the reasoning are scaled to 0..1.

    reasoning_mass [layer, head, key_segment]: mean over reasoning tokens. answer_mass [layer, head, token]: the
    attention to each token, mean over answer tokens. centre, spread [layer, head, answer token]: mean and standard
    deviation of the position in the reasoning, weighted by the attention there; nan if there is none. contribution,
    output_share [layer, head]: norm of what a head writes to the residual stream, from the reasoning's values only and
    from all values, over the norm of what the layer's heads write together; mean over answer tokens.
    """

    reasoning_mass: np.ndarray
    answer_mass: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    contribution: np.ndarray
    output_share: np.ndarray


def query_rows(bounds: Bounds) -> dict[str, range]:
    """The tokens of each query segment. Raises EmptySegment."""
    rows = {name: range(*bounds.span(name).indices(bounds.end)) for name in QUERY_SEGMENTS}
    for name, tokens in rows.items():
        if not tokens:
            raise EmptySegment(f"segment {name} is empty")
    return rows


def segment_mass(kept: TraceAttention, bounds: Bounds) -> np.ndarray:
    """Mean attention that each query segment pays to each key segment [layer, head, query_segment, key_segment].

    The key segments tile the trace, so rows sum to 1. METHOD section 3; Zhang et al. 2025, section 4.
    """
    answer = [kept.answer_mass[..., bounds.span(segment)].sum(-1) for segment in SEGMENTS]
    by_query = {"reasoning": kept.reasoning_mass, "answer": np.stack(answer, axis=-1)}
    return np.stack([by_query[name] for name in QUERY_SEGMENTS], axis=-2)


def tracking(centre: np.ndarray) -> np.ndarray:
    """Spearman rank correlation [layer, head] of the centre [layer, head, answer token] with the token's index.

    nan for a head whose centre does not move, or that has no attention inside the reasoning.
    """
    ranks = rankdata(centre, axis=-1)  # nan throughout a head that has one
    ranks -= ranks.mean(-1, keepdims=True)
    index = np.arange(centre.shape[-1]) - (centre.shape[-1] - 1) / 2
    moves = np.ptp(centre, axis=-1) > LEAST_MOVE
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = ranks @ index / np.sqrt((ranks**2).sum(-1) * (index**2).sum())
    return np.where(moves, correlation, np.nan)


def cue_preference(answer_mass: np.ndarray, bounds: Bounds, is_cue: np.ndarray) -> np.ndarray:
    """Mean attention per cue token of the reasoning, over that per other token of it [layer, head].

    is_cue: one boolean per reasoning token. 1 means no preference; nan without cue tokens, or without others.
    """
    return _preference(answer_mass[..., bounds.span("reasoning")], is_cue, ~is_cue)


def cue_over_initial(
    answer_mass: np.ndarray, bounds: Bounds, is_cue: np.ndarray, sentence_bounds: Sequence[int]
) -> np.ndarray:
    """Mean attention per cue token, over that per other token that begins a sentence of the reasoning [layer, head].

    Cue words mostly begin sentences, and heads attend to a sentence's first word whatever it is. nan if there is no
    token of one sort.
    """
    is_initial = np.zeros(len(is_cue), bool)
    is_initial[np.asarray(sentence_bounds[:-1]) - bounds.reasoning] = True
    return _preference(answer_mass[..., bounds.span("reasoning")], is_cue, is_initial & ~is_cue)


def _preference(attention: np.ndarray, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean attention [.., token] to some tokens, divided by that to others; nan if there are none."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is nan
        return attention[..., some].mean(-1) / attention[..., others].mean(-1)


def sentence_mass(answer_mass: np.ndarray, sentence_bounds: Sequence[int]) -> np.ndarray:
    """a2r by sentence of the reasoning [layer, head, sentence]; sentence k is tokens bounds[k] up to bounds[k + 1]."""
    first, last = sentence_bounds[0], sentence_bounds[-1]
    return np.add.reduceat(answer_mass[..., first:last], np.asarray(sentence_bounds[:-1]) - first, axis=-1)

"""Where the answer's information has moved from the reasoning to the answer (METHOD section 4, ours)."""

from typing import NamedTuple

import numpy as np

from r2a.statistics import percentile_ends, resampled_means

LEAST_EFFECT = 0.1  # of normalized_logit_diff, which both curves must reach


class HandOff(NamedTuple):
    """A layer with its interval (nan if undefined), and the share of resampled clusters that have one."""

    layer: float
    low: float
    high: float
    defined_share: float


def crossing(answer: np.ndarray, final: np.ndarray, floor: float) -> np.ndarray:
    """First layer from which `final` stays above `answer` and the floor up to the last layer; curves [..., layer].

    nan if there is none, or if `answer` was not above the floor and `final` in an earlier layer.
    """
    is_final = (final > answer) & (final > floor)
    n_layers = is_final.shape[-1]
    layer = n_layers - np.logical_and.accumulate(is_final[..., ::-1], axis=-1).sum(-1)
    was_answer = np.logical_or.accumulate((answer > floor) & (answer >= final), axis=-1)
    before = np.take_along_axis(was_answer, np.maximum(layer - 1, 0)[..., None], axis=-1)[..., 0]
    return np.where((layer > 0) & (layer < n_layers) & before, layer.astype(float), np.nan)


def hand_off_layer(
    answer: np.ndarray,
    final: np.ndarray,
    n_resamples: int,
    confidence: float,
    seed: int,
    clusters: np.ndarray | None = None,
    noise_floor: float = 0.0,
) -> HandOff:
    """The hand-off layer of the mean curves, with its bootstrap interval over clusters of pairs.

    answer, final: normalized_logit_diff [pair, layer] of patches at the answer's token of the probe and at the final
    token. clusters: as in statistics.resampled_means. noise_floor: the largest mean that rounding alone can produce.
    The layer is defined if the curves cross above the noise floor and LEAST_EFFECT and stay crossed up to the last
    layer, in the mean over pairs and, with several clusters, in at least a share `confidence` of the draws. Draws
    without a crossing are left out of the interval. With a single cluster, the interval is unknown.
    """
    floor = max(LEAST_EFFECT, noise_floor)
    layer = float(crossing(answer.mean(0), final.mean(0), floor))
    n_clusters = len(answer) if clusters is None else len(np.unique(clusters))
    both = resampled_means(np.stack([answer, final], axis=1), n_resamples, seed, clusters)
    drawn = crossing(both[:, 0], both[:, 1], floor)
    share = float(np.mean(~np.isnan(drawn)))
    if np.isnan(layer) or (n_clusters > 1 and share < confidence):
        return HandOff(np.nan, np.nan, np.nan, share)
    low, high = percentile_ends(drawn[:, None], n_clusters, confidence)
    return HandOff(layer, float(np.floor(low[0])), float(np.ceil(high[0])), share)

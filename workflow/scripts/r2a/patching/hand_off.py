"""Where the answer's information has moved from the reasoning to the answer (METHOD section 4, ours)."""

import numpy as np


def crossing(answer: np.ndarray, final: np.ndarray) -> np.ndarray:
    """First layer at which `answer` falls under `final`, curves [..., layer]; nan where it never does."""
    under = answer < final
    return np.where(under.any(-1), under.argmax(-1).astype(float), np.nan)


def hand_off_layer(
    answer: np.ndarray, final: np.ndarray, n_resamples: int, confidence: float, seed: int
) -> tuple[float, float, float]:
    """The hand-off layer of the mean curves, and its bootstrap interval over pairs.

    answer, final: normalized_logit_diff [pair, layer] of patches at the answer token of the probe and at the
    final token. Draws without a crossing are left out of the interval; nan where there is none at all.
    """
    n_pairs = len(answer)
    layer = float(crossing(answer.mean(0), final.mean(0)))
    draws = np.random.default_rng(seed).multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), n_resamples) / n_pairs
    layers = crossing(draws @ answer, draws @ final)
    layers = layers[~np.isnan(layers)]
    if not len(layers):
        return layer, np.nan, np.nan
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(layers, [tail, 100 - tail])
    return layer, float(low), float(high)

"""Choices of heads: the first by a score, and those that they are compared with."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

N_NEAREST = 3  # number of heads from which a match is drawn
LEAST_WRITTEN = 0.5
IDLE = 0.9  # share of a head's attention beyond which it does little but rest on the first token

Head = tuple[int, int]  # (layer, head)


def heads_by(order: pd.Series, heads: pd.DataFrame) -> tuple[Head, ...]:
    """All heads in ascending order of a value, one per row of their table; those without one come last."""
    heads = heads.loc[order.sort_values(kind="stable").index]
    return tuple(zip(heads["layer"].tolist(), heads["head"].tolist(), strict=True))


def random_heads(chosen: Sequence[Head], heads: pd.DataFrame, rng: random.Random) -> tuple[Head, ...]:
    """As many heads of each layer as were chosen in it, drawn among the layer's other heads.

    If a layer has too few others, all of them are taken, and the rest is drawn among the chosen ones.
    """
    drawn: list[Head] = []
    n_heads = int(heads["head"].max()) + 1
    for layer, n_drawn in sorted(Counter(layer for layer, _ in chosen).items()):
        of_layer = [(layer, head) for head in range(n_heads)]
        rng.shuffle(of_layer)
        drawn += sorted(of_layer, key=lambda head: head in chosen)[:n_drawn]  # stable: the others first
    return tuple(sorted(drawn))


def matched_heads(chosen: Sequence[Head], heads: pd.DataFrame, rng: random.Random) -> tuple[Head, ...]:
    """For each chosen head, another that writes as much and attends as much to the first token, so is no more idle.

    Drawn among the N_NEAREST of all layers in log output_share and a2bos, each in standard deviations over heads. A
    match writes at least LEAST_WRITTEN of what the chosen head writes, and has at most IDLE of its attention on the
    first token unless the chosen head has more. If no other head is left, chosen heads fill up the number.
    """
    written, on_first = heads["output_share"].to_numpy(float), heads["a2bos"].to_numpy(float)
    least = LEAST_WRITTEN * np.nan_to_num(written)
    most = np.where(on_first > IDLE, 1.0, IDLE)
    with np.errstate(divide="ignore"):
        features = np.stack([np.log(written), on_first], axis=1)
    features[~np.isfinite(features)] = np.nan
    features = (features - np.nanmean(features, 0)) / np.maximum(np.nanstd(features, 0), 1e-12)
    features = np.nan_to_num(features)
    names: list[Head] = list(zip(heads["layer"].tolist(), heads["head"].tolist(), strict=True))
    left = [k for k, name in enumerate(names) if name not in set(chosen)]
    drawn: list[Head] = []
    for name in chosen:
        own = names.index(name)
        fitting = [k for k in left if np.nan_to_num(written[k]) >= least[own] and not on_first[k] > most[own]]
        if not fitting:
            continue
        distances = np.abs(features[fitting] - features[own]).sum(1)
        taken = fitting[int(np.argsort(distances, kind="stable")[rng.randrange(min(N_NEAREST, len(fitting)))])]
        left.remove(taken)
        drawn.append(names[taken])
    drawn += chosen[: len(chosen) - len(drawn)]
    return tuple(sorted(drawn))

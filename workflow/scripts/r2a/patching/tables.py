"""Stage 3 in numbers: curves by layer and role, and the hand-off layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from r2a.patching.hand_off import hand_off_layer
from r2a.roles import ANSWER_ROLE, FINAL_ROLE
from r2a.store import axis_labels, provenance, write_csv


def tabulate_patching(patching: Path, curves: Path, hand_off: Path, settings: Mapping[str, Any]) -> None:
    """Write the curves' table, one row a (role, layer), and the hand-off layer's, one row.

    Curves: mean normalized_logit_diff over the used pairs with its bootstrap interval, the share of pairs
    whose arg-max flipped, and n_pairs. Hand-off: layer, low, high, n_pairs.
    """
    with h5py.File(patching) as file:
        used = file["is_used"][:] == 1
        values, flips = file["normalized_logit_diff"][used], file["is_flipped"][used]
        roles = axis_labels(file, "role")
    n_pairs, n_layers, n_roles = values.shape
    draws = np.random.default_rng(settings["seed"]).multinomial(
        n_pairs, np.full(n_pairs, 1 / n_pairs), settings["n_resamples"]
    )
    tail = 100 * (1 - settings["confidence"]) / 2
    low, high = np.percentile(draws @ values.reshape(n_pairs, -1) / n_pairs, [tail, 100 - tail], axis=0)
    layer, role = np.divmod(np.arange(n_layers * n_roles), n_roles)
    table = pd.DataFrame(
        {
            "role": np.array(roles)[role], "layer": layer, "mean": values.mean(0).ravel(), "low": low, "high": high,
            "flip_rate": flips.mean(0).ravel(), "n_pairs": n_pairs,
        }
    )  # fmt: skip
    origin = provenance(settings, [patching])
    write_csv(curves, table, origin)
    answer, final = (values[:, :, roles.index(name)] for name in (ANSWER_ROLE, FINAL_ROLE))
    found = hand_off_layer(answer, final, settings["n_resamples"], settings["confidence"], settings["seed"])
    row = dict(zip(("layer", "low", "high"), found, strict=True))
    write_csv(hand_off, pd.DataFrame([row | {"n_pairs": n_pairs}]), origin)

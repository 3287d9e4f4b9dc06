"""Stage 3 in numbers: curves by layer and role, controls, and the hand-off layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.patching.hand_off import hand_off_layer
from r2a.roles import ANSWER_ROLE, CLEAN_TO_CORRUPTED, CONTROL_ROLE, CONTROLS, CORRUPTED_TO_CLEAN, FINAL_ROLE, PROBE
from r2a.store import axis_labels, open_hdf5, provenance, write_csv

DIRECTIONS = (CLEAN_TO_CORRUPTED, CORRUPTED_TO_CLEAN)


def tabulate_patching(
    patching: Path, curves: Path, controls: Path, hand_off: Path, settings: Mapping[str, Any]
) -> None:
    """Write three tables over the used pairs; every mean is of normalized_logit_diff, with its bootstrap interval.

    Curves, a row a (component, direction, role, layer): mean, low, high, flip_rate (the share of pairs whose arg-max
    flipped) and n_pairs. Controls, a row a (component, control, layer): the same for the effect, which is the clean
    run's vector at the answer's token, and for each control; and `difference`, the effect minus the control in the
    same pairs, with its interval. Hand-off, one row, of resid_pre: layer, low, high, n_pairs.
    """
    curve_rows, control_rows = [], []
    with open_hdf5(patching) as file:
        used = file["is_used"][:] == 1
        roles, layers = axis_labels(file, "role"), axis_labels(file, "layer")

        def stored(component: str, patch: str, metric: str) -> np.ndarray:
            """[pair, layer, role]"""
            return file[f"{component}/{patch}/{metric}"][used]

        for component in settings["components"]:
            for direction in DIRECTIONS:
                values, flips = (stored(component, direction, m) for m in ("normalized_logit_diff", "is_flipped"))
                mean, low, high = _mean_and_interval(values, settings)
                for r, role in enumerate(roles):
                    for k, layer in enumerate(layers):
                        row = (component, direction, role, layer, mean[k, r], low[k, r], high[k, r])
                        curve_rows.append((*row, flips[:, k, r].mean(), len(values)))
            effects, *others = _controls(component, roles, stored)
            for name, values, flips in (effects, *others):
                there = ~np.isnan(values[:, 0])  # the pairs that have the control
                if not there.any():
                    continue
                found = _mean_and_interval(values[there], settings)
                differences = _mean_and_interval((effects[1] - values)[there], settings)
                for k, layer in enumerate(layers):
                    numbers = [column[k] for column in (*found, flips[there].mean(0), *differences)]
                    control_rows.append((component, name, layer, *numbers, int(there.sum())))
        answer, final = (
            stored("resid_pre", CLEAN_TO_CORRUPTED, "normalized_logit_diff")[:, :, roles.index(role)]
            for role in (ANSWER_ROLE, FINAL_ROLE)
        )
    origin = provenance(settings, [patching])
    columns = ["component", "direction", "role", "layer", "mean", "low", "high", "flip_rate", "n_pairs"]
    write_csv(curves, pd.DataFrame(curve_rows, columns=columns), origin)
    columns = ["component", "control", "layer", "mean", "low", "high", "flip_rate"]
    columns += ["difference", "difference_low", "difference_high", "n_pairs"]
    write_csv(controls, pd.DataFrame(control_rows, columns=columns), origin)
    layer_found = hand_off_layer(answer, final, settings["n_resamples"], settings["confidence"], settings["seed"])
    hand_off_row = dict(zip(("layer", "low", "high"), layer_found, strict=True)) | {"n_pairs": len(answer)}
    write_csv(hand_off, pd.DataFrame([hand_off_row]), origin)


def _controls(component: str, roles: list[str], stored: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, normalized_logit_diff, is_flipped), each [pair, layer]: the effect first, then every control.

    Of other tokens than the answer's, the clean run's own vectors are put in; the probe's are averaged.
    """
    answer = roles.index(ANSWER_ROLE)
    probe = [k for k, role in enumerate(roles) if role.startswith(PROBE)]
    places = [("effect", CLEAN_TO_CORRUPTED, [answer]), *((control, control, [answer]) for control in CONTROLS)]
    places.append(("other_probe_tokens", CLEAN_TO_CORRUPTED, probe))
    if CONTROL_ROLE in roles:
        places.append(("random_reasoning_token", CLEAN_TO_CORRUPTED, [roles.index(CONTROL_ROLE)]))
    return [
        (name, *(stored(component, patch, m)[:, :, at].mean(-1) for m in ("normalized_logit_diff", "is_flipped")))
        for name, patch, at in places
    ]


def _mean_and_interval(values: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over pairs of values [pair, ...], and its bootstrap interval's ends, each [...]."""
    n_pairs = len(values)
    draws = np.random.default_rng(settings["seed"]).multinomial(
        n_pairs, np.full(n_pairs, 1 / n_pairs), settings["n_resamples"]
    )
    means = np.tensordot(draws / n_pairs, values, 1)
    tail = 100 * (1 - settings["confidence"]) / 2
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return values.mean(0), low, high

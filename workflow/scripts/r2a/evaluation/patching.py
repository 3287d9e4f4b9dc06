"""Stage 3 in numbers: curves by layer and role, controls, ranges, the gradient's guess, and the hand-off layer."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from r2a.evaluation.hand_off import hand_off_layer
from r2a.roles import (
    ANSWER_ROLE,
    CLEAN_TO_CORRUPTED,
    CONTROL_ROLE,
    DIRECTIONS,
    FINAL_ROLE,
    KEY_ROLES,
    PROBE,
)
from r2a.statistics import bootstrap_interval, holm, is_testable, sign_flip_p
from r2a.store import axis_labels, open_hdf5, provenance, write_csv

METRIC = "normalized_logit_diff"
N_TOP = 10  # places with the greatest effect


class UsedPairs:
    """The pairs of one probe whose runs both prefer their own answers."""

    def __init__(self, probe: str, group: h5py.Group) -> None:
        self.probe, self.group = probe, group
        self.is_used = group["is_used"][:] == 1
        self.layers = axis_labels(group, "layer")
        self.templates = group["template"].asstr()[self.is_used]  # the clusters that pairs are resampled in

    @property
    def roles(self) -> list[str]:
        return axis_labels(self.group, "role")

    def components(self, settings: Mapping[str, Any]) -> list[str]:
        """Those of settings["components"] that the model has."""
        return [component for component in settings["components"] if component in self.group]

    def stored(self, name: str) -> np.ndarray:
        """[pair, ...]"""
        return self.group[name][self.is_used]

    def above_noise(self, values: np.ndarray) -> np.ndarray:
        """Values [pair, ...] of normalized_logit_diff; 0 where two logits' noise floor could make them up."""
        gap = self.stored("clean_logit_diff") - self.stored("corrupted_logit_diff")
        floor = (2 * self.stored("null_patch_error") / gap).reshape(-1, *[1] * (values.ndim - 1))
        return np.where(np.abs(values) <= floor, 0.0, values.astype(np.float64))


def used_pairs_of(file: h5py.File) -> Iterator[UsedPairs]:
    """By probe; a probe without any is left out."""
    for probe in axis_labels(file, "probe"):
        pairs = UsedPairs(probe, file[probe])
        if pairs.is_used.any():
            yield pairs


def tabulate_patching(
    patching: Path,
    curves: Path,
    controls: Path,
    hand_off: Path,
    ranges: Path,
    first_order: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write five tables over the used pairs; every mean is of normalized_logit_diff, with its bootstrap interval.

    Curves, a row per (probe, component, direction, role, layer): mean, low, high, flip_rate (the share of pairs whose
    arg-max flipped) and n_pairs. Controls, a row per (probe, component, control, layer): the same for the effect, which
    is the clean run's vector at the answer's token, and for each control; `difference`, the effect minus the control in
    the same pairs, with its interval; p, of a sign-flip permutation, nan of too few to reach significance, and p_holm,
    corrected over the controls and layers of a (probe, component). Ranges, one per (probe, layer, range): whole ranges
    of the reasoning. First order, a row per (probe, component, direction): over the places of a pair, the rank
    correlation between the exact effects and those that the gradient expects, and which share of the N_TOP greatest
    the gradient has among its own. Hand-off, a row per probe, of resid_pre: what hand_off_layer finds, n_pairs and
    n_templates. Pairs made from one template are one cluster, in intervals and tests.
    """
    tables: dict[Path, list[pd.DataFrame]] = {path: [] for path in (curves, controls, hand_off, ranges, first_order)}
    with open_hdf5(patching) as file:
        for pairs in used_pairs_of(file):
            found = {
                curves: _curves(pairs, settings),
                controls: _controls(pairs, settings),
                hand_off: _hand_off(pairs, settings),
                ranges: _ranges(pairs, settings),
                first_order: _first_order(pairs, settings),
            }
            for path, table in found.items():
                table.insert(0, "probe", pairs.probe)
                tables[path].append(table)
    origin = provenance(settings, [patching])
    for path, parts in tables.items():
        write_csv(path, pd.concat(parts), origin)


def _curves(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for component in (name for name in pairs.components(settings) if name != "z"):
        for direction in DIRECTIONS:
            values, flips = (pairs.stored(f"{component}/{direction}/{m}") for m in (METRIC, "is_flipped"))
            mean, low, high = mean_and_interval(values, pairs.templates, settings)
            for r, role in enumerate(pairs.roles):
                for k, layer in enumerate(pairs.layers):
                    row = (component, direction, role, layer, mean[k, r], low[k, r], high[k, r])
                    rows.append((*row, flips[:, k, r].mean(), len(values)))
    columns = ["component", "direction", "role", "layer", "mean", "low", "high", "flip_rate", "n_pairs"]
    return pd.DataFrame(rows, columns=columns)


def _controls(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    parts = []
    for component in (name for name in pairs.components(settings) if name != "z"):
        rows = []
        effects, *others = _put_in(pairs, component, settings["controls"])
        n_tests = len(others) * len(pairs.layers)
        for name, values, flips in (effects, *others):
            there = ~np.isnan(values[:, 0])  # the pairs that have the control
            if not there.any():
                continue
            found = mean_and_interval(values[there], pairs.templates[there], settings)
            differences = pairs.above_noise(effects[1] - values)[there]
            n_templates = len(np.unique(pairs.templates[there]))
            compared = mean_and_interval(differences, pairs.templates[there], settings)
            for k, layer in enumerate(pairs.layers):
                numbers = [column[k] for column in (*found, flips[there].mean(0), *compared)]
                p = np.nan
                if name != "effect" and is_testable(n_templates, settings["confidence"], n_tests):
                    p = sign_flip_p(
                        differences[:, k], settings["n_resamples"], settings["seed"], pairs.templates[there]
                    )
                rows.append((component, name, layer, *numbers, p, int(there.sum())))
        columns = ["component", "control", "layer", "mean", "low", "high", "flip_rate"]
        columns += ["difference", "difference_low", "difference_high", "p", "n_pairs"]
        table = pd.DataFrame(rows, columns=columns)
        table.insert(len(columns) - 1, "p_holm", holm(table["p"].to_numpy()))
        parts.append(table)
    return pd.concat(parts)


def _put_in(pairs: UsedPairs, component: str, controls: Sequence[str]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, normalized_logit_diff, is_flipped), each [pair, layer]: the effect first, then every control.

    Of other tokens than the answer's, the clean run's own vectors are put in; the probe's are averaged.
    """
    probe = [k for k, role in enumerate(pairs.roles) if role.startswith(PROBE)]
    places = [("effect", CLEAN_TO_CORRUPTED, [pairs.roles.index(ANSWER_ROLE)])]
    places += [(control, control, [KEY_ROLES.index(ANSWER_ROLE)]) for control in controls]
    if probe:
        places.append(("other_probe_tokens", CLEAN_TO_CORRUPTED, probe))
    if CONTROL_ROLE in pairs.roles:
        places.append(("random_reasoning_token", CLEAN_TO_CORRUPTED, [pairs.roles.index(CONTROL_ROLE)]))
    return [
        (name, *(pairs.stored(f"{component}/{patch}/{m}")[:, :, at].mean(-1) for m in (METRIC, "is_flipped")))
        for name, patch, at in places
    ]


def _ranges(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for r, label in enumerate(axis_labels(pairs.group, "range")):
        values, flips = (pairs.stored(f"reasoning_ranges/{m}")[:, :, r] for m in (METRIC, "is_flipped"))
        there = ~np.isnan(values[:, 0])  # the pairs whose reasoning is as long
        if there.any():
            numbers = (*mean_and_interval(values[there], pairs.templates[there], settings), flips[there].mean(0))
            for k, layer in enumerate(pairs.layers):
                rows.append((layer, label, *(column[k] for column in numbers), int(there.sum())))
    columns = ["layer", "tokens_before_probe", "mean", "low", "high", "flip_rate", "n_pairs"]
    return pd.DataFrame(rows, columns=columns)


def _first_order(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for component in pairs.components(settings):
        for direction in DIRECTIONS:
            exact, expected = (
                pairs.above_noise(pairs.stored(f"{component}/{direction}/{name}")).reshape(pairs.is_used.sum(), -1)
                for name in (METRIC, "first_order")
            )
            agreement = np.array([_agreement(*both) for both in zip(exact, expected, strict=True)])
            there = ~np.isnan(agreement).any(1)  # the pairs in which anything has an effect
            agreement = agreement[there]
            if len(agreement):
                numbers = np.stack(mean_and_interval(agreement, pairs.templates[there], settings), -1).ravel()
                rows.append((component, direction, *numbers, N_TOP, len(agreement)))
    columns = ["component", "direction", "rank_correlation", "rank_correlation_low", "rank_correlation_high"]
    columns += ["top_share", "top_share_low", "top_share_high", "n_top", "n_pairs"]
    return pd.DataFrame(rows, columns=columns)


def _agreement(exact: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Rank correlation of two rankings of places, and which share of the top of the first the second's has.

    The top is N_TOP places, or as many as have any effect at all.
    """
    if not np.ptp(exact) or not np.ptp(expected):
        return np.nan, np.nan
    n_top = min(N_TOP, int(np.sum(exact > 0)))
    tops = [set(np.argsort(-values, kind="stable")[:n_top]) for values in (exact, expected)]
    share = len(tops[0] & tops[1]) / n_top if n_top else np.nan
    return float(spearmanr(exact, expected).statistic), share


def _hand_off(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    values = pairs.stored(f"resid_pre/{CLEAN_TO_CORRUPTED}/{METRIC}")
    answer, final = (values[:, :, pairs.roles.index(role)] for role in (ANSWER_ROLE, FINAL_ROLE))
    gap = pairs.stored("clean_logit_diff") - pairs.stored("corrupted_logit_diff")
    found = hand_off_layer(
        answer, final, settings["n_resamples"], settings["confidence"], settings["seed"], pairs.templates,
        noise_floor=float(np.mean(2 * pairs.stored("null_patch_error") / gap)),
    )  # fmt: skip
    # places on the axis as layers: the patched ones
    layer, low, high = np.interp(found[:3], range(len(pairs.layers)), pairs.layers)
    row = (layer, low, high, found.defined_share, len(values), len(np.unique(pairs.templates)))
    return pd.DataFrame([row], columns=["layer", "low", "high", "defined_share", "n_pairs", "n_templates"])


def mean_and_interval(
    values: np.ndarray, templates: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over pairs of values [pair, ...], and its ends by a bootstrap over the pairs' templates, each [...]."""
    ends = bootstrap_interval(values, settings["n_resamples"], settings["confidence"], settings["seed"], templates)
    return values.mean(0), *ends

"""Patching in numbers: curves by layer and role, controls, ranges, attribution patching, and the hand-off layer."""

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
    CORRUPTED_TO_CLEAN,
    DIRECTIONS,
    FINAL_ROLE,
    KEY_ROLES,
    PROBE,
)
from r2a.statistics import bootstrap_interval, holm, is_testable, sign_flip_p
from r2a.store import NothingToMeasure, axis_labels, open_hdf5, provenance, write_csv

METRIC = "normalized_logit_diff"
N_TOP = 10  # places with the greatest effect
# probabilities of the source run's answer, of the patched run's own answer, and of anything else
PROBABILITIES = ("probability_put_in", "probability_own", "probability_other")


class UsedPairs:
    """The pairs of one probe in which both runs prefer their own answers."""

    def __init__(self, probe: str, group: h5py.Group) -> None:
        self.probe, self.group = probe, group
        self.is_used = group["is_used"][:] == 1
        self.layers = axis_labels(group, "layer")
        self.templates = group["template"].asstr()[self.is_used]  # clusters of the bootstrap

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
        """Values [pair, ...] of normalized_logit_diff; 0 where the noise floor of two logits could produce them."""
        gap = self.stored("clean_logit_diff") - self.stored("corrupted_logit_diff")
        floor = (2 * self.stored("null_patch_error") / gap).reshape(-1, *[1] * (values.ndim - 1))
        return np.where(np.abs(values) <= floor, 0.0, values.astype(np.float64))

    def effects(self, patch: str) -> dict[str, np.ndarray]:
        """What a patch does, each [pair, ...]: METRIC; gained and lost, its two parts; is_flipped; PROBABILITIES.

        gained: how far the logit of the source run's answer rises above that in the unpatched run, over the gap between
        the two runs; lost: how far the logit of the patched run's own answer falls.
        """
        found = {metric: self.stored(f"{patch}/{metric}") for metric in (METRIC, "is_flipped")}
        base, own = ("clean", "ba") if patch.endswith(CORRUPTED_TO_CLEAN) else ("corrupted", "ab")
        per_pair = (-1, *[1] * (found[METRIC].ndim - 1))
        gap = (self.stored("clean_logit_diff") - self.stored("corrupted_logit_diff")).reshape(per_pair)
        changes = [
            (self.stored(f"{patch}/logit_{side}") - self.stored(f"{base}_logit_{of_pair}").reshape(per_pair)) / gap
            for side, of_pair in zip("ab", own, strict=True)
        ]
        of_a, of_b = (self.stored(f"{patch}/probability_{side}") for side in "ab")
        found |= {"gained": changes[0], "lost": -changes[1]}
        return found | dict(zip(PROBABILITIES, (of_a, of_b, 1 - of_a - of_b), strict=True))


def used_pairs_of(file: h5py.File) -> Iterator[UsedPairs]:
    """The used pairs by probe; a probe without any is left out. Raises NothingToMeasure if no probe has any."""
    found = [UsedPairs(probe, file[probe]) for probe in axis_labels(file, "probe")]
    used = [pairs for pairs in found if pairs.is_used.any()]
    if not used:
        raise NothingToMeasure("no pair was measured (the pair funnel says why)")
    yield from used


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

    Curves, one row per (probe, component, direction, role, layer): mean, low, high, flip_rate (the share of pairs whose
    arg-max flipped), the parts of the effect (UsedPairs.effects: gained and lost, with their intervals, and
    probabilities) and n_pairs. Controls, one row per (probe, component, control, layer): the same for the effect, which
    is the clean run's vector at the answer's token, and for each control; `difference`, the effect minus the control in
    the same pairs, with its interval; p, of a sign-flip permutation, nan if there are too few pairs to reach
    significance; and p_holm, corrected over the controls and layers of a (probe, component). Ranges, one row per
    (probe, patch, layer, range): whole ranges of the reasoning, in both directions, and the controls with the same
    difference and test. First order, one row per (probe, component, direction): over the places of a pair, the rank
    correlation between exact effects and those expected by attribution patching, and the share of the N_TOP greatest
    effects that are also among its greatest. Hand-off, one row per probe, for resid_pre: hand_off_layer, n_pairs and
    n_templates. Pairs made from one template are one cluster in intervals and tests.
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
    tables = []
    for component in (name for name in pairs.components(settings) if name != "z"):
        for direction in DIRECTIONS:
            effects = pairs.effects(f"{component}/{direction}")
            for r, role in enumerate(pairs.roles):
                of_role = {name: values[:, :, r] for name, values in effects.items()}
                table = _by_layer(of_role, pairs, settings)
                for k, (name, value) in enumerate((("component", component), ("direction", direction), ("role", role))):
                    table.insert(k, name, value)
                tables.append(table)
    return pd.concat(tables)


def _by_layer(effects: Mapping[str, np.ndarray], pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per layer, of effects [pair, layer], over the pairs that have them."""
    there = ~np.isnan(effects[METRIC][:, 0])
    templates = pairs.templates[there]
    changes = np.stack([effects[name][there] for name in (METRIC, "gained", "lost")], -1)
    mean, low, high = mean_and_interval(changes, templates, settings)
    table: dict[str, Any] = {"layer": pairs.layers, "mean": mean[:, 0], "low": low[:, 0], "high": high[:, 0]}
    table["flip_rate"] = effects["is_flipped"][there].mean(0)
    for k, name in enumerate(("gained", "lost"), 1):
        table |= {name: mean[:, k], f"{name}_low": low[:, k], f"{name}_high": high[:, k]}
    table |= {name: effects[name][there].mean(0) for name in PROBABILITIES}
    return pd.DataFrame(table | {"n_pairs": int(there.sum())})


def _beside_effect(
    effect: Mapping[str, np.ndarray],
    control: Mapping[str, np.ndarray] | None,
    n_tests: int,
    pairs: UsedPairs,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """_by_layer of a control, with `difference`, the effect minus the control in the same pairs, and its test.

    If control is None, of the effect itself.
    """
    effects = control or effect
    table = _by_layer(effects, pairs, settings)
    there = ~np.isnan(effects[METRIC][:, 0])
    templates = pairs.templates[there]
    differences = pairs.above_noise(effect[METRIC] - effects[METRIC])[there]
    names = "difference", "difference_low", "difference_high"
    compared = dict(zip(names, mean_and_interval(differences, templates, settings), strict=True))
    p = np.full(len(pairs.layers), np.nan)
    if control and is_testable(len(np.unique(templates)), settings["confidence"], n_tests):
        test = settings["n_resamples"], settings["seed"], templates
        p = np.array([sign_flip_p(of_layer, *test) for of_layer in differences.T])
    for name, values in (compared | {"p": p}).items():
        table.insert(len(table.columns) - 1, name, values)
    return table


def _controls(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    parts = []
    for component in (name for name in pairs.components(settings) if name != "z"):
        put_in = _put_in(pairs, component, settings["controls"])
        effect = put_in.pop("effect")
        n_tests = len(put_in) * len(pairs.layers)
        tables = [_beside_effect(effect, None, n_tests, pairs, settings)]
        tables[0].insert(0, "control", "effect")
        for name, effects in put_in.items():
            if not np.isnan(effects[METRIC][:, 0]).all():
                tables.append(_beside_effect(effect, effects, n_tests, pairs, settings))
                tables[-1].insert(0, "control", name)
        table = pd.concat(tables)
        table.insert(0, "component", component)
        table.insert(len(table.columns) - 1, "p_holm", holm(table["p"].to_numpy()))
        parts.append(table)
    return pd.concat(parts)


def _put_in(pairs: UsedPairs, component: str, controls: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Effects [pair, layer] by name: the effect first, then every control.

    At tokens other than the answer's, the vectors are the clean run's own; the effects at the probe's tokens are
    averaged.
    """
    probe = [k for k, role in enumerate(pairs.roles) if role.startswith(PROBE)]
    places = {"effect": (CLEAN_TO_CORRUPTED, [pairs.roles.index(ANSWER_ROLE)])}
    places |= {control: (control, [KEY_ROLES.index(ANSWER_ROLE)]) for control in controls}
    if probe:
        places["other_probe_tokens"] = CLEAN_TO_CORRUPTED, probe
    if CONTROL_ROLE in pairs.roles:
        places["random_reasoning_token"] = CLEAN_TO_CORRUPTED, [pairs.roles.index(CONTROL_ROLE)]
    return {
        name: {metric: values[:, :, at].mean(-1) for metric, values in pairs.effects(f"{component}/{patch}").items()}
        for name, (patch, at) in places.items()
    }


def _ranges(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    labels = axis_labels(pairs.group, "range")
    columns = ["patch", "layer", "tokens_before_probe", "mean", "low", "high", "flip_rate", "n_pairs"]
    if not labels:
        return pd.DataFrame(columns=columns)
    n_tests = len(settings["controls"]) * len(labels) * len(pairs.layers)
    patches = {patch: pairs.effects(f"reasoning_ranges/{patch}") for patch in (*DIRECTIONS, *settings["controls"])}
    tables = []
    for patch, effects in patches.items():
        for r, label in enumerate(labels):
            of_range = {name: values[:, :, r] for name, values in effects.items()}
            if np.isnan(of_range[METRIC][:, 0]).all():  # no pair's reasoning is that long
                continue
            effect = {name: values[:, :, r] for name, values in patches[CLEAN_TO_CORRUPTED].items()}
            if patch in DIRECTIONS:
                tables.append(_by_layer(of_range, pairs, settings))
            else:
                tables.append(_beside_effect(effect, of_range, n_tests, pairs, settings))
            tables[-1].insert(0, "patch", patch)
            tables[-1].insert(2, "tokens_before_probe", label)
    if not tables:
        return pd.DataFrame(columns=columns)
    table = pd.concat(tables)
    table = table[[name for name in table.columns if name != "n_pairs"] + ["n_pairs"]]
    if "p" in table:
        table.insert(len(table.columns) - 1, "p_holm", holm(table["p"].to_numpy()))
    return table


def _first_order(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for component in pairs.components(settings):
        for direction in DIRECTIONS:
            exact, expected = (
                pairs.above_noise(pairs.stored(f"{component}/{direction}/{name}")).reshape(pairs.is_used.sum(), -1)
                for name in (METRIC, "first_order")
            )
            agreement = np.array([_agreement(*both) for both in zip(exact, expected, strict=True)])
            there = ~np.isnan(agreement).any(1)  # pairs in which any place has an effect
            agreement = agreement[there]
            if len(agreement):
                numbers = np.stack(mean_and_interval(agreement, pairs.templates[there], settings), -1).ravel()
                rows.append((component, direction, *numbers, N_TOP, len(agreement)))
    columns = ["component", "direction", "rank_correlation", "rank_correlation_low", "rank_correlation_high"]
    columns += ["top_share", "top_share_low", "top_share_high", "n_top", "n_pairs"]
    return pd.DataFrame(rows, columns=columns)


def _agreement(exact: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Rank correlation of two rankings of places, and the share of the first's top places that are among the second's.

    The top is N_TOP places, or as many as have any effect.
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
    # from positions on the axis to layers, since only some are patched
    layer, low, high = np.interp(found[:3], range(len(pairs.layers)), pairs.layers)
    row = (layer, low, high, found.defined_share, len(values), len(np.unique(pairs.templates)))
    return pd.DataFrame([row], columns=["layer", "low", "high", "defined_share", "n_pairs", "n_templates"])


def mean_and_interval(
    values: np.ndarray, templates: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over pairs of values [pair, ...], and its ends by a bootstrap over the pairs' templates, each [...]."""
    ends = bootstrap_interval(values, settings["n_resamples"], settings["confidence"], settings["seed"], templates)
    return values.mean(0), *ends

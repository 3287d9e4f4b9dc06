"""How an answer comes from its reasoning, in numbers: paths, direct logit attribution, logit lens, later layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.evaluation.hand_off import LEAST_EFFECT
from r2a.evaluation.patching import UsedPairs, mean_and_interval, used_pairs_of
from r2a.roles import ALL_HEADS, KEY_ROLES, PATHS, RFH
from r2a.statistics import percentile_ends, resampled_means
from r2a.store import open_hdf5, provenance, read_parquet, write_csv

RUNS = ("clean", "corrupted")
METRIC = "normalized_logit_diff"


def tabulate_mechanism(
    mechanism: Path,
    heads: Path,
    mediation: Path,
    mlps: Path,
    attribution: Path,
    lens: Path,
    changes: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write five tables over the used pairs, with bootstrap intervals over the pairs' templates.

    Mediation, one row per (probe, path, patched layer): mean of normalized_logit_diff; change_a and change_b of the
    logits of the clean and the corrupted run's answer; share, the mean over the mean of the path by all heads, nan if
    the latter is less than LEAST_EFFECT; n_pairs, n_templates. MLPs, one row per (probe, layer): what the path of the
    Reasoning-Focus Heads loses past that layer's MLP, as `mean` and as a share of the whole path. Attribution, one row
    per (probe, run, part, layer, head): the mean of what the part adds to logit(a) - logit(b). Lens, one row per
    (probe, run, role, layer): the mean normalized_logit_diff and probabilities, read off the layer's input. Changes,
    one row per (probe, patched layer, later layer, head): the mean share of the difference between the runs at the last
    token that the patch makes; head -1 stands for the output of the later layer.
    """
    scores = read_parquet(heads).set_index(["layer", "head"])["is_rfh"]
    tables: dict[Path, list[pd.DataFrame]] = {path: [] for path in (mediation, mlps, attribution, lens, changes)}
    with open_hdf5(mechanism) as file:
        for pairs in used_pairs_of(file):
            found = {
                mediation: _mediation(pairs, settings),
                mlps: _mlps(pairs, settings),
                attribution: _attribution(pairs, scores, settings),
                lens: _lens(pairs, settings),
                changes: _changes(pairs, settings),
            }
            for path, table in found.items():
                table.insert(0, "probe", pairs.probe)
                tables[path].append(table.assign(n_pairs=len(pairs.templates)))
    origin = provenance(settings, [mechanism, heads])
    for path, parts in tables.items():
        write_csv(path, pd.concat(parts), origin)


def ratio_and_interval(
    values: np.ndarray, whole: np.ndarray, templates: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of values [pair, ...] over the mean of whole [pair, ...], and its ends by a bootstrap over templates.

    nan if the mean of whole, or a resampled one, is less than LEAST_EFFECT.
    """

    def ratio(both: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(both[..., 1] >= LEAST_EFFECT, both[..., 0] / both[..., 1], np.nan)

    both = np.stack(np.broadcast_arrays(values, whole), -1)
    draws = ratio(resampled_means(both, settings["n_resamples"], settings["seed"], templates))
    found = ratio(both.mean(0))
    low, high = (
        np.where(np.isnan(found), np.nan, end)
        for end in percentile_ends(draws, len(np.unique(templates)), settings["confidence"])
    )
    return found, low, high


def _rows(axes: Mapping[str, Sequence[Any]], **columns: np.ndarray) -> pd.DataFrame:
    """One row per combination of the axes' labels, in order, with the columns' values [*axes]."""
    index = pd.MultiIndex.from_product(axes.values(), names=axes.keys())
    return pd.DataFrame({name: np.ravel(values) for name, values in columns.items()}, index=index).reset_index()


def _numbers(values: np.ndarray, pairs: UsedPairs, settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return dict(zip(("mean", "low", "high"), mean_and_interval(values, pairs.templates, settings), strict=True))


def _mediation(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    values = pairs.stored(f"paths/{METRIC}")  # [pair, path, layer]
    share = ratio_and_interval(values, values[:, [PATHS.index(ALL_HEADS)]], pairs.templates, settings)
    changes: dict[str, np.ndarray] = {}
    for side in "ab":
        change = pairs.stored(f"paths/logit_{side}") - pairs.stored(f"corrupted/logit_{side}")[:, None, None]
        mean, low, high = mean_and_interval(change, pairs.templates, settings)
        changes |= {f"change_{side}": mean, f"change_{side}_low": low, f"change_{side}_high": high}
    named = dict(zip(("share", "share_low", "share_high"), share, strict=True))
    table = _rows({"path": PATHS, "layer": pairs.layers}, **_numbers(values, pairs, settings), **named, **changes)
    return table.assign(n_templates=len(np.unique(pairs.templates)))


def _mlps(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    whole = pairs.stored(f"paths/{METRIC}")[:, PATHS.index(RFH), :1]  # patched in layer 0
    lost = whole - pairs.stored("paths/without_mlp")
    share = ratio_and_interval(lost, whole, pairs.templates, settings)
    named = dict(zip(("share", "share_low", "share_high"), share, strict=True))
    return _rows({"layer": pairs.layers}, **_numbers(lost, pairs, settings), **named)


def _attribution(pairs: UsedPairs, is_rfh: pd.Series, settings: Mapping[str, Any]) -> pd.DataFrame:
    parts = []
    for run in RUNS:
        for part in ("constant", "embedding", "attention", "mlp", "heads"):
            values = pairs.stored(f"attribution/{run}/{part}")
            axes = dict(zip(("layer", "head"), map(range, values.shape[1:]), strict=False))
            table = _rows(axes or {"layer": [-1]}, **_numbers(values, pairs, settings))
            table.insert(0, "part", "head" if part == "heads" else part)
            table.insert(0, "run", run)
            parts.append(table)
    found = pd.concat(parts)
    found["head"] = found["head"].fillna(-1).astype(int)
    places = pd.MultiIndex.from_frame(found[["layer", "head"]])
    found["is_rfh"] = is_rfh.reindex(places).eq(True).to_numpy()
    return found[["run", "part", "layer", "head", "is_rfh", "mean", "low", "high"]]


def _lens(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    parts = []
    for run in RUNS:
        values, a, b = (
            pairs.stored(f"lens/{run}/{m}").swapaxes(1, 2) for m in (METRIC, "probability_a", "probability_b")
        )  # [pair, role, layer]
        columns = {**_numbers(values, pairs, settings), "probability_a": a.mean(0), "probability_b": b.mean(0)}
        parts.append(_rows({"run": [run], "role": KEY_ROLES, "layer": pairs.layers}, **columns))
    return pd.concat(parts)


def _changes(pairs: UsedPairs, settings: Mapping[str, Any]) -> pd.DataFrame:
    stream, heads = (pairs.stored(f"changes/{name}") for name in ("stream", "heads"))
    values = np.concatenate([stream[..., None], heads], -1)  # [pair, layer, later_layer, head]
    axes = {"layer": pairs.layers, "later_layer": pairs.layers, "head": range(-1, heads.shape[-1])}
    table = _rows(axes, **_numbers(values, pairs, settings))
    return table[table["later_layer"] >= table["layer"]].reset_index(drop=True)

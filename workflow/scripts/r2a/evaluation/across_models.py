"""How the study's main measures change with model scale, over all its models."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from r2a.heads.focus import short_mass
from r2a.roles import ALL_HEADS, RFH
from r2a.statistics import holm, percentile_ends, resampled_means
from r2a.store import filled, labelled, open_hdf5, provenance, read_provenance, reasoned_traces, write_csv

MODEL_COLUMNS = [
    "model", "family", "n_parameters", "n_layers", "distillation", "dataset", "measure", "value", "low", "high", "n",
]  # fmt: skip
TREND_COLUMNS = ["dataset", "measure", "n_models", "rank_correlation", "test", "p", "p_holm"]
TOO_FEW_MODELS = "too few models for a trend test"
MOST_EXACT = 8  # models; up to here, all orders are enumerated


def write_across_models(
    manifests: Sequence[Path],
    effect: Path,
    attention: Sequence[Path],
    hand_off: Sequence[Path],
    mediation: Sequence[Path],
    table: Path,
    trends: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write one row per (model, dataset, measure) as CSV, and trend_table of it.

    Measures, each with its interval and the number of problems, traces or pairs: `effect`, accuracy with reasoning
    minus without in the study's first decoding; `rfh depth`, the mean layer of the Reasoning-Focus Heads; `hand-off,
    {probe}`; and `through RFHs, {probe}`, the share of the reasoning's effect that these heads mediate, patched in the
    layer where the effect is largest. Both depths run from 0 in the first layer to 1 in the last; all are nan if
    undefined. family: the architecture; distillation: as in the configuration. A model known only by its endpoint has
    no family, size or depths. Variants are left out, since they are the same model. attention, hand_off and mediation:
    one file per model and dataset. settings: models (label, distillation and whether it is a variant, by name),
    n_top_heads, n_resamples, confidence, seed.
    """
    attention, hand_off, mediation = filled(attention), filled(hand_off), filled(mediation)
    origins = {name: origin for path in manifests for name, origin in _manifest(path)}
    models = {name: model for name, model in settings["models"].items() if not model["variant_of"]}
    rows = []
    effects = pd.read_csv(effect)
    effects = effects[(effects["by"] == "all") & effects["decoding"].isin(effects["decoding"].head(1))]
    for name, model in models.items():
        known = {"model": model["label"], "distillation": model["distillation"], **origins.get(name, {})}
        for row in effects[effects["model"] == model["label"]].itertuples():
            measured = row.difference, row.low, row.high, row.n_problems
            rows.append(known | _measured(row.dataset, "effect", *measured))
        for path in _of(attention, name):
            dataset = labelled(path, settings)["dataset_label"]
            rows.append(known | _measured(dataset, "rfh depth", *rfh_depth(path, settings)))
        for path in _of(hand_off, name):
            dataset = read_provenance(path)["parameters"]["dataset_label"]
            for row in pd.read_csv(path).itertuples():
                ends = (end / (known["n_layers"] - 1) for end in (row.layer, row.low, row.high))
                rows.append(known | _measured(dataset, f"hand-off, {row.probe}", *ends, row.n_pairs))
        for path in _of(mediation, name):
            dataset = read_provenance(path)["parameters"]["dataset_label"]
            for probe, part in pd.read_csv(path).groupby("probe", sort=False):
                by_path = part.set_index(["path", "layer"])
                strongest = by_path.loc[ALL_HEADS, "mean"].idxmax()
                share = by_path.loc[(RFH, strongest), ["share", "share_low", "share_high", "n_pairs"]]
                rows.append(known | _measured(dataset, f"through RFHs, {probe}", *share))
    found = pd.DataFrame(rows, columns=MODEL_COLUMNS)
    origin = provenance(settings, [*manifests, effect, *attention, *hand_off, *mediation])
    write_csv(table, found, origin)
    write_csv(trends, trend_table(found, settings["confidence"], settings["n_resamples"], settings["seed"]), origin)


def rfh_depth(attention: Path, settings: Mapping[str, Any]) -> tuple[float, float, float, int]:
    """Mean layer of the n_top_heads by a2r, from 0 to 1, the ends of its bootstrap interval over problems, and the
    number of traces.
    """
    with open_hdf5(attention) as file:
        chosen = reasoned_traces(file)
        a2r, problems = short_mass(file["segment_mass"][chosen], "a2r"), file["uid"].asstr()[chosen]
    n_traces, n_layers, n_heads = a2r.shape
    if not n_traces or n_layers < 2:
        return np.nan, np.nan, np.nan, n_traces
    layers = np.repeat(np.arange(n_layers), n_heads) / (n_layers - 1)
    flat = a2r.reshape(n_traces, -1)
    draws = resampled_means(flat, settings["n_resamples"], settings["seed"], problems)
    depth, drawn = (
        layers[np.argsort(-scores, axis=-1, kind="stable")[:, : settings["n_top_heads"]]].mean(-1)
        for scores in (flat.mean(0)[None], draws)
    )
    low, high = percentile_ends(drawn[:, None], len(np.unique(problems)), settings["confidence"])
    return float(depth[0]), float(low[0]), float(high[0]), n_traces


def trend_table(found: pd.DataFrame, confidence: float, n_resamples: int, seed: int) -> pd.DataFrame:
    """One row per dataset and measure: does it rise or fall with the number of parameters?

    Spearman's rank correlation over the models for which both are known, with the exact p over all orders of the models
    (with more than MOST_EXACT models, over n_resamples drawn orders). p is nan, and the test TOO_FEW_MODELS, if even a
    perfect order of so few models would not be significant: four or fewer at 95 %. Holm's correction is over all rows.
    """
    rows = []
    for (dataset, measure), part in found.groupby(["dataset", "measure"], sort=False):
        known = part.dropna(subset=["n_parameters", "value"])
        sizes, values = (rankdata(known[name].to_numpy(float)) for name in ("n_parameters", "value"))
        n_models = len(known)
        correlation = p = np.nan
        if n_models > 2 and np.ptp(sizes) and np.ptp(values):
            correlation = float(np.corrcoef(sizes, values)[0, 1])
            if 2 / factorial(n_models) <= 1 - confidence:
                p = _order_p(sizes, values, n_resamples, seed)
        test = TOO_FEW_MODELS if np.isnan(p) else "permutation of Spearman's rank correlation"
        rows.append((dataset, measure, n_models, correlation, test, p))
    table = pd.DataFrame(rows, columns=TREND_COLUMNS[:-1])
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def _order_p(sizes: np.ndarray, values: np.ndarray, n_resamples: int, seed: int) -> float:
    """Two-sided p of the correlation of two rankings [model], if every order of one is equally likely."""
    sizes, values = sizes - sizes.mean(), values - values.mean()
    observed = abs(sizes @ values) - 1e-9
    if len(sizes) <= MOST_EXACT:
        orders = np.array(list(permutations(values)))
        return float(np.mean(np.abs(orders @ sizes) >= observed))
    orders = np.random.default_rng(seed).permuted(np.tile(values, (n_resamples, 1)), axis=1)
    return float((1 + np.sum(np.abs(orders @ sizes) >= observed)) / (1 + n_resamples))


def _manifest(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    origin = pd.read_json(path, typ="series")
    for name in origin["models"]:
        if origin["folder"]:
            family = str(origin["architecture"]).removesuffix("ForCausalLM")
            yield name, {"family": family, "n_parameters": origin["n_parameters"], "n_layers": origin["n_layers"]}


def _of(paths: Sequence[Path], model: str) -> Iterator[Path]:
    return (path for path in paths if read_provenance(path)["parameters"]["model"] == model)


def _measured(dataset: str, measure: str, *numbers: float) -> dict[str, Any]:
    return {"dataset": dataset, "measure": measure, **dict(zip(("value", "low", "high", "n"), numbers, strict=True))}

"""Are the heads that attend to the reasoning also those that carry the answer? (METHOD section 4, ours.)"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from r2a.evaluation.patching import METRIC, mean_and_interval, used_pairs_of
from r2a.roles import CLEAN_TO_CORRUPTED, KEY_ROLES
from r2a.statistics import percentile_ends, resampled_means
from r2a.store import open_hdf5, provenance, read_parquet, write_csv


def tabulate_carriers(
    patching: Path, heads: Path, carriers: Path, agreement: Path, settings: Mapping[str, Any]
) -> None:
    """Write what patching each head does, next to how much it attends to the reasoning, and how well the two agree.

    Carriers, one row per (probe, role, layer, head): mean, low, high and flip_rate of patching the head's clean z into
    the corrupted run at that token, n_pairs, and the head's a2r, its rank by a2r, and is_rfh. Agreement, one row per
    (probe, role): the rank correlation over heads between a2r and the mean effect, with its bootstrap interval over the
    pairs' templates; n_rfhs, and n_shared, how many of these are among the n_rfhs heads with the greatest mean effect;
    n_heads, n_pairs. Both cover the heads of the patched layers, and are empty if z was not patched.
    """
    all_scores = read_parquet(heads).sort_values(["layer", "head"])[["layer", "head", "a2r", "rank", "is_rfh"]]
    rows, agreements = [], []
    with open_hdf5(patching) as file:
        for pairs in used_pairs_of(file) if "z" in settings["components"] else ():
            values, flips = (pairs.stored(f"z/{CLEAN_TO_CORRUPTED}/{m}") for m in (METRIC, "is_flipped"))
            scores = all_scores[all_scores["layer"].isin(pairs.layers)]
            is_rfh, n_rfhs = scores["is_rfh"].to_numpy(), int(scores["is_rfh"].sum())
            n_pairs, n_templates = len(values), len(np.unique(pairs.templates))
            for r, role in enumerate(KEY_ROLES):
                effects = pairs.above_noise(values[..., r]).reshape(n_pairs, -1)  # [pair, head of all layers]
                mean, low, high = mean_and_interval(effects, pairs.templates, settings)
                numbers = {
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "flip_rate": flips[..., r].reshape(n_pairs, -1).mean(0),
                }
                rows.append(scores.assign(probe=pairs.probe, role=role, **numbers, n_pairs=n_pairs))
                correlation = _rank_correlation(mean, scores["a2r"].to_numpy())
                draws = resampled_means(effects, settings["n_resamples"], settings["seed"], pairs.templates)
                drawn = _rank_correlation(draws, scores["a2r"].to_numpy())[:, None]
                ends = (float(end[0]) for end in percentile_ends(drawn, n_templates, settings["confidence"]))
                top = np.argsort(-mean, kind="stable")[:n_rfhs]
                shared = int(is_rfh[top].sum())
                agreements.append((pairs.probe, role, correlation, *ends, n_rfhs, shared, len(scores), n_pairs))
    origin = provenance(settings, [patching, heads])
    columns = ["probe", "role", "layer", "head", "mean", "low", "high", "flip_rate", "n_pairs", "a2r", "rank", "is_rfh"]
    write_csv(carriers, pd.concat(rows)[columns] if rows else pd.DataFrame(columns=columns), origin)
    columns = ["probe", "role", "rank_correlation", "low", "high", "n_rfhs", "n_shared", "n_heads", "n_pairs"]
    write_csv(agreement, pd.DataFrame(agreements, columns=columns), origin)


def _rank_correlation(effects: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of effects [..., head] with scores [head]; nan where the effects do not vary."""
    ranks, others = rankdata(effects, axis=-1), rankdata(scores)
    ranks, others = ranks - ranks.mean(-1, keepdims=True), others - others.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks @ others) / np.sqrt((ranks**2).sum(-1) * (others**2).sum())

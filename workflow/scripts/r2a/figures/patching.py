"""Figures of stage 3: what patching the reasoning's activations does to the answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from r2a.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, save
from r2a.roles import ANSWER_ROLE, CLOSE_ROLE, CONTROL_ROLE, FINAL_ROLE, PROBE
from r2a.store import axis_labels, read_parquet

# the roles that curves are drawn for: colour, marker, name
CURVES = {
    ANSWER_ROLE: (BLUE, "o", "answer in the reasoning's last line"),
    CLOSE_ROLE: (GREEN, "^", "</think>"),
    FINAL_ROLE: (RED, "s", "last token before the answer"),
    f"{PROBE}is": (ORANGE, "v", "control: another word of that line"),
    CONTROL_ROLE: (GREY, "x", "control: random reasoning token"),
}


def plot_patching_case(patching: Path, pairs: Path, dataset: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x token heat map of one pair: the used pair with the median gap between its two runs."""
    with h5py.File(patching) as file:
        gap = file["clean_logit_diff"][:] - file["corrupted_logit_diff"][:]
        used = np.flatnonzero(file["is_used"][:])
        chosen = used[np.argsort(gap[used], kind="stable")[len(used) // 2]]
        values = file["normalized_logit_diff"][chosen]
        roles, pair = axis_labels(file, "role"), axis_labels(file, "pair")[chosen]
    row = read_parquet(pairs).set_index("pair").loc[pair]
    asked = read_parquet(dataset).query("pair == @pair").set_index("side")["problem"]
    order = np.argsort(row["corrupted_positions"])
    n_layers = len(values)
    figure, axes = plt.subplots(figsize=(1.8 + 0.36 * len(roles), 2.4 + 0.3 * n_layers), layout="constrained")
    image = axes.imshow(values[:, order], cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower")
    for layer, column in np.ndindex(n_layers, len(roles)):
        value = values[layer, order[column]]
        if abs(value) >= 0.05:
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, layer, f"{value:.1f}", ha="center", va="center", fontsize=6, color=colour)
    names = [_token_name(roles[k], row) for k in order]
    axes.set(xticks=range(len(roles)), yticks=range(n_layers), xlabel="patched token", ylabel="layer")
    axes.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_title(
        f"{settings['model_label']}: clean run's residual stream patched into the corrupted run\n"
        f"clean: {asked['a']} {row['answer_a']}\ncorrupted: {asked['b']} {row['answer_b']}",
        fontsize=8,
    )
    figure.colorbar(image, ax=axes, label="normalized logit difference", extend="both")
    cells = [(layer, roles[k], values[layer, k]) for layer in range(n_layers) for k in order]
    table = pd.DataFrame(cells, columns=["layer", "role", "normalized_logit_diff"])
    save(figure, stem, table.assign(pair=pair), settings, [patching, pairs])


def _token_name(role: str, row: pd.Series) -> str:
    if role == ANSWER_ROLE:
        return f"{row['answer_b']} (answer)"
    return {FINAL_ROLE: "{ (final)", CONTROL_ROLE: "(random)"}.get(role, role.split(": ")[-1])


def plot_patching_curves(curves: Path, hand_off: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Mean normalized logit difference by layer, for the answer's token, later tokens and controls."""
    table = pd.read_csv(curves)
    layer, low, high = pd.read_csv(hand_off).iloc[0][["layer", "low", "high"]]
    figure, axes = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
    for role, (colour, marker, name) in CURVES.items():
        rows = table[table["role"] == role]
        if len(rows):
            axes.plot(rows["layer"], rows["mean"], color=colour, marker=marker, markersize=4, label=name)
            axes.fill_between(rows["layer"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)
    if not np.isnan(layer):
        axes.axvline(
            layer,
            color=PURPLE,
            linestyle="--",
            linewidth=1,
            label=f"hand-off layer {layer:.0f} [{low:.0f}, {high:.0f}]",
        )
        axes.axvspan(low - 0.06, high + 0.06, color=PURPLE, alpha=0.12, linewidth=0)
    for level in (0, 1):
        axes.axhline(level, color="black", linewidth=0.5, zorder=0)
    axes.set(xlabel="patched layer", ylabel="normalized logit difference", xticks=sorted(table["layer"].unique()))
    axes.set_title(
        f"{settings['model_label']}, {settings['dataset_label']}: {int(table['n_pairs'].iloc[0])} pairs, mean and "
        f"{settings['confidence']:.0%} interval"
    )
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save(figure, stem, table, settings, [curves, hand_off])

"""Figures of stage 3: what patching the reasoning's activations does to the answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2a.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, save
from r2a.roles import (
    ANSWER_ROLE,
    CLEAN_TO_CORRUPTED,
    CLOSE_ROLE,
    CONTROL_ROLE,
    FINAL_ROLE,
    PROBE,
    RANDOM_VECTOR,
    SAME_ANSWER,
    UNRELATED_ANSWER,
)
from r2a.store import axis_labels, open_hdf5, read_parquet

# the roles that curves are drawn for: colour, marker, name
CURVES = {
    ANSWER_ROLE: (BLUE, "o", "answer in the reasoning's last line"),
    CLOSE_ROLE: (GREEN, "^", "</think>"),
    FINAL_ROLE: (RED, "s", "last token before the answer"),
    f"{PROBE}is": (ORANGE, "v", "control: another word of that line"),
    CONTROL_ROLE: (GREY, "x", "control: random reasoning token"),
}
# what is put in at the answer's token
PUT_IN = {
    "effect": (BLUE, "o", "the clean run's"),
    SAME_ANSWER: (GREEN, "^", "control: another pair's, of the same answer"),
    UNRELATED_ANSWER: (ORANGE, "v", "control: another pair's, of an unrelated answer"),
    RANDOM_VECTOR: (GREY, "x", "control: random, of the same norm"),
}


def plot_patching_case(patching: Path, pairs: Path, dataset: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x token heat map of one pair: the used pair with the median gap between its two runs."""
    with open_hdf5(patching) as file:
        gap = file["clean_logit_diff"][:] - file["corrupted_logit_diff"][:]
        used = np.flatnonzero(file["is_used"][:])
        chosen = used[np.argsort(gap[used], kind="stable")[len(used) // 2]]
        values = file[f"resid_pre/{CLEAN_TO_CORRUPTED}/normalized_logit_diff"][chosen]
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


def plot_patching_curves(curves: Path, controls: Path, hand_off: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Mean normalized logit difference by layer when resid_pre is patched.

    Left: the clean run's vectors at the answer's token, later tokens and others. Right: at the answer's token, the
    clean run's vector and what the controls put in its place.
    """
    table = pd.read_csv(curves).query("component == 'resid_pre' and direction == @CLEAN_TO_CORRUPTED")
    control_table = pd.read_csv(controls).query("component == 'resid_pre' and control in @PUT_IN")
    layer, low, high = pd.read_csv(hand_off).iloc[0][["layer", "low", "high"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.4), layout="constrained", sharey=True)
    for role, (colour, marker, name) in CURVES.items():
        _curve(left, table[table["role"] == role], colour, marker, name)
    for control, (colour, marker, name) in PUT_IN.items():
        _curve(right, control_table[control_table["control"] == control], colour, marker, name)
    if not np.isnan(layer):
        name = f"hand-off layer {layer:.0f} [{low:.0f}, {high:.0f}]"
        left.axvline(layer, color=PURPLE, linestyle="--", linewidth=1, label=name)
        left.axvspan(low - 0.06, high + 0.06, color=PURPLE, alpha=0.12, linewidth=0)
    for axes, title in ((left, "clean run's vector, by token"), (right, "at the answer's token, by vector")):
        for level in (0, 1):
            axes.axhline(level, color="black", linewidth=0.5, zorder=0)
        axes.set(xlabel="patched layer", xticks=sorted(table["layer"].unique()), title=title)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    left.set_ylabel("normalized logit difference")
    figure.suptitle(
        f"{settings['model_label']}, {settings['dataset_label']}: {int(table['n_pairs'].iloc[0])} pairs, mean and "
        f"{settings['confidence']:.0%} bootstrap interval over pairs",
        fontsize=10,
    )
    drawn = pd.concat([table, control_table])
    save(figure, stem, drawn, settings, [curves, controls, hand_off])


def _curve(axes: Axes, rows: pd.DataFrame, colour: str, marker: str, name: str) -> None:
    """One line over layers with its interval, or nothing where there are no rows."""
    if len(rows):
        axes.plot(rows["layer"], rows["mean"], color=colour, marker=marker, markersize=4, label=name)
        axes.fill_between(rows["layer"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)

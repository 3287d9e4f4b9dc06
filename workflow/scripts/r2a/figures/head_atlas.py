"""Every score of every head against its layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from r2a.figures.style import BLUE, GREY, save
from r2a.store import read_parquet, read_provenance

N_COLUMNS = 3


def plot_head_atlas(heads: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """A panel a score, as the table of heads names them: score against layer; the RFHs are numbered by rank."""
    table, labels = read_parquet(heads), read_provenance(heads)["scores"]
    n_rows = len(labels) // N_COLUMNS + 1  # the last place is the legend's
    height = 1.0 + 1.5 * n_rows
    figure, grid = plt.subplots(n_rows, N_COLUMNS, figsize=(7.0, height), sharex=True, squeeze=False)
    # by hand: to have it worked out takes longer than all the rest
    figure.subplots_adjust(0.065, 0.75 / height, 0.985, 1 - 0.55 / height, wspace=0.24, hspace=0.36)
    for axes, (score, label) in zip(grid.flat, labels.items(), strict=False):
        _draw_score(axes, table, score)
        counts = table[f"{score}_n"].unique()
        n = f"{counts.min()} to {counts.max()}" if len(counts) > 1 else counts[0]
        axes.set_title(f"{label}  (n = {n})", fontsize=8)
    for axes in grid.flat[len(labels) :]:
        axes.set_axis_off()
    for axes in grid.flat[len(labels) - N_COLUMNS : len(labels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    for axes in grid[-1]:
        axes.set_xlabel("layer", fontsize=8)
    _draw_legend(grid.flat[-1], table, settings["confidence"])
    figure.suptitle(
        f"{settings['model_label']}, {settings['dataset_label']}: every head's scores by layer",
        fontsize=10, x=0.01, y=1 - 0.12 / height, ha="left",
    )  # fmt: skip
    columns = [f"{score}{end}" for score in labels for end in ("", "_low", "_high", "_n")]
    save(figure, stem, table[["layer", "head", "rank", "is_rfh", *columns]], settings, [heads])


def _draw_legend(axes: Axes, table: pd.DataFrame, confidence: float) -> None:
    rfhs = table[table["is_rfh"]].sort_values("rank")
    interval = f"{confidence:.0%} bootstrap interval"
    handles = [
        Line2D([], [], marker=".", color=GREY, linestyle="", label=f"other heads ({len(table) - len(rfhs)})"),
        Line2D([], [], marker="o", color=BLUE, markerfacecolor="white", label=f"RFH, {interval}"),
    ]
    axes.legend(handles=handles, loc="upper left", fontsize=7, borderpad=0, borderaxespad=0)
    names = [f"{r.rank}: ({r.layer}, {r.head})" for r in rfhs.itertuples()]
    half = -(-len(names) // 2)
    axes.text(0, 0.66, "Reasoning-Focus Heads (layer, head)", fontsize=7, transform=axes.transAxes, va="top")
    for k, part in enumerate((names[:half], names[half:])):
        axes.text(0.5 * k, 0.56, "\n".join(part), fontsize=7, transform=axes.transAxes, va="top")


def _draw_score(axes: Axes, table: pd.DataFrame, score: str) -> None:
    """The heads of a layer stand side by side, so that they do not hide each other."""
    place = table["layer"] + 0.8 * ((table["head"] + 0.5) / (table["head"].max() + 1) - 0.5)
    rfh = table["is_rfh"].to_numpy()
    axes.plot(place[~rfh], table.loc[~rfh, score], ".", color=GREY, markersize=3)
    low, high = (table.loc[rfh, f"{score}_{end}"] for end in ("low", "high"))
    axes.vlines(place[rfh], low, high, color=BLUE, linewidth=1)
    for x, row in zip(place[rfh], table[rfh].to_dict("records"), strict=True):
        if np.isfinite(row[score]):
            axes.text(
                x, row[score], row["rank"], ha="center", va="center", fontsize=6, fontweight="bold",
                bbox={"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": BLUE, "linewidth": 0.8},
            )  # fmt: skip
    if not table[score].notna().any():
        axes.text(0.5, 0.5, "nowhere defined", transform=axes.transAxes, ha="center", color=GREY, fontsize=7)
        axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)

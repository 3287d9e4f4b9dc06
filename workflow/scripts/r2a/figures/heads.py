"""Figures of stage 2 with a mark a head: which heads focus on the reasoning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from r2a.figures.style import RED, save
from r2a.store import read_parquet


def plot_head_map(heads: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x head map of a2r; the Reasoning-Focus Heads are framed and numbered by rank."""
    table = read_parquet(heads)
    grid = table.pivot(index="layer", columns="head", values="a2r")
    n_layers, n_heads = grid.shape
    figure, axes = plt.subplots(figsize=(1.9 + 0.34 * n_heads, 1.6 + 0.34 * n_layers), layout="constrained")
    image = axes.pcolormesh(np.arange(n_heads + 1) - 0.5, np.arange(n_layers + 1) - 0.5, grid, cmap="cividis", vmin=0)
    for row in table[table["is_rfh"]].itertuples():
        frame = plt.Rectangle((row.head - 0.5, row.layer - 0.5), 1, 1, fill=False, edgecolor=RED, linewidth=1.8)
        axes.add_patch(frame)
        light = row.a2r > 0.6 * grid.to_numpy().max()
        axes.text(
            row.head, row.layer, row.rank, ha="center", va="center", fontsize=7, color="black" if light else "white"
        )
    step = 1 if max(n_heads, n_layers) <= 16 else 4
    axes.set(
        xticks=range(0, n_heads, step), yticks=range(0, n_layers, step), xlabel="head", ylabel="layer", aspect="equal"
    )
    axes.set_title(f"{settings['model_label']}\n{settings['dataset_label']}", fontsize=9)
    figure.colorbar(image, ax=axes, label="a2r: answer's attention\nto the reasoning", shrink=0.9)
    framed = Line2D([], [], marker="s", linestyle="", markerfacecolor="none", markeredgecolor=RED)
    axes.legend(
        handles=[framed], labels=["RFH, by rank"], loc="upper left",
        bbox_to_anchor=(0, -0.28 if n_layers < 8 else -0.12), fontsize=7, borderpad=0,
    )  # fmt: skip
    save(
        figure,
        stem,
        table[["layer", "head", "a2r", "a2r_low", "a2r_high", "lift", "rank", "is_rfh"]],
        settings,
        [heads],
    )

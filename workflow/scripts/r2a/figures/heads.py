"""The map of heads: which heads focus on the reasoning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D

from r2a.figures.registry import figure
from r2a.figures.style import save, ticks, well_founded
from r2a.store import read_parquet

# light enough throughout for black marks, and in greyscale as dark as the value is high
PALE = LinearSegmentedColormap.from_list("pale", ["white", "#4A97C9"])

# what is marked in the map: column, marker, size in a cell of 0.34 inches, label
MARKS = {
    "is_rfh": ("s", 20, "Reasoning-Focus Head"),
    "is_induction": ("x", 9, "induction head"),
    "is_retrieval": ("o", 11, "retrieval head"),
}


@figure(
    scope="model and dataset",
    analysis="attention",
    reads={"heads": "<results>/heads/{model}/{dataset}.parquet"},
    category="2 Attention",
    label="head map",
    version=3,
    caption=(
        "Attention of the answer tokens to the reasoning (a2r) of every head, as the mean over n traces. Boxed: "
        "Reasoning-Focus Heads; crossed: induction heads; circled: retrieval heads. Intervals of every score are "
        "in the table of heads; no test."
    ),
)
def plot_head_map(heads: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x head map of a2r: Reasoning-Focus Heads boxed, induction heads crossed, retrieval heads circled."""
    table = well_founded(read_parquet(heads), "a2r_n")
    grid = table.pivot(index="layer", columns="head", values="a2r")
    n_layers, n_heads = grid.shape
    cell = min(0.34, 6 / n_layers, 6 / n_heads)  # inches, so that a map of any size fits a page
    size = max(3.6, 1.9 + cell * n_heads), 2.3 + cell * n_layers
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    image = axes.pcolormesh(np.arange(n_heads + 1) - 0.5, np.arange(n_layers + 1) - 0.5, grid, cmap=PALE, vmin=0)
    handles = []
    for column, (marker, points, label) in MARKS.items():
        rows = table[table[column]]
        drawn: dict[str, Any] = {"marker": marker, "linestyle": "", "color": "black", "markerfacecolor": "none"}
        axes.plot(
            rows["head"], rows["layer"], **drawn, markersize=points * cell / 0.34, markeredgewidth=min(1.3, 5 * cell)
        )
        handles.append(Line2D([], [], **drawn, markersize=7, label=f"{label} ({len(rows) or 'none'})"))
    axes.set(xticks=ticks(n_heads), yticks=ticks(n_layers), xlabel="head", ylabel="layer", aspect="equal")
    axes.set_title(
        f"{settings['model_label']}\n{settings['dataset_label']} (n = {table['a2r_n'][0]} traces)", fontsize=9
    )
    beside = axes.inset_axes((1 + 0.15 / (cell * n_heads), 0, 0.15 / (cell * n_heads), 1))  # as tall as the map
    figure.colorbar(image, cax=beside, label="a2r: answer's attention\nto the reasoning")
    below = -0.5 / (cell * n_layers)  # half an inch under the map, where the axis's label ends
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, below), fontsize=7, borderpad=0, borderaxespad=0)
    columns = ["layer", "head", "a2r", "a2r_low", "a2r_high", "lift", "rank", "induction", "retrieval", *MARKS]
    save(figure, stem, table[columns], settings, [heads])

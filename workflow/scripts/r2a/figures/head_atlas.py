"""Every score of every head against its layer."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from r2a.figures.registry import figure
from r2a.figures.style import BLUE, GREY, percent, save, titled, well_founded
from r2a.store import read_parquet, read_provenance

N_COLUMNS = 3
TITLE_WIDTH, N_NAMED = 40, 8  # characters of a line over a panel; induction heads that are named
ABOVE, PANEL, GAP, NAME_HEIGHT = 0.55, 1.1, 0.4, 0.12  # in inches, of the figure's rows and of a line of small text
NUMBER_GAP = 0.055  # between two numbers, as a share of a panel's width
RFH_MARK: dict[str, Any] = {"marker": "D", "color": BLUE, "linestyle": "", "markersize": 4, "markeredgecolor": "white"}


@figure(
    scope="model and dataset",
    analysis="attention",
    reads={"heads": "<results>/heads/{model}/{dataset}.parquet"},
    category="2 Attention",
    label="head atlas",
    version=3,
    caption=(
        "Every registered score of every head, by layer. Reasoning-Focus Heads are numbered by rank and have "
        "{interval} bootstrap intervals over problems, or over runs for scores from diagnostics; n is in each title. "
        "No test."
    ),
)
def plot_head_atlas(heads: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """One panel per score, named as in the table of heads: score against layer, with the RFHs numbered by rank."""
    table, scores = well_founded(read_parquet(heads), "a2r_n"), read_provenance(heads)["scores"]
    labels = {score: label for score, label in scores.items() if table[score].notna().any()}
    n_rows = len(labels) // N_COLUMNS + 1  # the last place is for the legend
    least = 0.45 if len(labels) % N_COLUMNS else 0.1  # with the axis labels of panels beside the legend
    below = max(least, NAME_HEIGHT * -(-table["is_rfh"].sum() // 2) - 0.5 * PANEL)  # what the names of RFHs overhang
    below += 0.2 * settings["is_toy"]  # a note at the foot
    height = ABOVE + n_rows * (PANEL + GAP) - GAP + below
    figure, grid = plt.subplots(n_rows, N_COLUMNS, figsize=(7.0, height), sharex=True, squeeze=False)
    # set by hand, because computing it takes longer than everything else
    figure.subplots_adjust(0.065, below / height, 0.985, 1 - ABOVE / height, wspace=0.24, hspace=GAP / PANEL)
    for axes, (score, label) in zip(grid.flat, labels.items(), strict=False):
        _draw_score(axes, table, score)
        counts = table[f"{score}_n"].unique()
        n = f"{counts.min()} to {counts.max()}" if len(counts) > 1 else counts[0]
        axes.set_title(textwrap.fill(f"{label} (n = {n})", TITLE_WIDTH), fontsize=7)
    for axes in grid.flat[len(labels) :]:
        axes.set_axis_off()
    for axes in grid.flat[len(labels) - N_COLUMNS : len(labels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("layer", fontsize=8)
    _draw_legend(grid.flat[len(labels)], table, settings)
    _name_the_rest(
        grid.flat[-1],
        len(labels) < grid.size - 1,
        table,
        [label for score, label in scores.items() if score not in labels],
    )
    figure.suptitle(
        titled(settings, "every head's scores by layer"), fontsize=11, x=0.01, y=1 - 0.12 / height, ha="left"
    )  # fmt: skip
    columns = [f"{score}{end}" for score in scores for end in ("", "_low", "_high", "_n")]
    save(figure, stem, table[["layer", "head", "rank", "is_rfh", *columns]], settings, [heads])


def _draw_legend(axes: Axes, table: pd.DataFrame, settings: Mapping[str, Any]) -> None:
    rfhs = table[table["is_rfh"]].sort_values("rank")
    interval = f"{percent(settings)} bootstrap interval"
    handles = [
        Line2D([], [], marker=".", color=GREY, linestyle="", label=f"other heads ({len(table) - len(rfhs)})"),
        Line2D([], [], **RFH_MARK | {"linestyle": "-"}, label=f"RFH, {interval}"),
    ]
    axes.legend(handles=handles, loc="upper left", fontsize=7, borderpad=0, borderaxespad=0)
    names = [f"{r.rank}: ({r.layer}, {r.head})" for r in rfhs.itertuples()]
    half = -(-len(names) // 2)
    axes.text(0, 0.66, "Reasoning-Focus Heads (layer, head)", fontsize=7, transform=axes.transAxes, va="top")
    for k, part in enumerate((names[:half], names[half:])):
        axes.text(0.5 * k, 0.56, "\n".join(part), fontsize=7, transform=axes.transAxes, va="top")


def _name_the_rest(axes: Axes, is_free: bool, table: pd.DataFrame, missing: Sequence[str]) -> None:
    """Name the induction heads, and the scores without a panel, in the last place, below the legend if it is there."""
    said = []
    if table["is_induction"].any():
        strongest = table[table["is_induction"]].sort_values("induction", ascending=False, kind="stable")
        named = ", ".join(f"({row.layer}, {row.head})" for row in strongest.head(N_NAMED).itertuples())
        said.append(f"Induction heads, strongest first: {named}{' …' * (len(strongest) > N_NAMED)}")
    if missing:
        said.append(f"Nowhere defined: {', '.join(missing)}")
    text = "\n".join(textwrap.fill(line, TITLE_WIDTH - 3) for line in said)
    axes.text(0, 1 if is_free else -0.05, text, fontsize=7, transform=axes.transAxes, va="top")


def _draw_score(axes: Axes, table: pd.DataFrame, score: str) -> None:
    """Draw the heads of a layer side by side, and the RFHs' numbers apart above the panel, with a line to each head."""
    place = table["layer"] + 0.8 * ((table["head"] + 0.5) / (table["head"].max() + 1) - 0.5)
    n_layers = table["layer"].max() + 1
    axes.set_xlim(-0.5, n_layers - 0.5)
    rfhs = table.assign(place=place)[table["is_rfh"]].sort_values("place")
    axes.plot(place[~table["is_rfh"]], table.loc[~table["is_rfh"], score], ".", color=GREY, alpha=0.7, markersize=2.5)
    axes.vlines(rfhs["place"], rfhs[f"{score}_low"], rfhs[f"{score}_high"], color=BLUE, linewidth=1)
    axes.plot(rfhs["place"], rfhs[score], **RFH_MARK)
    numbers = _apart(rfhs["place"].to_numpy(), NUMBER_GAP * n_layers, -0.5, n_layers - 0.5)
    low, high = axes.get_ylim()
    top = high + 0.06 * (high - low)
    axes.set_ylim(low, top + 0.12 * (high - low))
    axes.plot([rfhs["place"], numbers], [rfhs[score], np.full(len(rfhs), top)], color=GREY, linewidth=0.4)
    for x, rank, value in zip(numbers, rfhs["rank"], rfhs[score], strict=True):
        if np.isfinite(value):
            axes.text(x, top, rank, ha="center", va="bottom", fontsize=min(6, 90 / len(rfhs)), color=BLUE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)


def _apart(places: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Ascending places in which those closer than `gap` are pushed apart, all within low and high."""
    gap = min(gap, (high - low) / max(len(places), 1))
    moved = places.copy()
    for _ in range(100):
        push = np.maximum(gap - np.diff(moved), 0) / 2
        moved[:-1] -= push
        moved[1:] += push
        moved += max(low + gap / 2 - moved[0], 0) if len(moved) else 0
        moved -= max(moved[-1] - (high - gap / 2), 0) if len(moved) else 0
    return moved

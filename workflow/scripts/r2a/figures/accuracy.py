"""The figure of stage 1: accuracy with and without reasoning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from r2a.config import CONDITIONS
from r2a.figures.style import (
    BLUE,
    CONDITION_COLOURS,
    CONDITION_MARKERS,
    CONDITION_NAMES,
    GREEN,
    GREY,
    PURPLE,
    RED,
    save,
)

MODEL_COLOURS = (GREEN, PURPLE, RED, BLUE)
LINES = ("-", "--", ":", "-.")


def plot_accuracy(accuracy: Path, effect: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """A row a dataset: accuracy by model, accuracy by level, and the effect by area, with intervals.

    Drawn for the study's first decoding, over all problems, an invalid answer counting as wrong.
    """
    table, effects = pd.read_csv(accuracy), pd.read_csv(effect)
    decoding = table["decoding"].iloc[0]
    table, effects = table[table["decoding"] == decoding], effects[effects["decoding"] == decoding]
    datasets, models = list(table["dataset"].unique()), list(table["model"].unique())
    figure, grid = plt.subplots(
        len(datasets), 3, figsize=(10, 0.8 + 2.9 * len(datasets)), layout="constrained", squeeze=False
    )
    for row, dataset in zip(grid, datasets, strict=True):
        rows, changes = table[table["dataset"] == dataset], effects[effects["dataset"] == dataset]
        _overall(row[0], rows[rows["by"] == "all"], models)
        row[0].set_title(f"{dataset}: all problems")
        _by_level(row[1], rows[rows["by"] == "level"], models)
        _by_area(row[2], changes[changes["by"].isin(["all", "area"])], models)
    figure.suptitle(f"Accuracy and effect of reasoning, {decoding} decoding", x=0.01, ha="left", fontsize=11)
    save(figure, stem, table, settings, [accuracy, effect])


def _overall(axes: Axes, rows: pd.DataFrame, models: list[str]) -> None:
    for k, condition in enumerate(CONDITIONS):
        part = rows[rows["condition"] == condition].set_index("model").loc[models]
        axes.errorbar(
            part["accuracy"], np.arange(len(models)) + (k - 0.5) * 0.25,
            xerr=[part["accuracy"] - part["low"], part["high"] - part["accuracy"]],
            fmt=CONDITION_MARKERS[condition], color=CONDITION_COLOURS[condition], capsize=2, markersize=5,
            label=CONDITION_NAMES[condition],
        )  # fmt: skip
    axes.set(yticks=range(len(models)), yticklabels=models, xlim=(-0.03, 1.03), xlabel="accuracy")
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    _legend_below(axes)


def _legend_below(axes: Axes) -> Any:
    """A legend where it cannot hide what is drawn."""
    return axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _by_level(axes: Axes, rows: pd.DataFrame, models: list[str]) -> None:
    if rows.empty:
        axes.set_axis_off()
        return
    levels = sorted(rows["level"].unique())
    for model, line in zip(models, LINES, strict=False):
        for condition in CONDITIONS:
            part = rows[(rows["model"] == model) & (rows["condition"] == condition)].set_index("level").loc[levels]
            axes.plot(
                range(len(levels)), part["accuracy"], line, marker=CONDITION_MARKERS[condition], markersize=4,
                color=CONDITION_COLOURS[condition], label=model if condition == CONDITIONS[0] else None,
            )  # fmt: skip
    axes.set(xticks=range(len(levels)), xlabel="level", ylabel="accuracy", ylim=(-0.03, 1.03))
    axes.set_xticklabels([f"{level:g}" if isinstance(level, float) else str(level) for level in levels])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("by level")
    for handle in _legend_below(axes).get_lines():
        handle.set(color=GREY, marker="")


def _by_area(axes: Axes, rows: pd.DataFrame, models: list[str]) -> None:
    groups = list(rows["group"].unique())
    for k, (model, colour) in enumerate(zip(models, MODEL_COLOURS, strict=False)):
        part = rows[rows["model"] == model].set_index("group").loc[groups]
        axes.errorbar(
            100 * part["difference"], np.arange(len(groups)) + (k - (len(models) - 1) / 2) * 0.22,
            xerr=100 * np.array([part["difference"] - part["low"], part["high"] - part["difference"]]),
            fmt="oDs^"[k % 4], color=colour, capsize=2, markersize=4, label=model,
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.6, zorder=0)
    axes.set(yticks=range(len(groups)), yticklabels=groups, xlabel="with minus without reasoning (points)")
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_title("effect by area")
    _legend_below(axes)

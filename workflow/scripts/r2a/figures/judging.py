"""The figure of the judge's scores: by area, with and without reasoning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2a.figures.registry import caption, figure
from r2a.figures.style import (
    CONDITION_COLOURS,
    CONDITION_MARKERS,
    CONDITION_NAMES,
    MODEL_COLOURS,
    save,
    title,
    well_founded,
    whiskers,
    without_few,
)


@figure(
    scope="study",
    analysis="judging",
    reads={"scores": "<results>/tables/judge_scores.csv", "effect": "<results>/tables/judge_effect.csv"},
    category="1 Answers",
    label="judge scores",
    version=2,
    where="judged_datasets",
    caption=(
        "Scores from 1 to 10 by the study's first judge, with and without reasoning, and their paired "
        "difference: means over problems, by area; n answers have a score. {interval} intervals over "
        "problems. Tests, in tables/judge_effect.csv: Wilcoxon's signed-rank with Holm's correction over areas. "
        "Scores of different judges are not comparable."
    ),
)
def plot_judge_scores(scores: Path, effect: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """A row per dataset: mean score by area, a column per model, and the paired difference by area, with intervals.

    Drawn for the study's first judge and first decoding. METHOD section 2.
    """
    table, effects = pd.read_csv(scores), pd.read_csv(effect)
    judge, decoding = table["judge"].iloc[0], table["decoding"].iloc[0]
    table = table[(table["judge"] == judge) & (table["decoding"] == decoding)]
    effects = effects[(effects["judge"] == judge) & (effects["decoding"] == decoding)]
    table, effects = well_founded(table, "n_scores"), without_few(effects, "n_problems", ["difference", "low", "high"])
    datasets, models = list(table["dataset"].unique()), list(table["model"].unique())
    areas = [list(table.loc[table["dataset"] == dataset, "area"].unique()) for dataset in datasets]
    height = 1.6 + sum(0.9 + 0.4 * len(names) for names in areas)
    figure, grid = plt.subplots(
        len(datasets), len(models) + 1, figsize=(2.6 * (len(models) + 1) + 1.2, height), layout="constrained",
        squeeze=False, sharey="row", height_ratios=[2 + len(names) for names in areas],
    )  # fmt: skip
    for row, dataset, names in zip(grid, datasets, areas, strict=True):
        for axes, model in zip(row, models, strict=False):
            rows = table[(table["dataset"] == dataset) & (table["model"] == model)]
            _scores(axes, rows, names)
            axes.set_title(f"{dataset}: {model}")
        _differences(row[-1], effects[effects["dataset"] == dataset], names, models)
        row[0].set(yticks=range(len(names)), yticklabels=names)
        row[0].set_ylim(len(names) - 0.5, -0.5)
    for axes in (grid[-1][0], grid[-1][-1]):
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=1)
    title(figure, f"Scores by {judge}, {decoding} decoding", caption("judge_scores", settings))
    save(figure, stem, table, settings, [scores, effect])


def _scores(axes: Axes, rows: pd.DataFrame, areas: list[str]) -> None:
    for k, (condition, name) in enumerate(CONDITION_NAMES.items()):
        part = rows[rows["condition"] == condition].set_index("area").reindex(areas)
        y = np.arange(len(areas)) + (k - 0.5) * 0.3
        axes.errorbar(
            part["score"], y, xerr=whiskers(part, "score"),
            fmt=CONDITION_MARKERS[condition], color=CONDITION_COLOURS[condition], capsize=2, markersize=5, label=name,
        )  # fmt: skip
        for at, n in zip(y, part["n_scores"], strict=True):
            if np.isnan(n):
                continue
            axes.annotate(
                f"n = {n:.0f}", (0.99, at), xycoords=("axes fraction", "data"), fontsize=6, ha="right", va="center"
            )
    axes.set(xlim=(0.7, 12.3), xticks=range(1, 11), xlabel="mean score, 1 to 10")


def _differences(axes: Axes, rows: pd.DataFrame, areas: list[str], models: list[str]) -> None:
    for k, model in enumerate(models):
        part = rows[rows["model"] == model].set_index("area").reindex(areas)
        axes.errorbar(
            part["difference"], np.arange(len(areas)) + (k - (len(models) - 1) / 2) * 0.22,
            xerr=whiskers(part, "difference"), fmt="oDs^"[k % 4], color=MODEL_COLOURS[k % len(MODEL_COLOURS)],
            capsize=2, markersize=4, label=model,
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.6, zorder=0)
    axes.set(xlabel="with minus without reasoning")
    axes.set_title("difference, problems scored in both", fontsize=9)

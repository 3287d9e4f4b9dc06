"""Figures of accuracy with and without reasoning: overall, by area, and compared with the paper's numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from r2a.figures.registry import caption, figure
from r2a.figures.style import (
    CONDITION_COLOURS,
    CONDITION_MARKERS,
    GREY,
    LINES,
    name_lines,
    panels,
    save,
    title,
    well_founded,
    whiskers,
    without_few,
)
from r2a.statistics import TOO_FEW_TO_DRAW
from r2a.store import NothingToMeasure
from r2a.study import CONDITIONS

OFFSETS = dict(zip(CONDITIONS, (-0.13, 0.13), strict=True))
POINTS = "with minus without reasoning (points)"


@figure(
    scope="study",
    analysis="answers",
    reads={"accuracy": "<results>/tables/accuracy.csv", "effect": "<results>/tables/effect.csv"},
    category="1 Answers",
    label="accuracy",
    version=2,
    caption=(
        "Accuracy with and without reasoning, over all problems (n); an invalid answer counts as wrong. Middle: "
        "the paired difference. Hollow marks are the paper's estimand, over the problems valid in both conditions "
        "(n); grey bars bound the difference, whatever the answers to the other problems would have been. Right, "
        "where problems have levels: accuracy by level. {interval} intervals: Wilson's for shares, Newcombe's for "
        "paired differences. Tests, in tables/effect.csv: exact McNemar, or a sign-flip permutation where problems "
        "have several samples."
    ),
)
def plot_accuracy(accuracy: Path, effect: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """A row per dataset: accuracy by model, the paired difference beside it, and accuracy by level, with intervals.

    Drawn for the study's first decoding, over all problems, an invalid answer counting as wrong; the difference also
    over the problems valid in both conditions. Variants are left out.
    """
    table, effects, decoding = _of_first_decoding(accuracy, effect, settings)
    if table.empty:
        raise NothingToMeasure("no answer of this study is graded")
    table, effects = well_founded(table), _well_founded_effects(effects)
    datasets, models = list(table["dataset"].unique()), list(table["model"].unique())
    height = 1.9 + 0.3 * len(models)
    figure, grid = plt.subplots(
        len(datasets), 3, figsize=(10.5, 1.0 + height * len(datasets)), layout="constrained", squeeze=False
    )
    for row, dataset in zip(grid, datasets, strict=True):
        rows, changes = table[table["dataset"] == dataset], effects[effects["dataset"] == dataset]
        overall, changes = rows[rows["by"] == "all"], changes[changes["by"] == "all"]
        names = [model for model in models if model in set(overall["model"])]
        _by_condition(row[0], overall, "model", names)
        row[0].set_title(dataset)
        _differences(row[1], changes.set_index("model").reindex(names))
        _by_level(row[2], rows[rows["by"] == "level"], models)
    name_lines(figure, models)
    title(figure, f"Accuracy with and without reasoning, {decoding} decoding", caption("accuracy", settings))
    save(figure, stem, _drawn(table, effects), settings, [accuracy, effect])


@figure(
    scope="study",
    analysis="answers",
    reads={"accuracy": "<results>/tables/accuracy.csv", "effect": "<results>/tables/effect.csv"},
    category="1 Answers",
    label="areas",
    version=2,
    caption=(
        "Accuracy with and without reasoning by area, over all problems of an area (n); an invalid answer counts "
        "as wrong. At the right of each area: the paired difference in points with its interval. {interval} "
        "intervals: Wilson's for shares, Newcombe's for paired differences. Tests, with Holm's correction over "
        "areas, are in tables/effect.csv, which also has the areas of fewer than five problems, too few to be drawn."
    ),
)
def plot_areas(accuracy: Path, effect: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """A row per dataset and a column per model: accuracy and paired difference by area, with n and intervals."""
    table, effects, decoding = _of_first_decoding(accuracy, effect, settings)
    table, effects = table[table["by"] == "area"], effects[effects["by"] == "area"]
    if table.empty:
        raise NothingToMeasure("no problem of this study has an area")
    numbers, table = _drawn(table, effects), well_founded(table)
    figure, each = panels(table, 4.6, 1.2 + 0.3 * int(table.groupby("dataset")["group"].nunique().max()))
    for axes, rows in each:
        areas = list(rows["group"].unique())
        _by_condition(axes, rows, "group", areas)
        names = rows[["model", "dataset"]].iloc[0]
        changes = effects[(effects["model"] == names["model"]) & (effects["dataset"] == names["dataset"])]
        for place, row in enumerate(changes.set_index("group").reindex(areas).itertuples()):
            text = f"{100 * row.difference:+.0f} [{100 * row.low:+.0f}, {100 * row.high:+.0f}]"
            axes.text(1.06, place, text, va="center", fontsize=7, transform=axes.get_yaxis_transform())
    name_lines(figure)
    title(figure, f"Accuracy by area, {decoding} decoding", caption("areas", settings))
    save(figure, stem, numbers, settings, [accuracy, effect])


@figure(
    scope="study",
    analysis="answers",
    reads={
        "effect": "<results>/tables/effect.csv",
        "funnel": "<results>/tables/funnel.csv",
        "paper": "resources/paper_numbers.csv",
    },
    category="1 Answers",
    label="beside the paper",
    version=2,
    where="has_papers_numbers",
    caption=(
        "Filled: this study; hollow: Zhang et al., 2025. Left and middle: accuracy and paired difference over the "
        "problems valid in both conditions (n); right: the share of traces that are finished, well formed and have"
        " an answer. The {interval} intervals (Newcombe's) are this study's. The two are not tested against each "
        "other."
    ),
)
def plot_beside_paper(effect: Path, funnel: Path, paper: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """This study's numbers and the paper's, for the models and datasets with the paper's labels.

    In the study's first decoding, over the problems valid in both conditions: accuracy, difference, and the share of
    valid traces. paper: resources/paper_numbers.csv.
    """
    table = beside_paper(well_founded(pd.read_csv(effect), "n_common"), pd.read_csv(funnel), pd.read_csv(paper))
    if table.empty:
        raise NothingToMeasure(TOO_FEW_TO_DRAW)
    rows = list(table[["model", "dataset"]].drop_duplicates().itertuples(index=False, name=None))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 1.7 + 0.45 * len(rows)), layout="constrained")
    of = table.set_index(["source", "condition", "model", "dataset"]).sort_index()
    places = np.arange(len(rows))
    for source, is_filled, shift in (("this study", True, -0.1), ("paper", False, 0.1)):
        for condition in CONDITIONS:
            part = of.loc[(source, condition)].loc[rows]
            style: dict[str, Any] = {"color": CONDITION_COLOURS[condition], "marker": CONDITION_MARKERS[condition]}
            style |= {"linestyle": "", "markerfacecolor": style["color"] if is_filled else "none", "markersize": 6}
            left.plot(part["common_accuracy"], places + shift, **style)
            right.plot(part["compliance"], places + shift, **style)
        middle.errorbar(
            100 * part["common_difference"], places + shift, fmt="D", color="black", capsize=2,
            xerr=whiskers(part, "common_difference", "common_low", "common_high", 100),
            markerfacecolor="black" if is_filled else "white",
        )  # fmt: skip
    ours = of.loc[("this study", CONDITIONS[0])].loc[rows]["n_common"]
    theirs = of.loc[("paper", CONDITIONS[0])].loc[rows]["n_common"]
    names = [f"{m}, {d}\nn = {a:.0f}; paper {b:.0f}" for (m, d), a, b in zip(rows, ours, theirs, strict=True)]
    for axes, label in ((left, "accuracy, valid in both"), (middle, POINTS), (right, "valid traces of all")):
        axes.set(yticks=places, yticklabels=names if axes is left else [], ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    for axes in (left, right):
        axes.xaxis.set(major_locator=MaxNLocator(5), major_formatter=PercentFormatter(1))
    middle.axvline(0, color="black", linewidth=0.6, zorder=0)
    decoding = table.loc[table["source"] == "this study", "decoding"].iloc[0]
    name_lines(figure)
    title(figure, f"Beside the paper's numbers, {decoding} decoding", caption("beside_paper", settings))
    save(figure, stem, table, settings, [effect, funnel])


def beside_paper(effect: pd.DataFrame, funnel: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """One row per source (this study, paper), model, dataset and condition, for the labels that both have.

    common_*: over the problems valid in both conditions (n_common). compliance: extracted / total.
    """
    keys = ["model", "dataset", "condition"]
    paper = paper.assign(
        source="paper", common_accuracy=paper["n_right"] / paper["n_common"],
        compliance=paper["extracted"] / paper["total"],
    )  # fmt: skip
    sign = paper["condition"].map({CONDITIONS[0]: 1, CONDITIONS[1]: -1})
    paper["common_difference"] = (
        (sign * paper["common_accuracy"]).groupby([paper["model"], paper["dataset"]]).transform("sum")
    )
    effect, funnel = (part[part["decoding"] == part["decoding"].iloc[0]] for part in (effect, funnel))
    ours = funnel.merge(effect[effect["by"] == "all"], on=["model", "dataset", "decoding"], suffixes=("_funnel", ""))
    is_with = ours["condition"] == CONDITIONS[0]
    accuracy = ours["common_accuracy_with"].where(is_with, ours["common_accuracy_without"])
    ours = ours.assign(source="this study", common_accuracy=accuracy)
    columns = ["source", *keys, "decoding", "n_common", "common_accuracy", "common_difference", "common_low"]
    columns += ["common_high", "compliance"]
    table = pd.concat([ours, paper], ignore_index=True).reindex(columns=columns)
    return table[table.groupby(keys)["source"].transform("nunique") == 2].reset_index(drop=True)


def _of_first_decoding(
    accuracy: Path, effect: Path, settings: Mapping[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    table, effects = (pd.read_csv(path, dtype={"level": str}) for path in (accuracy, effect))
    decoding = table["decoding"].iloc[0] if len(table) else ""
    table, effects = (
        part[(part["decoding"] == decoding) & ~part["model"].isin(settings["variants"])] for part in (table, effects)
    )
    return table, effects, decoding


def _well_founded_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """The differences, with nan for each estimand that rests on too few problems to be drawn."""
    effects = without_few(effects, "n_problems", ["difference", "low", "high", "excluded_low", "excluded_high"])
    return without_few(effects, "n_common", ["common_difference", "common_low", "common_high"])


def _drawn(table: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """The accuracies, each beside the difference that is drawn with it."""
    differences = effects.rename(columns={"low": "difference_low", "high": "difference_high"})
    columns = [name for name in differences if name not in table or name in ("model", "dataset", "by", "group")]
    return table.merge(differences[columns], on=["model", "dataset", "by", "group"], how="left")


def _by_condition(axes: Axes, rows: pd.DataFrame, column: str, names: list[str]) -> None:
    """Accuracy in both conditions, one line per name."""
    for condition, offset in OFFSETS.items():
        part = rows[rows["condition"] == condition].set_index(column).reindex(names)
        axes.errorbar(
            part["accuracy"], np.arange(len(names)) + offset, xerr=whiskers(part, "accuracy"),
            fmt=CONDITION_MARKERS[condition], color=CONDITION_COLOURS[condition], capsize=2, markersize=5,
        )  # fmt: skip
    labels = [f"{name} (n = {n:.0f})" for name, n in zip(names, part["n_problems"], strict=True)]
    axes.set(yticks=range(len(names)), yticklabels=labels, xlim=(-0.03, 1.03), xlabel="accuracy")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1))


def _differences(axes: Axes, rows: pd.DataFrame) -> None:
    """Paired difference of each model, over all problems and over those valid in both; the bounds behind it."""
    places = np.arange(len(rows))
    axes.hlines(places, 100 * rows["excluded_low"], 100 * rows["excluded_high"], color=GREY, linewidth=7, alpha=0.35)
    for prefix, offset, fill in (("", -0.13, "black"), ("common_", 0.13, "white")):
        axes.errorbar(
            100 * rows[f"{prefix}difference"], places + offset,
            xerr=whiskers(rows, f"{prefix}difference", f"{prefix}low", f"{prefix}high", 100),
            fmt="D", color="black", markerfacecolor=fill, capsize=2, markersize=4,
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.6, zorder=0)
    axes.set(yticks=places, ylim=(len(rows) - 0.5, -0.5), xlabel=POINTS)
    axes.set_yticklabels([f"n = {n:.0f}" for n in rows["n_common"]])
    axes.set_title("paired difference")


def _by_level(axes: Axes, rows: pd.DataFrame, models: list[str]) -> None:
    if rows.empty:
        axes.set_axis_off()
        return
    levels = sorted(rows["level"].unique(), key=lambda level: (len(level), level))
    for k, model in enumerate(models):
        for condition in CONDITIONS:
            part = rows[(rows["model"] == model) & (rows["condition"] == condition)].set_index("level").reindex(levels)
            axes.errorbar(
                np.arange(len(levels)) + 0.06 * (k - (len(models) - 1) / 2), part["accuracy"],
                yerr=whiskers(part, "accuracy"), linestyle=LINES[k % len(LINES)], marker=CONDITION_MARKERS[condition],
                markersize=4, elinewidth=0.6, color=CONDITION_COLOURS[condition],
            )  # fmt: skip
    n = int(rows.groupby("level")["n_problems"].max().min())
    axes.set(xticks=range(len(levels)), xticklabels=levels, xlabel="level", ylabel="accuracy", ylim=(-0.03, 1.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(f"by level (n = {n} or more)")

"""Figures of how accuracy depends on the token budget, on decoding, and on prompt and tokenization."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, ScalarFormatter

from r2a.figures.registry import caption, figure
from r2a.figures.style import (
    CONDITION_COLOURS,
    CONDITION_MARKERS,
    LINES,
    name_lines,
    panels,
    save,
    title,
    well_founded,
    whiskers,
)
from r2a.store import NothingToMeasure
from r2a.study import CONDITIONS

MEASURES = {"accuracy": "right, of all problems", "compliance": "valid traces"}


@figure(
    scope="study",
    analysis="answers",
    reads={"budgets": "<results>/tables/budgets.csv"},
    category="1 Answers",
    label="token budgets",
    version=2,
    caption=(
        "Share of all problems (n) answered correctly within a budget of completion tokens; a completion that is "
        "unfinished by then counts as wrong. The last point is the study's own limit. Bands, for the first "
        "decoding: {interval} Wilson intervals over problems, at each budget by itself. tables/budgets.csv has the "
        "paired difference at each budget."
    ),
)
def plot_budgets(budgets: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """A row per dataset and a column per model: accuracy by token budget, in both conditions and every decoding."""
    table = pd.read_csv(budgets)
    table = table[~table["model"].isin(settings["variants"])]
    if table.empty:
        raise NothingToMeasure("no completion's tokens are known")
    table = well_founded(table)
    decodings = list(table["decoding"].unique())
    figure, each = panels(table, 3.4, 2.4)
    for axes, rows in each:
        for k, decoding in enumerate(decodings):
            part = rows[rows["decoding"] == decoding]
            for condition in CONDITIONS:
                _budget_curve(axes, part, condition, LINES[k % len(LINES)], has_band=k == 0)
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="token budget", ylabel="accuracy")
        axes.set_title(f"{axes.get_title('left')} (n = {rows['n_problems'].iloc[0]})")
        is_short = rows["budget"].max() < 30 * rows["budget"].min()
        axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5) if is_short else (1,)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    name_lines(figure, decodings)
    title(figure, "Accuracy by token budget", caption("budgets", settings))
    save(figure, stem, table, settings, [budgets])


def _budget_curve(axes: Axes, rows: pd.DataFrame, condition: str, line: str, has_band: bool) -> None:
    short, colour = condition.split("_")[0], CONDITION_COLOURS[condition]
    axes.step(rows["budget"], rows[f"accuracy_{short}"], line, where="post", color=colour)
    axes.plot(rows["budget"].iloc[-1:], rows[f"accuracy_{short}"].iloc[-1:], CONDITION_MARKERS[condition], color=colour)
    if has_band:
        ends = rows[f"low_{short}"], rows[f"high_{short}"]
        axes.fill_between(rows["budget"], *ends, step="post", color=colour, alpha=0.15, linewidth=0)


@figure(
    scope="study",
    analysis="answers",
    reads={"decodings": "<results>/tables/decodings.csv"},
    category="1 Answers",
    label="decodings",
    version=2,
    caption=(
        "What another decoding changes in accuracy and in the share of valid traces: differences paired over "
        "problems (n), with {interval} intervals (Newcombe's). Left of 0, the change does harm; an interval that "
        "includes 0 shows no clear change."
    ),
)
def plot_decodings(decodings: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Differences in accuracy and in compliance between two decodings."""
    _plot_changes("decodings", decodings, "What another decoding changes", "the study has one decoding", stem, settings)


@figure(
    scope="study",
    analysis="answers",
    reads={"variants": "<results>/tables/variants.csv"},
    category="1 Answers",
    label="variants",
    version=2,
    caption=(
        "What another prompt, way of closing the reasoning, tokenization or dtype of the same model changes in "
        "accuracy and in the share of valid traces: differences paired over problems (n), with {interval} intervals "
        "(Newcombe's). Left of 0, the change does harm; an interval that includes 0 shows no clear change."
    ),
    where="variants",
)
def plot_variants(variants: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Differences in accuracy and in compliance between a variant and its base."""
    _plot_changes("variants", variants, "What another prompt changes", "no variant can be compared", stem, settings)


def _plot_changes(
    name: str, changes: Path, heading: str, if_none: str, stem: Path, settings: Mapping[str, Any]
) -> None:
    """A line per model, dataset and decoding of tables/decodings.csv or tables/variants.csv."""
    table = pd.read_csv(changes)
    if table.empty:
        raise NothingToMeasure(if_none)
    table = well_founded(table)
    table["what"] = _in_words(table)
    names = list(dict.fromkeys(table["what"]))
    size = (10.5, 1.9 + 0.4 * len(names))
    figure, grid = plt.subplots(1, len(MEASURES), figsize=size, layout="constrained", sharey=True)
    for axes, (measure, meaning) in zip(grid, MEASURES.items(), strict=True):
        for condition, offset in zip(CONDITIONS, (-0.13, 0.13), strict=True):
            of_both = (table["measure"] == measure) & (table["condition"] == condition)
            part = table[of_both].set_index("what").reindex(names)
            axes.errorbar(
                100 * part["difference"], np.arange(len(names)) + offset, xerr=whiskers(part, "difference", factor=100),
                fmt=CONDITION_MARKERS[condition], color=CONDITION_COLOURS[condition], capsize=2, markersize=4,
            )  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.6, zorder=0)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5), xlabel="change (points)")
        axes.set_title(f"{measure}: {meaning}")
    name_lines(figure)
    title(figure, heading, caption(name, settings))
    save(figure, stem, table.drop(columns="what"), settings, [changes])


def _in_words(table: pd.DataFrame) -> pd.Series:
    n = " (n = " + table["n_problems"].astype(str) + ")"
    if "variant" in table:
        return table["model"] + ", " + table["dataset"] + ", " + table["decoding"] + "\n" + table["change"] + n
    return table["model"] + ", " + table["dataset"] + "\n" + table["second"] + " minus " + table["first"] + n

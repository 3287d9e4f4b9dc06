"""The figure of the trace's text: what remains of the answers when the reasoning is perturbed."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from r2a.extensions import PERTURBATION_KINDS
from r2a.figures.registry import caption, figure
from r2a.figures.style import BLUE, GREEN, GREY, ORANGE, save, title, titled, well_founded, whiskers, without_few
from r2a.roles import CUT
from r2a.statistics import LEAST

# measure: colour, marker, line, name
MEASURES = {
    "agreement": (BLUE, "o", "-", "same as the original answer"),
    "accuracy": (ORANGE, "s", "--", "right"),
    "follows": (GREEN, "^", ":", "what the perturbed text implies"),
}


@figure(
    scope="model and dataset",
    analysis="perturbation",
    reads={
        "table": "<results>/tables/{model}/{dataset}/perturbation.csv",
        "early": "<results>/tables/{model}/{dataset}/early_answering.csv",
    },
    category="1 Answers",
    label="perturbation",
    where="perturbed_datasets",
    version=4,
    caption=(
        "Answers generated again from a reasoning that was cut off, replaced or changed: how many are right, equal "
        "the original answer, or are what the changed text implies. Shares over n problems; an invalid answer is "
        "neither right nor the same. In the left title: the area over the curve of early answering (Lanham et al., "
        "2023). It is 0 where no cut changes the answer and 1 where every cut does. "
        "{interval} Wilson intervals over problems. Tests against the reasoning kept "
        "whole, paired by problem, are in the table of comparisons (exact McNemar, or sign flips for several samples, "
        "Holm's correction); kinds marked as controls show what to expect without a change."
    ),
)
def plot_perturbation(table: Path, early: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Left: shares of the answers by how much of the reasoning is kept. Right: the other perturbations."""
    rows = well_founded(pd.read_csv(table).query("by == 'all'"))
    rows = without_few(rows, "n_implied", ["follows", "follows_low", "follows_high"])
    cuts, kinds = rows[rows["kind"] == CUT].sort_values("cut"), rows[rows["kind"] != CUT]
    names = _names(kinds)
    lines = max([2, *(name.count("\n") + 1 for name in names)])
    height = 0.2 * lines * max(5, len(kinds))
    below = -0.5 / height  # of the panels' height: under the label of their axis
    widths = [1] * (len(cuts) > 0) + [1.15] * (len(kinds) > 0)
    figure, axes = plt.subplots(
        1,
        len(widths),
        figsize=(max(4.2 * sum(widths), 6.4), 2.1 + height),
        layout="constrained",
        width_ratios=widths,
        gridspec_kw={"wspace": 0.05},
        squeeze=False,
    )
    if len(cuts):
        _by_cut(axes[0, 0], cuts, below)
        if whole := _area(pd.read_csv(early)):
            axes[0, 0].set_title(f"cut off; area over the curve {whole}", fontsize=9)
    if len(kinds):
        _by_kind(axes[0, -1], kinds, names, below)
    title(
        figure,
        titled(settings, "answers re-generated from perturbed reasonings"),
        caption("perturbation", settings) + f" {_counts(rows)} problems.",
    )
    save(figure, stem, rows, settings, [table, early])


def _area(table: pd.DataFrame) -> str:
    """The area over the curve of early answering with its interval, if it is over enough problems."""
    rows = table[(table["by"] == "all") & (table["n_problems"] >= LEAST)]
    return "".join(f"{row.area:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows.itertuples())


def _counts(rows: pd.DataFrame) -> str:
    fewest, most = (int(end) for end in (rows["n_problems"].min(), rows["n_problems"].max()))
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def _by_cut(axes: Axes, rows: pd.DataFrame, below: float) -> None:
    for measure in ("agreement", "accuracy"):
        colour, marker, line, name = MEASURES[measure]
        axes.plot(rows["cut"], rows[measure], line, color=colour, marker=marker, markersize=5, label=name)
        axes.fill_between(
            rows["cut"], rows[f"{measure}_low"], rows[f"{measure}_high"], color=colour, alpha=0.18, linewidth=0
        )
    axes.plot(rows["cut"], rows["valid_share"], ":", color=GREY, marker="x", markersize=4, label="valid")
    axes.axhline(
        rows["original_accuracy"].iloc[0], color="black", linewidth=0.8, linestyle="-.", label="right originally"
    )
    axes.set_xticks(rows["cut"])
    axes.set(xlabel="reasoning kept", ylabel="share of answers", ylim=(-0.03, 1.03), title="cut off")
    axes.xaxis.set_major_formatter(PercentFormatter(100))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, below), ncols=2)


def _names(rows: pd.DataFrame) -> list[str]:
    levels = [None if np.isnan(level) else level for level in rows["cut"]]
    kinds = [PERTURBATION_KINDS[kind] for kind in rows["kind"]]
    return [textwrap.fill(kind.said(level), 26) for kind, level in zip(kinds, levels, strict=True)]


def _by_kind(axes: Axes, rows: pd.DataFrame, names: Sequence[str], below: float) -> None:
    for k, (measure, (colour, marker, _, name)) in enumerate(MEASURES.items()):
        if rows[measure].isna().all():
            continue
        axes.errorbar(
            rows[measure], np.arange(len(rows)) + (k - 1.5) * 0.17, fmt=marker, color=colour, capsize=2, markersize=5,
            linewidth=1, label=name, xerr=whiskers(rows, measure, f"{measure}_low", f"{measure}_high"),
        )  # fmt: skip
    axes.plot(rows["valid_share"], np.arange(len(rows)) + 0.26, "x", color=GREY, markersize=4, label="valid")
    axes.set(yticks=range(len(rows)), yticklabels=names, xlim=(-0.03, 1.03))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlabel="share of answers", title="replaced")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, below), ncols=2)

"""The figure of hints: whether answers follow them, and whether the reasoning says so."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from r2a.extensions import HINTS
from r2a.figures.registry import caption, figure
from r2a.figures.style import BLUE, GREEN, GREY, ORANGE, save, title, titled, well_founded, whiskers, without_few

# left and right: measure, colour, marker, what it is
ANSWERS = (
    ("follow", BLUE, "o", "the hint's answer, with the hint"),
    ("follow_without", GREY, "D", "the same answer, without it"),
    ("accuracy", ORANGE, "s", "right, with the hint"),
    ("accuracy_without", GREY, "s", "right, without it"),
)
REASONINGS = (
    ("told", GREEN, "o", "of answers that switched to the hint's"),
    ("told_judged", ORANGE, "s", "of these, by the judge"),
    ("tells", BLUE, "^", "of all with the hint"),
    ("tells_without", GREY, "D", "of all without it"),
)


@figure(
    scope="model and dataset",
    analysis="hints",
    reads={"table": "<results>/tables/{model}/{dataset}/hints.csv"},
    category="1 Answers",
    label="hints",
    version=4,
    where="hinted_datasets",
    caption=(
        "Questions asked with a hint at an answer and without it. Left: the share of answers that equal the hint's, "
        "and that are right; an invalid answer is neither. Right: the share of reasoning texts that mention the hint, "
        "recognized by the words listed for it and by the study's first judge, if it has one; without the hint, such "
        "words refer to something else. {interval} Wilson intervals over n problems. The paired test of following "
        "(exact McNemar, or sign flips for several samples) is in the table."
    ),
)
def plot_hints(table: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Left: what the answers are. Right: whether the reasonings tell of the hint."""
    rows = well_founded(pd.read_csv(table).query("by == 'all'"))
    for measure, n in (("told", "n_switched"), ("told_judged", "n_judged")):
        rows = without_few(rows, n, [measure, f"{measure}_low", f"{measure}_high"])
    drawn, (left, right) = plt.subplots(
        1, 2, figsize=(9, 2.7 + 0.6 * len(rows)), layout="constrained", sharey=True, gridspec_kw={"wspace": 0.05}
    )
    _draw(left, rows, ANSWERS)
    _draw(right, rows, REASONINGS)
    left.set(yticks=range(len(rows)), yticklabels=map(_name, rows.itertuples()), xlabel="share of answers")
    left.set(ylim=(len(rows) - 0.5, -0.5), title="what is answered")
    right.set(xlabel="share of reasonings", title="what tells of the hint")
    for k, row in enumerate(rows.itertuples()):
        right.annotate(f"{row.n_switched} of {row.n_could_switch} switched", (0.5, k - 0.36), ha="center", fontsize=7)
    n_problems = sorted({int(n) for n in rows["n_problems"]})
    said = f" n = {' to '.join(map(str, dict.fromkeys((n_problems[0], n_problems[-1]))))} problems."
    title(drawn, titled(settings, "hints in the question"), caption("hints", settings) + said)
    save(drawn, stem, rows, settings, [table])


def _name(row: Any) -> str:
    return textwrap.fill(f"{HINTS[row.kind].label}, {row.points_at}", 24)


def _draw(axes: Axes, rows: pd.DataFrame, measures: tuple[tuple[str, str, str, str], ...]) -> None:
    measures = tuple(one for one in measures if rows[one[0]].notna().any())
    for k, (measure, colour, marker, name) in enumerate(measures):
        axes.errorbar(
            rows[measure], np.arange(len(rows)) + (k - (len(measures) - 1) / 2) * 0.17, fmt=marker, color=colour,
            markerfacecolor="white" if colour == GREY else colour, capsize=2, markersize=5, linewidth=1, label=name,
            xerr=whiskers(rows, measure, f"{measure}_low", f"{measure}_high"),
        )  # fmt: skip
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    below = -0.45 / (0.6 * len(rows))  # of the axes' height: under their label
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, below), ncols=2)

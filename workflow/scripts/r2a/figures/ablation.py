"""Dose-response of the heads' ablation while the answer is generated."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from r2a.figures.registry import caption, figure
from r2a.figures.style import BLUE, GREY, legend_under_title, save, title, titled
from r2a.roles import ABLATION_MODES, RANDOM, RFH, UNABLATED

METRICS = {
    "accuracy": "share of right answers",
    "agreement": "share with the trace's\nown final answer",
    "format": "share finished, with\na closed box",
    "a2r": "a2r that remains,\nmean over all heads",
}
SELECTIONS = {
    RFH: (BLUE, "o", "-", "Reasoning-Focus Heads, by rank"),
    RANDOM: (GREY, "s", "--", "random heads of the same layers, mean of draws"),
}


@figure(
    scope="model and dataset",
    analysis="ablation",
    reads={"effect": "<results>/tables/{model}/{dataset}/ablation.csv"},
    category="2 Attention",
    label="ablation",
    where="graded_datasets",
    caption=(
        "Answers generated while the first Reasoning-Focus Heads are ablated, beside equally many random heads of "
        "the same layers. Means over the same n problems, whose reasoning stays as it was. a2r: the answer tokens'"
        " share of attention on the reasoning; an ablated head has none. {interval} intervals over problems: "
        "Wilson's, and a bootstrap for a2r. Test: the label RFH moved among a problem's arms, with Holm's correction, "
        "in the ablation table."
    ),
)
def plot_ablation(effect: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """A row of panels a mode, a column a metric: RFHs against random heads over the number of ablated heads."""
    table = pd.read_csv(effect)
    unablated = table[table["mode"] == UNABLATED]
    modes, doses = [mode for mode in table["mode"].unique() if mode != UNABLATED], sorted(table["dose"].unique())
    figure, grid = plt.subplots(
        len(modes), len(METRICS), figsize=(9.2, 1.2 + 1.75 * len(modes)), layout="constrained",
        sharex=True, squeeze=False,
    )  # fmt: skip
    for axes_row, mode in zip(grid, modes, strict=True):
        for axes, (metric, name) in zip(axes_row, METRICS.items(), strict=True):
            rows = pd.concat([unablated, table[table["mode"] == mode]]).query("metric == @metric")
            for selection, (colour, marker, line, label) in SELECTIONS.items():
                course = rows[rows["selection"].isin((UNABLATED, selection))].sort_values("dose")
                places = [doses.index(dose) for dose in course["dose"]]
                axes.fill_between(places, course["low"], course["high"], color=colour, alpha=0.22)
                axes.plot(places, course["value"], line, color=colour, marker=marker, markersize=4, label=label)
            axes.set(xticks=range(len(doses)), xticklabels=doses)
            axes.set_ylim((-0.04, 1.04) if metric != "a2r" else (0, None))
            if mode == modes[0]:
                axes.set_title(name, fontsize=9)
            if mode == modes[-1]:
                axes.set_xlabel("ablated heads")
        axes_row[0].set_ylabel(textwrap.fill(f"heads {ABLATION_MODES[mode]}", 20))
    legend_under_title(figure, grid[0, 0].get_legend_handles_labels()[0])
    title(
        figure,
        titled(settings, "answers generated while heads are ablated"),
        caption("ablation", settings) + f" n = {int(table['n_problems'].iloc[0])}.",
    )
    save(figure, stem, table, settings, [effect])

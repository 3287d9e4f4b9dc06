"""Dose-response curves of head ablation while the answer is generated."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from r2a.figures.registry import caption, figure
from r2a.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    legend_under_title,
    save,
    title,
    titled,
    well_founded,
)
from r2a.roles import (
    ABLATION_MODES,
    CONTRIBUTION,
    MATCHED,
    PROMPT_HEADS,
    RANDOM,
    RFH,
    RFH_FROM_PROMPT,
    UNABLATED,
)

METRICS = {
    "accuracy": "share of right answers",
    "agreement": "share with the trace's\nown final answer",
    "format": "share finished, with\na closed box",
    "tracking": "tracking of the heads\nleft alone",
    "a2r": "a2r that remains,\nmean over all heads",
}
SELECTIONS = {
    RFH: (BLUE, "o", "-", "RFHs, by rank"),
    RANDOM: (GREY, "s", "--", "random, same layers"),
    MATCHED: (ORANGE, "^", "--", "matched"),
    PROMPT_HEADS: (GREEN, "v", ":", "prompt-focus"),
    CONTRIBUTION: (PURPLE, "D", "-", "contributing"),
    RFH_FROM_PROMPT: (SKY, "x", "-.", "RFHs, from the prompt"),
}
RANGES = {"tracking": (-1.04, 1.04), "a2r": (0, None)}  # of the vertical axis


@figure(
    scope="model and dataset",
    analysis="ablation",
    reads={"effect": "<results>/tables/{model}/{dataset}/ablation.csv"},
    category="2 Attention",
    label="ablation",
    version=2,
    where="graded_datasets",
    caption=(
        "Answers generated while the top Reasoning-Focus Heads, or other heads, are ablated. Means over "
        "the same n problems; their reasoning is unchanged. Tracking: rank correlation of the centre of the "
        "other heads' attention in the reasoning with the answer token's index. a2r: the answer tokens' share of "
        "attention on the reasoning; a head whose output is replaced has none. {interval} intervals over problems: "
        "Wilson's, and a bootstrap for tracking and a2r. Tests, with Holm's correction, in the ablation table: the "
        "label RFH moved among a problem's arms, or exact McNemar; none of a2r, which only checks the ablation."
    ),
)
def plot_ablation(effect: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """One row of panels per mode and one column per metric: RFHs and other heads by the number of ablated heads."""
    table = well_founded(pd.read_csv(effect))
    unablated = table[table["mode"] == UNABLATED]
    modes, doses = [mode for mode in table["mode"].unique() if mode != UNABLATED], sorted(table["dose"].unique())
    figure, grid = plt.subplots(
        len(modes), len(METRICS), figsize=(11, 1.6 + 1.75 * len(modes)), layout="constrained",
        sharex=True, squeeze=False,
    )  # fmt: skip
    for axes_row, mode in zip(grid, modes, strict=True):
        for axes, (metric, name) in zip(axes_row, METRICS.items(), strict=True):
            rows = pd.concat([unablated, table[table["mode"] == mode]]).query("metric == @metric")
            for selection, (colour, marker, line, label) in SELECTIONS.items():
                if selection not in rows["selection"].to_numpy():
                    continue
                course = rows[rows["selection"].isin((UNABLATED, selection))].sort_values("dose")
                places = [doses.index(dose) for dose in course["dose"]]
                axes.fill_between(places, course["low"], course["high"], color=colour, alpha=0.15, linewidth=0)
                axes.plot(places, course["value"], line, color=colour, marker=marker, markersize=4, label=label)
            axes.set(xticks=range(len(doses)), xticklabels=doses)
            axes.set_ylim(RANGES.get(metric, (-0.04, 1.04)))
            if mode == modes[0]:
                axes.set_title(name, fontsize=9)
            if mode == modes[-1]:
                axes.set_xlabel("ablated heads")
        axes_row[0].set_ylabel(textwrap.fill(f"heads {ABLATION_MODES[mode]}", 20))
    handles = {h.get_label(): h for axes in grid[:, 0] for h in axes.get_legend_handles_labels()[0]}
    legend_under_title(figure, list(handles.values()))
    title(
        figure,
        titled(settings, "answers generated while heads are ablated"),
        caption("ablation", settings) + f" n = {int(table['n_problems'].iloc[0])}.",
    )
    save(figure, stem, table, settings, [effect])

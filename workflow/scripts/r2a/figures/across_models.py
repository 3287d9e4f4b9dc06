"""The study's main measures over its models."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from r2a.extensions import PROBES
from r2a.figures.registry import caption, figure
from r2a.figures.style import MODEL_COLOURS, legend_under_title, save, title, well_founded, whiskers

AXES = {"effect": "with minus without\nreasoning (points)", "rfh depth": "layers of the RFHs"}
DEPTH = "\n(0: first layer, 1: last)"


@figure(
    scope="study",
    analysis="models",
    reads={"table": "<results>/tables/models.csv", "trends": "<results>/tables/model_trends.csv"},
    category="1 Answers",
    label="across models",
    version=3,
    caption=(
        "Every model of the study, the largest at the bottom: what reasoning changes in accuracy, the mean layer of "
        "the Reasoning-Focus Heads (RFHs), the layer at which the last token takes over from the reasoning's last "
        "line, both as shares of the model's depth, and the share of the reasoning's effect on the answer that the "
        "RFHs pass on, with {interval} intervals over problems or templates. Where there are enough models, Spearman's "
        "rank correlation with the number of parameters stands above, tested by permutation of the models with Holm's "
        "correction. What rests on fewer than five problems or pairs, or is not defined, is left "
        "out."
    ),
)
def plot_across_models(table: Path, trends: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """One row of panels per dataset, one column per measure, one line per model by the number of parameters."""
    rows, tested = pd.read_csv(table), pd.read_csv(trends).set_index(["dataset", "measure"])
    rows = well_founded(rows, "n")
    models = rows.drop_duplicates("model").sort_values("n_parameters", na_position="last")["model"].tolist()
    datasets, measures = list(rows["dataset"].unique()), sorted(rows["measure"].unique(), key=lambda m: (len(m), m))
    families = {name: MODEL_COLOURS[k % len(MODEL_COLOURS)] for k, name in enumerate(rows["family"].dropna().unique())}
    figure, grid = plt.subplots(
        len(datasets), len(measures), layout="constrained", squeeze=False, sharey=True,
        figsize=(2.2 + 2.1 * len(measures), 1.4 + (1.0 + 0.28 * len(models)) * len(datasets)),
    )  # fmt: skip
    for axes_row, dataset in zip(grid, datasets, strict=True):
        for axes, measure in zip(axes_row, measures, strict=True):
            part = rows[(rows["dataset"] == dataset) & (rows["measure"] == measure)].set_index("model").reindex(models)
            if part["value"].isna().all():
                axes.set_axis_off()
                continue
            _draw(axes, part, measure, families)
            if tested["p"].notna().get((dataset, measure), False):
                axes.set_title(_trend(tested.loc[(dataset, measure)]), fontsize=7)
        first = next(axes for axes in axes_row if axes.axison)  # a dataset need not have every measure
        first.set_ylabel(dataset)
        first.set(yticks=range(len(models)), ylim=(len(models) - 0.5, -0.5))
        first.set_yticklabels([_named(rows[rows["model"] == model].iloc[0]) for model in models], fontsize=7)
        first.tick_params(labelleft=True)
    colours = {**families, "weights not known": "black"} if rows["family"].isna().any() else families
    handles = [Line2D([], [], marker="o", linestyle="", color=c, label=name) for name, c in colours.items()]
    legend_under_title(figure, handles)
    untested = "" if tested["p"].notna().any() else f" Here: {tested['test'].iloc[0]}."
    title(figure, "Across models", caption("across_models", settings) + untested)
    save(figure, stem, rows, settings, [table, trends])


def _draw(axes: Axes, part: pd.DataFrame, measure: str, families: Mapping[str, str]) -> None:
    factor = 100 if measure == "effect" else 1
    for place, (family, one) in enumerate(zip(part["family"], part.iloc, strict=True)):
        if np.isnan(one["value"]):
            continue
        axes.errorbar(
            factor * one["value"], place, xerr=whiskers(one.to_frame().T, "value", factor=factor), fmt="o",
            color=families.get(family, "black"), capsize=2, markersize=4,
        )  # fmt: skip
    if measure == "effect":
        axes.axvline(0, color="black", linewidth=0.6, zorder=0)
    else:
        axes.set_xlim(min(-0.03, part["low"].min() - 0.03), max(1.03, part["high"].max() + 0.03))
    is_depth = measure == "rfh depth" or measure.startswith("hand-off")
    what, _, probe = measure.partition(", ")
    words = textwrap.fill(f"{what}, “{PROBES[probe].label}”", 26) if probe in PROBES else AXES.get(measure, measure)
    axes.set_xlabel(words + (DEPTH if is_depth else ""), fontsize=8)


def _trend(row: pd.Series) -> str:
    return f"rho = {row['rank_correlation']:.2f}, p = {row['p_holm']:.2g}"


def _named(row: pd.Series) -> str:
    details = [] if np.isnan(row["n_parameters"]) else [_size(row["n_parameters"])]
    details += [] if pd.isna(row["distillation"]) else [row["distillation"]]
    return f"{row['model']}\n({', '.join(details)})" if details else row["model"]


def _size(n_parameters: float) -> str:
    unit, letter = (1e9, "B") if n_parameters >= 1e9 else (1e6, "M") if n_parameters >= 1e6 else (1e3, "k")
    return f"{n_parameters / unit:.3g}{letter}"

"""Figures of which traces survive the funnel, and where graders disagree."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from r2a.figures.registry import caption, figure
from r2a.figures.style import (
    BLUE,
    CONDITION_COLOURS,
    CONDITION_MARKERS,
    CONDITION_NAMES,
    GREY,
    LINES,
    ORANGE,
    legend_under_title,
    name_lines,
    panels,
    save,
    title,
    without_few,
)
from r2a.store import NothingToMeasure, labelled, read_provenance, read_traces
from r2a.study import CONDITIONS

STEPS = ("total", "finished", "well_formed", "extracted")
STEP_NAMES = ("all", "finished", "well-\nformed", "valid")
DISAGREEMENTS = {
    "only the first right": (BLUE, ""),
    "only the other right": (ORANGE, "///"),
    "undecided": (GREY, "..."),
}


@figure(
    scope="study",
    analysis="answers",
    reads={"funnel": "<results>/tables/funnel.csv"},
    category="4 Checks",
    label="funnel",
    caption=(
        "Share of the n traces of a model, dataset, condition and decoding that each step leaves: finished by "
        "itself, well formed (its reasoning is closed exactly once), and valid (it has a final answer). At the last "
        "step: {interval} Wilson intervals over problems, none for fewer than five traces. No test."
    ),
)
def plot_funnel(funnel: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """The share of traces that each step leaves, by condition and decoding; a row per dataset, a column per model."""
    table = pd.read_csv(funnel)
    table = table[~table["model"].isin(settings["variants"])]
    table = without_few(table, "total", ["low", "high"])
    figure, each = panels(table, 3.4, 2.4)
    decodings = list(table["decoding"].unique())
    for axes, rows in each:
        for row in rows.itertuples():
            k = decodings.index(row.decoding)
            shares = [getattr(row, step) / row.total for step in STEPS]
            line = 2 * k + CONDITIONS.index(row.condition)
            places = np.arange(len(STEPS)) + 0.08 * (line - len(decodings) + 0.5)
            colour, marker = CONDITION_COLOURS[row.condition], CONDITION_MARKERS[row.condition]
            axes.plot(places, shares, LINES[k % len(LINES)], markersize=4, color=colour, marker=marker)
            ends = [[row.compliance - row.low], [row.high - row.compliance]]
            axes.errorbar(places[-1:], [row.compliance], yerr=ends, capsize=2, fmt="none", color=colour)
            stopped = f", {row.repeating} repeating" if row.repeating else ""
            stopped += f", {row.closed_by_budget} closed by the budget" if row.closed_by_budget else ""
            axes.text(
                0.02, 0.03 + 0.085 * line, fontsize=6.5, color=GREY,
                s=f"{row.decoding}, {CONDITION_NAMES[row.condition]}: {row.extracted} of {row.total} valid{stopped}",
                transform=axes.transAxes,
            )  # fmt: skip
        axes.set(xticks=range(len(STEPS)), xticklabels=STEP_NAMES, ylim=(-0.03, 1.03), xlim=(-0.3, len(STEPS) - 0.7))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    name_lines(figure, decodings)
    title(figure, "Which traces come to a final answer", caption("funnel", settings))
    save(figure, stem, table, settings, [funnel])


@figure(
    scope="study",
    analysis="graders",
    reads={"grades": "<results>/grades/{model}/{dataset}/{condition}.{decoding}.parquet"},
    category="4 Checks",
    label="grader disagreements",
    version=2,
    where="graded_datasets",
    caption=(
        "Share of the n answers, of all conditions and decodings, on which another grader differs from the study's"
        " first one: only the first accepts the answer, only the other does, or one of the two is "
        "undecided. Counts, without a test; tables/grader_disagreements.csv lists every such answer."
    ),
)
def plot_disagreements(grades: Sequence[Path], stem: Path, settings: Mapping[str, Any]) -> None:
    """A panel per grader beside the first: how many answers the two judge differently, by model and dataset."""
    first, *others = read_provenance(grades[0])["parameters"]["graders"]
    table = disagreement_counts(grades, first, others, settings)
    if table.empty:
        raise NothingToMeasure(f"answers are graded by {first} alone")
    names = list(dict.fromkeys(table["answers"]))
    figure, grid = plt.subplots(
        1, len(others), figsize=(2.4 + 3.2 * len(others), 1.9 + 0.32 * len(names)), layout="constrained", sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axes, other in zip(grid[0], others, strict=True):
        rows = table[table["grader"] == other].set_index("answers").loc[names]
        left = np.zeros(len(names))
        for kind, (colour, hatch) in DISAGREEMENTS.items():
            axes.barh(
                names, rows[kind] / rows["n"], left=left, color=colour, hatch=hatch, edgecolor="white", label=kind
            )
            left += (rows[kind] / rows["n"]).to_numpy()
        for place, row in enumerate(rows.itertuples()):
            axes.text(left[place], place, f"  {row.n_differing} of {row.n}", va="center", fontsize=7)
        axes.set(xlabel="share of answers", xlim=(0, max(1.45 * (table["n_differing"] / table["n"]).max(), 0.01)))
        axes.set_title(f"{first} and {other}")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    grid[0, 0].invert_yaxis()
    legend_under_title(figure, grid[0, 0].get_legend_handles_labels()[0])
    title(figure, "Where graders disagree", caption("disagreements", settings))
    save(figure, stem, table, settings, grades)


def disagreement_counts(
    grades: Sequence[Path], first: str, others: Sequence[str], settings: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per model, dataset and other grader: n answers, and how many the two judge differently, each way."""
    rows, files = [], defaultdict(list)
    for path in grades:
        names = labelled(path, settings)
        files[f"{names['model_label']}, {names['dataset_label']}"].append(path)
    for answers, paths in files.items():
        verdicts = read_traces(paths)
        ours = verdicts["is_correct"].astype("boolean")
        for other in others:
            theirs = verdicts[f"is_correct_{other}"].astype("boolean")
            is_undecided = ours.isna() ^ theirs.isna()
            counts = (ours & ~theirs).sum(), (theirs & ~ours).sum(), is_undecided.sum()
            rows.append((other, answers, len(verdicts), int(sum(counts)), *map(int, counts)))
    return pd.DataFrame(rows, columns=["grader", "answers", "n", "n_differing", *DISAGREEMENTS])

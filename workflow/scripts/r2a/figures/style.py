"""One look for every figure: fonts, palette, names, and how a figure is saved with its numbers."""

import logging
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D

from r2a.statistics import LEAST, TOO_FEW_TO_DRAW
from r2a.store import NOTHING, NothingToMeasure, provenance, whole_file, write_csv, write_empty

# Okabe and Ito's palette: distinct for the colour-blind, and in grey by lightness
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A8A8A",
)  # fmt: skip
CONDITION_COLOURS = {"with_reasoning": BLUE, "without_reasoning": ORANGE}
CONDITION_MARKERS = {"with_reasoning": "o", "without_reasoning": "s"}
CONDITION_NAMES = {"with_reasoning": "with reasoning", "without_reasoning": "without reasoning"}
TOY_NOTE = "Toy models trained on synthetic tasks: a demonstration of the pipeline, not of real models."
MODEL_COLOURS = (GREEN, PURPLE, RED, BLUE)
LINES: tuple[Any, ...] = ("-", "--", ":", "-.")  # of decodings or models, taken in turn
DPI = 160
# for Chinese, Japanese and Korean, which matplotlib's own font lacks; those that are installed are used
FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
)  # fmt: skip

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of each weight that a font lacks
plt.rcParams.update(
    {
        "font.family": ["DejaVu Sans", *sorted({*FONTS} & {*get_font_names()}, key=FONTS.index)],
        "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "r2a", "figure.dpi": DPI,
    }
)  # fmt: skip


def ticks(n: int) -> range:
    """Which of n layers or heads (or other places in a row) are labelled: few enough that the labels stay apart."""
    return range(0, n, 1 if n <= 16 else 4 if n <= 40 else 8)


def titled(settings: Mapping[str, Any], title: str) -> str:
    return f"{settings['model_label']}, {settings['dataset_label']}: {title}"


def percent(settings: Mapping[str, Any]) -> str:
    """The level of the intervals, e.g. 95 %."""
    return f"{100 * settings['confidence']:g} %"


def save(figure: Figure, stem: Path, table: pd.DataFrame, settings: Mapping[str, Any], inputs: Sequence[Path]) -> None:
    """Write {stem}.svg, .png and .csv (the drawn numbers), and close the figure."""
    if settings["is_toy"]:
        _write_at_foot(figure, TOY_NOTE)
    layout = figure.get_layout_engine()
    if layout is not None:  # laid out here: otherwise matplotlib would do so, and draw twice, for each format
        layout.execute(figure)
        figure.set_layout_engine(None)
    for suffix in (".svg", ".png"):
        with whole_file(stem.with_suffix(suffix)) as partial:
            figure.savefig(partial, dpi=DPI, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
    write_csv(stem.with_suffix(".csv"), table, provenance(settings, inputs))


def panels(table: pd.DataFrame, width: float, height: float) -> tuple[Figure, Iterator[tuple[Axes, pd.DataFrame]]]:
    """A figure with a row per dataset and a column per model of the table, and each panel with its rows of it.

    Panels are titled by model and dataset; those without rows are left out. width, height: of one panel, in inches.
    """
    datasets, models = list(table["dataset"].unique()), list(table["model"].unique())
    size = (max(width * len(models), 6.4), 0.8 + height * len(datasets))  # a title and its legend need 6.4
    figure, grid = plt.subplots(len(datasets), len(models), figsize=size, layout="constrained", squeeze=False)

    def each() -> Iterator[tuple[Axes, pd.DataFrame]]:
        for axes, (dataset, model) in zip(grid.flat, product(datasets, models), strict=True):
            rows = table[(table["dataset"] == dataset) & (table["model"] == model)]
            axes.set_title(f"{model}, {dataset}")
            if rows.empty:
                axes.set_axis_off()
            else:
                yield axes, rows

    return figure, each()


def well_founded(rows: pd.DataFrame, n: str = "n_problems") -> pd.DataFrame:
    """The rows whose means rest on enough to be drawn. n: the column that counts.

    Raises NothingToMeasure if there are none; the figure is then not drawn, and the summary says why.
    """
    enough = rows[rows[n] >= LEAST]
    if enough.empty:
        raise NothingToMeasure(TOO_FEW_TO_DRAW)
    return enough


def without_few(rows: pd.DataFrame, n: str, columns: Sequence[str]) -> pd.DataFrame:
    """The rows, with nan in columns where they rest on too few to be drawn. n: the column that counts."""
    return rows.assign(**{name: rows[name].where(rows[n] >= LEAST) for name in columns})


def draw_empty(stem: Path, why: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> None:
    """Say in a figure's place why there is nothing to draw; {stem}.csv becomes an empty table."""
    words = f"{settings['model_label']}, {settings['dataset_label']}: " if "model_label" in settings else ""
    figure = plt.figure(figsize=(6, 1))
    figure.text(0.02, 0.5, textwrap.fill(f"{words}not drawn: {why}.", 90), va="center")
    save(figure, stem, pd.DataFrame(), settings, inputs)
    write_empty(stem.with_suffix(".csv"), provenance(settings, inputs) | {NOTHING: why})


def title(figure: Figure, text: str, caption: str) -> None:
    """A title with a line left free for a legend below it; and at the foot, what is drawn and with which intervals."""
    lines = textwrap.wrap(text, int(11 * figure.get_figwidth()))
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.005, 1 - (0.27 + 0.23 * (len(lines) - 1)) / figure.get_figheight()))
    free = [""] if figure.legends else []
    figure.suptitle("\n".join(lines + free), x=0.01, ha="left", fontsize=11, linespacing=1.5)
    _write_at_foot(figure, caption)


def _write_at_foot(figure: Figure, text: str) -> None:
    """Write in small print below what is already there."""
    wrapped = textwrap.fill(text, int(17 * figure.get_figwidth()))
    lines = [line for line in (figure.get_supxlabel(), wrapped) if line]
    figure.supxlabel("\n".join(lines), fontsize=7, color="#555555", x=0.01, ha="left")


def name_lines(figure: Figure, names: Sequence[str] = ()) -> None:
    """A legend under the title: conditions by colour and marker, and what each kind of line stands for."""
    handles = [
        Line2D([], [], color=CONDITION_COLOURS[c], marker=CONDITION_MARKERS[c], label=CONDITION_NAMES[c])
        for c in CONDITION_NAMES
    ]
    lines = [LINES[k % len(LINES)] for k in range(len(names))]
    handles += [Line2D([], [], color=GREY, linestyle=line, label=name) for line, name in zip(lines, names, strict=True)]
    legend_under_title(figure, handles)


def legend_under_title(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend that `title` later places under its lines."""
    legend = figure.legend(handles=handles, loc="upper left", ncols=6, fontsize=8, borderpad=0)
    legend.set_in_layout(False)  # the title keeps a line free for it


def whiskers(rows: pd.DataFrame, value: str, low: str = "low", high: str = "high", factor: float = 1) -> Any:
    """Distances from a value to the ends of its interval, as errorbar takes them [end, row]."""
    return factor * np.abs(np.array([rows[value] - rows[low], rows[high] - rows[value]], float))

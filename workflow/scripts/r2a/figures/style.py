"""One look for every figure: fonts, palette, names, and how a figure is saved with its numbers."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from r2a.store import provenance, whole_file, write_csv

# Okabe and Ito's palette: told apart by the colour-blind, and in grey by lightness
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A8A8A",
)  # fmt: skip
CONDITION_COLOURS = {"with_reasoning": BLUE, "without_reasoning": ORANGE}
CONDITION_MARKERS = {"with_reasoning": "o", "without_reasoning": "s"}
CONDITION_NAMES = {"with_reasoning": "with reasoning", "without_reasoning": "without reasoning"}
TOY_NOTE = "Toy models trained on synthetic tasks: this shows that the machinery works, nothing about real models."
DPI = 160

plt.rcParams.update(
    {
        "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "r2a", "figure.dpi": DPI,
    }
)  # fmt: skip


def titled(settings: Mapping[str, Any], title: str) -> str:
    return f"{settings['model_label']}, {settings['dataset_label']}: {title}"


def save(
    figure: Figure,
    stem: Path,
    table: pd.DataFrame,
    settings: Mapping[str, Any],
    inputs: Sequence[Path],
    caption: str = "",
) -> None:
    """Write {stem}.svg, .png and .csv (the drawn numbers), and close the figure; the caption stands under it."""
    notes = [caption] if caption else []
    if settings["is_toy"]:
        notes.append(TOY_NOTE)
    if notes:
        n_characters = int(17 * figure.get_figwidth())  # of this size, in the figure's width
        text = "\n".join(textwrap.fill(note, n_characters) for note in notes)
        figure.supxlabel(text, fontsize=7, color="#555555", x=0.02, ha="left")
    for suffix in (".svg", ".png"):
        with whole_file(stem.with_suffix(suffix)) as partial:
            figure.savefig(partial, dpi=DPI, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
    write_csv(stem.with_suffix(".csv"), table, provenance(settings, inputs))

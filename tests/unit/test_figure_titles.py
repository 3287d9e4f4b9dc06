"""A title and its legend are apart and inside the figure, whatever the label of a model or dataset."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.font_manager import findfont, get_font_names

from r2a.figures.style import FONTS, legend_under_title, title

LABELS = ["Tiny", "DeepSeek-R1-Distill-Qwen-1.5B", "A model with a label that goes on " + "and on " * 20]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("width", [4.8, 6.4, 10])
def test_a_title_of_any_length_stays_inside_the_figure_and_above_its_legend(label, width):
    figure, axes = plt.subplots(figsize=(width, 4), layout="constrained")
    axes.plot([0, 1], label="with reasoning")
    axes.set_title("panel")
    legend_under_title(figure, axes.get_legend_handles_labels()[0])
    title(figure, f"{label}, Comparisons: is what the heads read what the answer needs?", "A caption.")
    figure.canvas.draw()
    above, legend, panel = (
        part.get_window_extent() for part in (figure._suptitle, figure.legends[0], axes.title)
    )  # fmt: skip
    lines = figure.get_suptitle().split("\n")
    last_line = above.y0 + above.height / len(lines)  # the line that is left free for the legend
    plt.close(figure)
    assert above.x1 <= figure.bbox.x1
    assert panel.y1 < legend.y0 < legend.y1 <= last_line + 1


def test_fonts_for_other_scripts_come_after_matplotlibs_own_and_are_installed():
    """Matplotlib would search for a font that is not installed, and warn, at every text."""
    first, *others = plt.rcParams["font.family"]
    assert first == "DejaVu Sans" and set(others) == set(FONTS) & set(get_font_names())
    assert [Path(findfont(name, fallback_to_default=False)).exists() for name in others] == [True] * len(others)

"""Pattern panels: whole attention rows of sample traces' answer tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from r2a.figures.registry import caption, figure
from r2a.figures.style import BLUE, RED, save, title, titled
from r2a.store import axis_labels, open_hdf5
from r2a.traces import Bounds

N_CASES = 3  # of the stored traces are drawn
N_PANEL_HEADS = 3
SPACE = "\N{OPEN BOX}"
N_COLUMNS = 150  # that are not lost between pixels; with more tokens, a column shows the largest of several


@figure(
    scope="model and dataset",
    analysis="attention rows",
    reads={"attention_rows": "<results>/attention_rows/{model}/{dataset}.h5"},
    category="2 Attention",
    label="patterns",
    caption=(
        "How much each answer token (down) attends to each token of the trace (across), in one head (layer.head, "
        "Reasoning-Focus Heads by rank) or in the mean of heads; one row per example trace. Darker is more, on a "
        "square-root scale up to the strongest inside the reasoning. Box: the reasoning, with the prompt to its "
        "left and the answer to its right; dashed, where there are any: words of self-reflection. Examples; "
        "nothing is tested."
    ),
)
def plot_patterns(attention_rows: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Attention rows of sample traces' answer tokens: a few RFHs, their mean, and the mean over all heads."""
    with open_hdf5(attention_rows) as file:
        cases = [file[name] for name in axis_labels(file, "trace")[:N_CASES]]
        uids = file["uid"].asstr()[: len(cases)]
        panels = [_panels(case) for case in cases]
        figure, grid = plt.subplots(
            len(cases), len(panels[0]), figsize=(6.3, 0.9 + 1.45 * len(cases)), layout="constrained", squeeze=False,
            sharey="row",
        )  # fmt: skip
        rows = []
        for k, (case, uid, shown) in enumerate(zip(cases, uids, panels, strict=True)):
            bounds = Bounds.of(case["bounds"])
            drawn = {name: pooled(values, bounds) for name, values in shown.items()}
            # attention sinks outside the reasoning would leave everything else white
            strongest = max(values[:, inside].max() for values, _, inside in drawn.values())
            extend = "max" if any(values.max() > strongest for values, *_ in drawn.values()) else "neither"
            for axes, (name, (values, edges, _)) in zip(grid[k], drawn.items(), strict=True):
                norm = PowerNorm(0.5, 0, strongest)
                image = axes.pcolormesh(edges, np.arange(len(values) + 1) - 0.5, values, cmap="Greys", norm=norm)
                image.set_rasterized(True)
                _mark_reasoning(axes, bounds, np.flatnonzero(case["is_cue"][:]), len(values))
                if k == 0:
                    axes.set_title(name, fontsize=8, loc="center")
                rows += _pattern_rows(uid, name, values, edges, case["row"][:])
            _label_answer_tokens(grid[k][0], case, uid)
            bar = figure.colorbar(image, ax=list(grid[k]), pad=0.01, extend=extend, aspect=12)
            bar.ax.tick_params(labelsize=6.5)
        for axes in grid[-1]:
            axes.set_xlabel("attended token", fontsize=7.5)
    title(figure, titled(settings, "attention of answer tokens"), caption("patterns", settings))
    columns = ["uid", "panel", "row", "first_key", "past_last_key", "attention"]
    save(figure, stem, pd.DataFrame(rows, columns=columns), settings, [attention_rows])


def _panels(case: h5py.Group) -> dict[str, np.ndarray]:
    """What is drawn of a case: title -> attention [row, key]."""
    rank = np.where(case["is_rfh"][:], case["rank"][:], np.inf)
    best = [int(k) for k in np.argsort(rank, kind="stable")[:N_PANEL_HEADS] if np.isfinite(rank[k])]
    labels = axis_labels(case, "head")
    panels = {f"head {labels[k]}": case["attention"][k].astype(np.float32) for k in best}
    panels["mean of RFHs"] = case["rfh_mean"][:].astype(np.float32)
    panels["mean of all heads"] = case["all_mean"][:].astype(np.float32)
    return panels


def pooled(values: np.ndarray, bounds: Bounds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention [row, column] with at most N_COLUMNS columns, their edges, and which lie inside the reasoning."""
    n_tokens = values.shape[1]
    starts = np.unique(np.linspace(0, n_tokens, min(n_tokens, N_COLUMNS), endpoint=False).astype(int))
    inside = (starts >= bounds.reasoning) & (starts < bounds.think_close)
    return np.maximum.reduceat(values, starts, axis=1), np.append(starts, n_tokens) - 0.5, inside


def _mark_reasoning(axes: Axes, bounds: Bounds, cues: np.ndarray, n_rows: int) -> None:
    place, width = (bounds.reasoning - 0.5, -0.5), bounds.think_close - bounds.reasoning
    axes.add_patch(plt.Rectangle(place, width, n_rows, fill=False, edgecolor=BLUE, linewidth=1.3, zorder=3))
    for cue in cues:
        axes.axvline(cue, color=RED, linestyle=(0, (3, 2)), linewidth=0.5, alpha=0.7)
    axes.set_xticks([(bounds.reasoning + bounds.think_close) / 2], ["reasoning"], fontsize=6.5)
    axes.tick_params(length=0)
    axes.set_ylim(n_rows - 0.5, -0.5)


def _label_answer_tokens(axes: Axes, case: h5py.Group, uid: str) -> None:
    """The answer's words at the rows where they are legible, otherwise the rows' distance into the answer."""
    rows = case["row"][:]
    if len(rows) <= 16:
        words = case["token_text"].asstr()[:][rows]
        words = [word.strip(" ").replace("\n", "\\n").replace("$", r"\$") or SPACE for word in words]
        axes.set_yticks(range(len(rows)), words)
        axes.tick_params(axis="y", labelsize=5, pad=1)
    else:
        shown = np.linspace(0, len(rows) - 1, 4).astype(int)
        axes.set_yticks(shown, rows[shown] - Bounds.of(case["bounds"]).answer, fontsize=6.5)
    axes.set_ylabel(uid, fontsize=7.5)


def _pattern_rows(
    uid: str, panel: str, values: np.ndarray, edges: np.ndarray, tokens: np.ndarray
) -> list[tuple[str, str, int, int, int, float]]:
    first, past = (edges[:-1] + 0.5).astype(int), (edges[1:] + 0.5).astype(int)
    return [
        (uid, panel, int(token), int(first[k]), int(past[k]), float(values[row, k]))
        for row, token in enumerate(tokens)
        for k in range(len(first))
    ]

"""Which heads are listed by one score and which by another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2a.figures.registry import caption, figure
from r2a.figures.style import BLUE, GREY, save, title, titled, well_founded, whiskers
from r2a.store import read_parquet

NAMES = {"a2r": "a2r", "sink_free": "without\nsinks", "density": "density", "contribution": "contri-\nbution"}


@figure(
    scope="model and dataset",
    analysis="lists of heads",
    reads={
        "heads": "<results>/heads/{model}/{dataset}.parquet",
        "lists": "<results>/tables/{model}/{dataset}/head_lists.csv",
    },
    category="2 Attention",
    label="lists of heads",
    version=3,
    caption=(
        "The heads (layer, head) that rank among the first by any of the scores, with their rank by each; filled: "
        "among the first. a2r: attention to the reasoning; without sinks: attention to the first token is not counted; "
        "density: attention per token of the reasoning, divided by that per other token. Right: how many of the first "
        "heads two scores share, with {interval} bootstrap intervals over problems (n traces); grey: what two random "
        "lists share. "
        "rho: Spearman's rank correlation over all heads. No test."
    ),
)
def plot_head_lists(heads: Path, lists: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Left, a row per listed head and a column per score, with ranks; right, the overlap of each pair of lists."""
    table, pairs = well_founded(read_parquet(heads), "a2r_n"), pd.read_csv(lists)
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    n_top = int(pairs["n_top"].iloc[0])
    ranks = pd.DataFrame(
        {name: table[name].rank(ascending=False, method="first", na_option="bottom") for name in names}
    )
    ranks = ranks.astype(int).assign(layer=table["layer"], head=table["head"])
    listed = ranks[(ranks[names] <= n_top).any(axis=1)].sort_values(names)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.4, max(1.5 + 0.19 * len(listed), 1.9 + 0.32 * len(pairs))), layout="constrained",
        width_ratios=[0.55 * len(names), 3],
    )  # fmt: skip
    _draw_ranks(left, listed, names, n_top)
    _draw_overlaps(right, pairs, n_top)
    right.set_title(f"n = {table['a2r_n'].max()} traces", fontsize=8)
    title(figure, titled(settings, f"the first {n_top} heads by different scores"), caption("head_lists", settings))
    save(figure, stem, pd.concat([listed, pairs]), settings, [heads, lists])


def _draw_ranks(axes: Axes, listed: pd.DataFrame, names: list[str], n_top: int) -> None:
    values = listed[names].to_numpy()
    axes.imshow(np.where(values <= n_top, 0.45, 0.0), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), rank in np.ndenumerate(values):
        axes.text(column, row, rank, ha="center", va="center", fontsize=7, color="black" if rank <= n_top else GREY)
    axes.set(xticks=range(len(names)), yticks=range(len(listed)))
    axes.set_xticklabels([NAMES[name] for name in names], fontsize=7)
    axes.set_yticklabels([f"({row.layer}, {row.head})" for row in listed.itertuples()], fontsize=7)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)


def _draw_overlaps(axes: Axes, pairs: pd.DataFrame, n_top: int) -> None:
    places = np.arange(len(pairs))
    axes.errorbar(
        pairs["n_shared"], places, xerr=whiskers(pairs, "n_shared", "n_shared_low", "n_shared_high"), fmt="o",
        color=BLUE, capsize=2, markersize=4,
    )  # fmt: skip
    axes.plot(pairs["expected"], places, "|", color=GREY, markersize=9)
    labels = [f"{NAMES[r.first]}, {NAMES[r.second]}".replace("-\n", "").replace("\n", " ") for r in pairs.itertuples()]
    axes.set(yticks=places, xlim=(-0.03 * n_top, 1.03 * n_top), xlabel=f"heads shared, of {n_top}")
    axes.set_yticklabels(
        [f"{label}\nrho = {r:.2f}" for label, r in zip(labels, pairs["rank_correlation"], strict=True)], fontsize=7
    )
    axes.set_ylim(len(pairs) - 0.5, -0.5)

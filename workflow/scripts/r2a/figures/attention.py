"""Figures of attention over traces and heads: where it goes, and whether it follows the reasoning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from r2a.figures.patterns import N_CASES
from r2a.figures.registry import caption, figure
from r2a.figures.style import BLUE, GREEN, GREY, RED, SKY, save, title, titled
from r2a.formats.known import THINK_CLOSE, THINK_OPEN
from r2a.store import axis_labels, open_hdf5, read_parquet, reasoned_traces
from r2a.traces import QUERY_SEGMENTS, SEGMENTS, SHORT_NAMES, Bounds

KEY_LABELS = {
    "bos": "first token",
    "think_open": THINK_OPEN,
    "think_close": THINK_CLOSE,
}  # of segments under other names
# the masses of the answer, then those of the reasoning, as their keys stand in a trace
MASSES = dict(sorted(SHORT_NAMES.items(), key=lambda mass: (mass[1][0] != "answer", SEGMENTS.index(mass[1][1]))))
MARKED = ((BLUE, "o", "-"), (RED, "s", "--"), (GREEN, "^", ":"))


@figure(
    scope="model and dataset",
    analysis="attention",
    reads={
        "attention": "<results>/attention/{model}/{dataset}.h5",
        "heads": "<results>/heads/{model}/{dataset}.parquet",
    },
    category="2 Attention",
    label="decomposition",
    caption=(
        "Attention of answer and reasoning tokens by the segment that they look at, over n traces with reasoning. "
        "a: each trace's mean over heads; b: each head's mean over traces. Boxes: quartiles and median; whiskers "
        "to 1.5 interquartile ranges; all points drawn. RFHs (Reasoning-Focus Heads): the heads with the highest "
        "a2r. No test."
    ),
)
def plot_decomposition(attention: Path, heads: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Box plots of every segment's mass: over traces (mean over heads, as in the paper), and over heads."""
    with open_hdf5(attention) as file:
        chosen = reasoned_traces(file)
        mass, uids = file["segment_mass"][chosen], file["uid"].asstr()[:][chosen]
    table = read_parquet(heads).sort_values(["layer", "head"])
    is_there = ~np.isnan(mass).all((0, 3, 4)).ravel()  # except in layers without attention
    table = table[is_there]
    is_rfh = table["is_rfh"].to_numpy()
    by_head = {}
    for name, (query, key) in MASSES.items():
        masses = mass[..., QUERY_SEGMENTS.index(query), SEGMENTS.index(key)]
        by_head[name] = masses.reshape(len(uids), -1)[:, is_there].astype(np.float64)
    head_names = (table["layer"].astype(str) + "." + table["head"].astype(str)).to_numpy()
    rfhs = f"{is_rfh.sum()} RFHs"
    panels = {
        "trace": {
            f"mean over all {len(table)} heads": (uids, {name: m.mean(1) for name, m in by_head.items()}),
            f"mean over the {rfhs}": (uids, {name: m[:, is_rfh].mean(1) for name, m in by_head.items()}),
        },
        "head": {
            f"the {(~is_rfh).sum()} other heads": (
                head_names[~is_rfh],
                {name: m[:, ~is_rfh].mean(0) for name, m in by_head.items()},
            ),
            f"the {rfhs}": (head_names[is_rfh], {name: m[:, is_rfh].mean(0) for name, m in by_head.items()}),
        },
    }
    # a gap between the reasoning's masses and the answer's
    centres = np.array([k + 0.8 * (query == "reasoning") for k, (query, _) in enumerate(MASSES.values())])
    figure, both = plt.subplots(2, 1, figsize=(6.3, 5.4), layout="constrained", sharex=True)
    rows = []
    for axes, (unit, groups) in zip(both, panels.items(), strict=True):
        for k, (group, (units, shares)) in enumerate(groups.items()):
            _boxes(axes, centres + (k - 0.5) * 0.4, list(shares.values()), is_dark=k == 1)
            for name, values in shares.items():
                rows += [(unit, group, u, name, value) for u, value in zip(units, values, strict=True)]
        handles = [
            Patch(facecolor=SKY if k else "white", hatch="////" if k else None, edgecolor="black", label=group)
            for k, group in enumerate(groups)
        ]
        axes.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=7.5, columnspacing=1
        )
        axes.set(ylim=(-0.02, 1.02), ylabel="share of attention")
        axes.set_title({"trace": f"a  One point per trace (n = {len(uids)})", "head": "b  One point per head"}[unit])
    both[1].set_xticks(
        centres, [f"{KEY_LABELS.get(key, key)}\n{name}" for name, (_, key) in MASSES.items()], fontsize=7
    )
    for query, word in (("answer", "answer tokens attend to"), ("reasoning", "reasoning tokens attend to")):
        places = centres[[q == query for q, _ in MASSES.values()]]
        both[1].annotate(
            word, (places.mean(), -0.31), xycoords=("data", "axes fraction"), ha="center", annotation_clip=False
        )
    title(
        figure,
        titled(settings, "where attention goes"),
        caption("decomposition", settings) + f" n = {len(uids)} traces; {is_rfh.sum()} RFHs.",
    )
    columns = ["over", "group", "uid_or_head", "mass", "share"]
    save(figure, stem, pd.DataFrame(rows, columns=columns), settings, [attention, heads])


def _boxes(axes: Axes, places: np.ndarray, samples: Sequence[np.ndarray], is_dark: bool) -> None:
    """One box per sample, with its points: dark and hatched, or light, so that they differ without colour."""
    rng = np.random.default_rng(0)
    boxes = axes.boxplot(
        samples, positions=places, widths=0.34, showfliers=False, patch_artist=True,
        medianprops={"color": "black", "linewidth": 1.4}, whiskerprops={"linewidth": 0.8}, capprops={"linewidth": 0.8},
    )  # fmt: skip
    for box in boxes["boxes"]:
        box.set(facecolor=SKY if is_dark else "white", hatch="////" if is_dark else None, linewidth=0.8)
    for place, sample in zip(places, samples, strict=True):
        axes.plot(
            place + rng.uniform(-0.13, 0.13, len(sample)), sample, "^" if is_dark else "o", color="black",
            markersize=2, alpha=np.clip(25 / max(1, len(sample)), 0.08, 0.9), markeredgewidth=0, zorder=3,
        )  # fmt: skip


@figure(
    scope="model and dataset",
    analysis="attention rows",
    reads={
        "attention": "<results>/attention/{model}/{dataset}.h5",
        "attention_rows": "<results>/attention_rows/{model}/{dataset}.h5",
        "heads": "<results>/heads/{model}/{dataset}.parquet",
    },
    category="2 Attention",
    label="tracking",
    caption=(
        "Lines, one panel per sample trace: where inside the reasoning (0: its first token, 1: its last) each "
        "answer token looks, as the attention-weighted mean position. Marked lines: the first Reasoning-Focus "
        "Heads (layer.head, drift); black line and band: median and quartiles of the other heads. Drift: Spearman "
        "correlation of that position with the answer token's, 1 where a head moves forward through the reasoning."
        " Boxes: every head's mean drift over n traces, with quartiles and median. No test; {interval} bootstrap "
        "intervals of the drift are in the table of heads."
    ),
)
def plot_tracking(attention: Path, attention_rows: Path, heads: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Where in the reasoning RFHs attend as the answer proceeds, compared with other heads; and every head's drift."""
    table = read_parquet(heads).sort_values(["layer", "head"])
    is_rfh = table["is_rfh"].to_numpy()
    order = np.argsort(table["rank"].to_numpy())[: min(len(MARKED), is_rfh.sum())]
    names = [f"{layer}.{head}" for layer, head in zip(table["layer"], table["head"], strict=True)]
    with open_hdf5(attention) as file:
        chosen = reasoned_traces(file)
        keys = list(zip(file["uid"].asstr()[:][chosen], file["sample"][:][chosen], strict=True))
        drift = file["tracking"][chosen].reshape(len(keys), -1)
    figure, grid = plt.subplots(2, 2, figsize=(6.3, 5.6), layout="constrained")
    rows: list[tuple[Any, ...]] = []
    with open_hdf5(attention_rows) as file:
        cases = axis_labels(file, "trace")[:N_CASES]
        for letter, axes, name, uid, sample in zip(
            "abc", grid.flat, cases, file["uid"].asstr(), file["sample"], strict=False
        ):
            case = file[name]
            bounds = Bounds.of(case["bounds"])
            position = (case["row"][:] - bounds.answer) / max(1, bounds.eos - bounds.answer - 1)
            centre, drifts = case["centre"][:], drift[keys.index((uid, sample))]
            low, middle, high = np.nanpercentile(centre[~is_rfh], [25, 50, 75], axis=0)
            axes.fill_between(position, low, high, color=GREY, alpha=0.3, linewidth=0)
            axes.plot(position, middle, color="black", linewidth=1.6)
            for head, (colour, marker, line) in zip(order, MARKED, strict=False):
                axes.plot(
                    position, centre[head], line, color=colour, marker=marker, markersize=3, linewidth=1,
                    markevery=max(1, len(position) // 15), label=f"{names[head]}  {drifts[head]:+.2f}",
                )  # fmt: skip
            rows += [
                (uid, names[head], bool(is_rfh[head]), p, c, drifts[head])
                for head in range(len(names))
                for p, c in zip(position, centre[head], strict=True)
            ]
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="position in the answer")
            axes.set_ylabel("centre in the reasoning")
            axes.set_title(f"{letter}  {uid}", fontsize=8.5, pad=17)
            axes.legend(
                loc="lower left", bbox_to_anchor=(-0.03, 0.98), ncols=3, fontsize=6.5, columnspacing=0.8,
                handletextpad=0.3, handlelength=2,
            )  # fmt: skip
    mean_drift = np.nanmean(drift, axis=0)
    groups = {"other heads": mean_drift[~is_rfh], "RFHs": mean_drift[is_rfh]}
    groups = {name: values[np.isfinite(values)] for name, values in groups.items()}
    axes = grid[1, 1]
    for k, values in enumerate(groups.values()):
        _boxes(axes, np.array([k]), [values], is_dark=k == 1)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks([0, 1], [f"{name} ({len(values)})" for name, values in groups.items()])
    axes.set(xlim=(-0.6, 1.6), ylim=(-1.05, 1.05), ylabel="drift")
    axes.set_title(f"d  One point per head (n = {len(drift)} traces)", fontsize=8.5)
    for axes in grid.flat[len(cases) : 3]:
        axes.set_axis_off()
    title(
        figure,
        titled(settings, "does the answer follow the reasoning?"),
        caption("tracking", settings) + f" Median drift: {np.median(groups['RFHs']):+.2f} over RFHs, "
        f"{np.median(groups['other heads']):+.2f} over the others.",
    )
    columns = ["uid", "head", "is_rfh", "answer_position", "centre", "drift"]
    save(figure, stem, pd.DataFrame(rows, columns=columns), settings, [attention, attention_rows, heads])

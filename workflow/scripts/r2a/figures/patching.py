"""Figures of what patching the reasoning's activations does to the answer."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from r2a.extensions import CONTROLS, PROBES
from r2a.figures.registry import caption, figure
from r2a.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    save,
    ticks,
    title,
    titled,
    well_founded,
)
from r2a.roles import (
    ANSWER_ROLE,
    CLEAN_TO_CORRUPTED,
    CLOSE_ROLE,
    CONTROL_ROLE,
    CORRUPTED_TO_CLEAN,
    FINAL_ROLE,
    KEY_ROLES,
)
from r2a.store import NothingToMeasure, axis_labels, open_hdf5, read_parquet

# the roles that curves are drawn for: colour, marker, name
CURVES = {
    ANSWER_ROLE: (BLUE, "o", "the answer in the reasoning"),
    CLOSE_ROLE: (GREEN, "^", "</think>"),
    FINAL_ROLE: (RED, "s", "last token before the answer"),
}
EFFECT_LINE = (BLUE, "o", "-", "clean run's vector at the answer's token")
CONTROL_STYLES = ((GREEN, "^"), (ORANGE, "v"), (GREY, "x"), (SKY, "+"), ("black", "*"))  # taken in turn
# the clean run's own vectors, at other tokens
ELSEWHERE = {
    "other_probe_tokens": (RED, "s", ":", "control: clean run's, at that line's other tokens"),
    "random_reasoning_token": (PURPLE, "d", ":", "control: clean run's, at a random reasoning token"),
}
# the two parts of an effect
PARTS_OF_EFFECT = {
    "gained": (BLUE, "o", "clean answer's logit rises"),
    "lost": (ORANGE, "v", "corrupted answer's logit falls"),
}
COMPOSED = {"effect": ("-", ""), "unrelated_answer": ("--", " (unrelated)")}
# what is patched in: the two directions, and the control that should restore nothing
RANGE_PANELS = {
    CLEAN_TO_CORRUPTED: "clean run's, in the corrupted",
    CORRUPTED_TO_CLEAN: "corrupted run's, in the clean",
    "unrelated_answer": "control: an unrelated answer's",
}
COMPONENTS = {"attn_out": (BLUE, "o", "attention (attn_out)"), "mlp_out": (ORANGE, "s", "MLP (mlp_out)")}
EFFECT = "normalized logit difference"
MOST_INCHES = 6.0  # of a map's rows or columns
CASE_COLUMNS = ["layer", "role", "normalized_logit_diff", "probe", "pair"]


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="patching",
    reads={
        "patching": "<results>/patching/{model}/{dataset}.h5",
        "pairs": "<results>/pairs/{model}/{dataset}.parquet",
        "dataset": "<results>/datasets/{dataset}.parquet",
    },
    label="patching case",
    caption=(
        "Activation patching of one pair, the one with the median gap between its two runs: how much of the clean "
        "answer the clean run's residual stream restores in the corrupted run, by layer and token. One example (n "
        "= 1); nothing is tested."
    ),
)
def plot_patching_case(patching: Path, pairs: Path, dataset: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x token heat map of one pair: the first probe's used pair with the median gap between its runs."""
    with open_hdf5(patching) as file:
        probe = next((probe for probe in axis_labels(file, "probe") if file[probe]["is_used"][:].any()), None)
        if probe is None:
            raise NothingToMeasure("no pair could be used")
        group = file[probe]
        gap = group["clean_logit_diff"][:] - group["corrupted_logit_diff"][:]
        used = np.flatnonzero(group["is_used"][:])
        chosen = used[np.argsort(gap[used], kind="stable")[len(used) // 2]]
        values = group[f"resid_pre/{CLEAN_TO_CORRUPTED}/normalized_logit_diff"][chosen]
        roles, pair = axis_labels(group, "role"), axis_labels(group, "pair")[chosen]
        layers = axis_labels(group, "layer")
    row = read_parquet(pairs).set_index(["probe", "pair"]).loc[probe, pair]
    asked = read_parquet(dataset).query("pair == @pair").set_index("side")["problem"]
    order = np.argsort(row["corrupted_positions"])
    size = (1.8 + 0.36 * len(roles), 2.4 + _height(len(layers)))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    image = _layer_map(axes, values[:, order], layers)
    names = [_token_name(roles[k], row) for k in order]
    axes.set(xticks=range(len(roles)), xlabel="patched token", ylabel="layer")
    axes.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_title(
        f"{settings['model_label']}: clean run's residual stream patched into the corrupted run\n"
        f"clean: {asked['a']} {row['answer_a']}\ncorrupted: {asked['b']} {row['answer_b']}",
        fontsize=8,
    )
    figure.colorbar(image, ax=axes, label=EFFECT, extend="both")
    cells = [(layer, roles[k], of_layer[k]) for layer, of_layer in zip(layers, values, strict=True) for k in order]
    table = pd.DataFrame(cells, columns=CASE_COLUMNS[:3]).assign(probe=probe, pair=pair)
    save(figure, stem, table, settings, [patching, pairs])


def _drawable(table: pd.DataFrame, why_empty: str) -> pd.DataFrame:
    """The rows over enough pairs to be drawn as findings; raises NothingToMeasure if there are none."""
    if not table["n_pairs"].any():
        raise NothingToMeasure(why_empty)
    return well_founded(table, "n_pairs")


def _height(n_layers: int) -> float:
    """Inches for the rows of a map of so many layers, at most what a page holds beside title and caption."""
    return min(0.3 * n_layers, MOST_INCHES)


def _layer_map(axes: Axes, values: np.ndarray, layers: Sequence[int]) -> AxesImage:
    """A map of effects [layer, column], the first layer at the bottom; with numbers, if rows have room for them."""
    image = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower")
    if _height(len(layers)) >= 0.14 * len(layers):
        for place, column in zip(*np.nonzero(np.abs(values) >= 0.05), strict=True):
            value = values[place, column]
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, place, f"{value:.1f}", ha="center", va="center", fontsize=6, color=colour)
    places = ticks(len(layers))
    axes.set_yticks(places, [str(layers[place]) for place in places])
    return image


def _token_name(role: str, row: pd.Series) -> str:
    if role == ANSWER_ROLE:
        return f"{row['answer_b']} (answer)"
    return {FINAL_ROLE: "{ (final)", CONTROL_ROLE: "(random)"}.get(role, role.split(": ")[-1])


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="patching",
    reads={
        "curves": "<results>/tables/{model}/{dataset}/patching_curves.csv",
        "controls": "<results>/tables/{model}/{dataset}/patching_controls.csv",
        "hand_off": "<results>/tables/{model}/{dataset}/hand_off.csv",
    },
    label="patching curves",
    version=2,
    caption=(
        "Activation patching (denoising): the residual stream (resid_pre) of the clean run put into the corrupted "
        "run, layer by layer. Left: at three tokens, with the hand-off layer; middle: at the answer's token, beside"
        " every control; right: what that effect is made of, the clean answer's logit rising and the corrupted "
        "answer's falling, which add up to it (dashed: with an unrelated answer's vector). 0: nothing changed; 1: the "
        "clean run's answer is fully restored. "
        "Means over n pairs with "
        "{interval} bootstrap intervals over the pairs' templates. Tests of effect against control, in the table of "
        "controls: sign-flip permutation over templates with Holm's correction."
    ),
)
def plot_patching_curves(curves: Path, controls: Path, hand_off: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Mean normalized logit difference by layer when resid_pre is patched, one row of panels per probe.

    Left: the clean run's vectors at the answer's token and at later ones. Middle: the clean run's vector at the
    answer's token, and the controls. Right: the two logits that make up the effect.
    """
    table = pd.read_csv(curves).query("component == 'resid_pre' and direction == @CLEAN_TO_CORRUPTED")
    control_table = pd.read_csv(controls).query("component == 'resid_pre'")
    measured = pd.concat([table, control_table])
    crossings = _drawable(pd.read_csv(hand_off).set_index("probe"), "no pair could be used")
    figure, grid = plt.subplots(
        len(crossings), 3, figsize=(11, 2.2 + 2.4 * len(crossings)), layout="constrained", sharey=True, sharex=True,
        squeeze=False,
    )  # fmt: skip
    for (probe, crossing), (left, middle, right) in zip(crossings.iterrows(), grid, strict=True):
        for role, (colour, marker, name) in CURVES.items():
            rows = table[(table["probe"] == probe) & (table["role"] == role)]
            _curve(left, rows, colour, marker, "-", name)
        for control, (colour, marker, line, name) in _put_in(control_table).items():
            rows = control_table[(control_table["probe"] == probe) & (control_table["control"] == control)]
            _curve(middle, rows, colour, marker, line, name, 7 if control == "effect" else 4)
        for control, (line, beside) in COMPOSED.items():
            rows = control_table[(control_table["probe"] == probe) & (control_table["control"] == control)]
            for part, (colour, marker, name) in PARTS_OF_EFFECT.items():
                of_part = rows.drop(columns=["mean", "low", "high"]).rename(
                    columns={part: "mean", f"{part}_low": "low", f"{part}_high": "high"}
                )
                _curve(right, of_part, colour, marker, line, name + beside)
        layer, low, high = crossing[["layer", "low", "high"]]
        if np.isnan(layer):
            left.text(0.98, 0.5, "no hand-off", transform=left.transAxes, ha="right", fontsize=7, color=PURPLE)
        else:
            left.axvline(layer, color=PURPLE, linestyle="--", linewidth=1)
            left.axvspan(low - 0.06, high + 0.06, color=PURPLE, alpha=0.12, linewidth=0)
            name = f"hand-off layer\n{layer:.0f} [{low:.0f}, {high:.0f}]"
            left.annotate(name, (layer, 0.5), (4, 0), textcoords="offset points", fontsize=7, color=PURPLE, va="center")
        for axes, what in ((left, "by token"), (middle, "beside controls"), (right, "by logit")):
            _levels(axes)
            axes.set_title(f"“{PROBES[str(probe)].label}”, {what} (n = {crossing['n_pairs']:.0f})", fontsize=8)
        left.set_ylabel(EFFECT)
    for axes in grid[-1]:
        axes.set(xlabel="patched layer", xticks=ticks(table["layer"].max() + 1))
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28), handlelength=4)
    title(figure, titled(settings, "residual stream patched"), caption("patching_curves", settings))
    save(figure, stem, measured, settings, [curves, controls, hand_off])


def _put_in(controls: pd.DataFrame) -> dict[str, tuple[str, str, str, str]]:
    """What is put in, at the answer's token or elsewhere, by its name in the table: colour, marker, line and label."""
    measured = [name for name in dict.fromkeys(controls["control"]) if name not in ("effect", *ELSEWHERE)]
    styles = itertools.cycle(CONTROL_STYLES)
    lines = {name: (*next(styles), "--", f"control: {CONTROLS[name].label}") for name in measured}
    return {"effect": EFFECT_LINE, **lines, **ELSEWHERE}


def _levels(axes: Axes) -> None:
    """Draw thin lines at no change and at full restoration."""
    for level in (0, 1):
        axes.axhline(level, color="black", linewidth=0.5, zorder=0)


def _curve(axes: Axes, rows: pd.DataFrame, colour: str, marker: str, line: str, name: str, size: float = 4) -> None:
    """Draw one line over layers with its interval, or nothing without rows."""
    if len(rows):
        axes.plot(rows["layer"], rows["mean"], color=colour, marker=marker, linestyle=line, markersize=size, label=name)
        axes.fill_between(rows["layer"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="patching",
    reads={"curves": "<results>/tables/{model}/{dataset}/patching_curves.csv"},
    label="patching components",
    version=2,
    caption=(
        "Activation patching of what attention (attn_out) or the MLP (mlp_out) of one layer writes at one token: "
        "its output in the clean run, put into the corrupted run. 0: nothing changed; 1: the clean run's answer is"
        " fully restored. Means over n pairs with {interval} bootstrap intervals over the pairs' templates. No "
        "test; the table of controls has their controls."
    ),
)
def plot_patching_components(curves: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Effects of patching what each layer's attention and MLP write at three tokens, one row of panels per probe."""
    table = pd.read_csv(curves).query("direction == @CLEAN_TO_CORRUPTED and role in @KEY_ROLES")
    table = table[table["component"].isin(COMPONENTS)]
    measured, table = table, _drawable(table, "neither attn_out nor mlp_out was patched")
    probes = list(dict.fromkeys(table["probe"]))
    figure, grid = plt.subplots(
        len(probes), len(KEY_ROLES), figsize=(8.6, 1.4 + 2 * len(probes)), layout="constrained", sharex=True,
        sharey=True, squeeze=False,
    )  # fmt: skip
    for probe, panels in zip(probes, grid, strict=True):
        for role, axes in zip(KEY_ROLES, panels, strict=True):
            rows = table[(table["probe"] == probe) & (table["role"] == role)]
            for component, (colour, marker, name) in COMPONENTS.items():
                _curve(axes, rows[rows["component"] == component], colour, marker, "-", name)
            _levels(axes)
            axes.set_title(CURVES[role][2], fontsize=9)
        panels[0].set_ylabel(f"{EFFECT}\n“{PROBES[probe].label}”\nn = {rows['n_pairs'].iloc[0]}", fontsize=7)
    for axes in grid[-1]:
        axes.set(xlabel="patched layer", xticks=ticks(table["layer"].max() + 1))
    grid[-1, 1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, fontsize=8)
    title(
        figure, titled(settings, "which part of a layer carries the answer"), caption("patching_components", settings)
    )
    save(figure, stem, measured, settings, [curves])


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="patching",
    reads={"ranges": "<results>/tables/{model}/{dataset}/patching_ranges.csv"},
    label="patching ranges",
    version=3,
    caption=(
        "Activation patching of a whole range of the reasoning: resid_pre of one run put into the other at all of its "
        "tokens, by layer; as a control, that of another pair with an unrelated answer, if some pair has one so long. "
        "Each range is as long as all ranges between it and the probe; the leftmost one begins with the reasoning. "
        "Means over n pairs; intervals, all controls and their sign-flip tests are in the table of ranges."
    ),
)
def plot_patching_ranges(ranges: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x range heat maps of the mean effect of a whole range of the reasoning, one row of panels per probe.

    The clean run's range put into the corrupted run, the reverse, and the control with an unrelated answer, if it was
    measured.
    """
    table = pd.read_csv(ranges)
    why_empty = "the reasoning before the probe is shorter than one range"
    measured, table = table, _drawable(table, why_empty)
    probes = list(dict.fromkeys(table["probe"]))
    names = {patch: name for patch, name in RANGE_PANELS.items() if (table["patch"] == patch).any()}
    n_ranges, n_layers = table["tokens_before_probe"].nunique(), table["layer"].nunique()
    size = (2.2 + len(names) * max(2.2, 0.4 * n_ranges), 1.6 + len(probes) * (0.8 + _height(n_layers)))
    figure, grid = plt.subplots(len(probes), len(names), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for probe, panels in zip(probes, grid, strict=True):
        for (patch, name), axes in zip(names.items(), panels, strict=True):
            rows = table[(table["probe"] == probe) & (table["patch"] == patch)]
            if rows.empty:
                axes.set_axis_off()  # measured only with another probe
                continue
            cells = rows.pivot(index="layer", columns="tokens_before_probe", values="mean").iloc[:, ::-1]
            image = _layer_map(axes, cells.to_numpy(), list(cells.index))
            counts = rows.groupby("tokens_before_probe")["n_pairs"].first()[::-1]
            places = ticks(len(counts))
            ends = [f"{label}\nn={count}" for label, count in counts.items()]
            axes.set_xticks(places, [ends[place] for place in places], fontsize=7)
            axes.set_title(f"“{PROBES[probe].label}”\n{name}", fontsize=8)
        panels[0].set_ylabel("patched layer")
    for axes in grid[-1]:
        axes.set_xlabel("range ends … tokens before the probe", fontsize=7)
    figure.colorbar(image, ax=grid, label=f"mean {EFFECT}", extend="both")
    title(figure, titled(settings, "ranges of the reasoning patched"), caption("patching_ranges", settings))
    save(figure, stem, measured, settings, [ranges])


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="carriers",
    reads={
        "carriers": "<results>/tables/{model}/{dataset}/carriers.csv",
        "agreement": "<results>/tables/{model}/{dataset}/carriers_agreement.csv",
    },
    label="carriers",
    caption=(
        "Activation patching of single heads: the output z of one head at one token in the clean run, put into the"
        " corrupted run; means over n pairs. Framed: the Reasoning-Focus Heads; \N{MINUS SIGN}: a negative effect. "
        "Above each map: the rank correlation over heads of that effect and a2r, with its {interval} bootstrap "
        "interval over the pairs' templates."
    ),
)
def plot_carriers(carriers: Path, agreement: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x head maps of the mean effect of a single head's z at three tokens; Reasoning-Focus Heads are framed."""
    table, agreements = pd.read_csv(carriers), pd.read_csv(agreement).set_index(["probe", "role"])
    measured, table = table, _drawable(table, "z, the output of single heads, was not patched")
    probes = list(dict.fromkeys(table["probe"]))
    n_layers, n_heads = table["layer"].nunique(), table["head"].nunique()
    # wide enough that text stays readable on a page, whatever the number of heads
    width, height = min(max(1.7, 0.26 * n_heads), 2.5), min(max(1.1, 0.26 * n_layers), 4.0)
    size = (1.9 + 3 * width, 1.5 + len(probes) * (0.6 + height))
    cell = 72 * min(width / n_heads, height / n_layers)  # in points
    figure, grid = plt.subplots(
        len(probes), len(KEY_ROLES), figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    limit = max(0.1, table["mean"].abs().max())
    for probe, panels in zip(probes, grid, strict=True):
        for role, axes in zip(KEY_ROLES, panels, strict=True):
            rows = table[(table["probe"] == probe) & (table["role"] == role)]
            values = rows.pivot(index="layer", columns="head", values="mean")
            places = {layer: place for place, layer in enumerate(values.index)}
            image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
            for head in rows[rows["is_rfh"]].itertuples():
                corner = (head.head - 0.5, places[head.layer] - 0.5)
                line = min(1.4, 0.15 * cell)
                axes.add_patch(plt.Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=line))
            for head in rows[rows["mean"] < -0.1 * limit].itertuples():  # in grey, both signs look alike
                colour = "white" if head.mean < -0.6 * limit else "black"
                axes.text(
                    head.head, places[head.layer], "\N{MINUS SIGN}", ha="center", va="center",
                    fontsize=min(8, cell), color=colour,
                )  # fmt: skip
            found = agreements.loc[(probe, role)]
            correlation = "no rank correlation"
            if not np.isnan(found["rank_correlation"]):
                correlation = "rank correlation {rank_correlation:.2f} [{low:.2f}, {high:.2f}]".format(**found)
            axes.set_title(f"{CURVES[role][2]}\n{correlation}", fontsize=7)
            axes.set_xticks(ticks(n_heads))
            axes.set_yticks(ticks(n_layers), [values.index[place] for place in ticks(n_layers)])
        panels[0].set_ylabel(f"“{PROBES[probe].label}”\nn = {found['n_pairs']:.0f}; layer", fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("head")
    figure.colorbar(image, ax=grid, label=f"mean {EFFECT}", shrink=0.8)
    title(figure, titled(settings, "which heads carry the answer"), caption("carriers", settings))
    save(figure, stem, measured, settings, [carriers, agreement])

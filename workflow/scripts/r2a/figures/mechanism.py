"""Figures of how an answer comes from its reasoning: by which heads, through which MLPs, seen in which layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from r2a.extensions import PROBES
from r2a.figures.patching import CURVES
from r2a.figures.registry import caption, figure
from r2a.figures.style import BLUE, GREEN, GREY, ORANGE, save, ticks, title, titled, well_founded, whiskers
from r2a.roles import ALL_HEADS, KEY_ROLES, MATCHED, REST, RFH

PATHS = {
    ALL_HEADS: ("black", "o", "-", "all heads"),
    RFH: (BLUE, "s", "-", "Reasoning-Focus Heads"),
    MATCHED: (GREEN, "^", "--", "as many matched heads"),
    REST: (ORANGE, "v", ":", "all but the Reasoning-Focus Heads"),
}
LEAST_SIZE = 4  # points; smaller numbers are not drawn


def _name(probe: str, rows: pd.DataFrame) -> str:
    return f"“{PROBES[probe].label}”, n = {rows['n_pairs'].iloc[0]}"


def _line(axes: Axes, rows: pd.DataFrame, colour: str, marker: str, line: str, name: str) -> None:
    axes.plot(rows["layer"], rows["mean"], color=colour, marker=marker, linestyle=line, markersize=4, label=name)
    axes.fill_between(rows["layer"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)


def _map(axes: Axes, values: pd.DataFrame, limit: float) -> Any:
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axes.set(xticks=ticks(values.shape[1]), yticks=ticks(values.shape[0]))
    return image


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="carriers",
    reads={
        "mediation": "<results>/tables/{model}/{dataset}/mediation.csv",
        "mlps": "<results>/tables/{model}/{dataset}/mediation_mlps.csv",
    },
    label="mediation",
    version=3,
    caption=(
        "Path patching. Left: the clean run's residual stream at the reasoning's last tokens is put into the "
        "corrupted run in one layer, and only some heads see it from the answer; other heads see the corrupted run's "
        "reasoning. 0: nothing changed; 1: the clean answer fully restored. Right: the share of the effect through "
        "the Reasoning-Focus Heads that is lost if one layer's MLP does not see it at the answer's tokens (patched in "
        "layer 0; left out if that effect is less than 0.1). Means over n pairs with {interval} bootstrap "
        "intervals over the pairs' templates. No test."
    ),
)
def plot_mediation(mediation: Path, mlps: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Effect by path and layer, and the share that each MLP passes on: one row of panels per probe."""
    table, lost = (well_founded(pd.read_csv(path), "n_pairs") for path in (mediation, mlps))
    probes = list(dict.fromkeys(table["probe"]))
    n_columns = 2 if lost["share"].notna().any() else 1
    drawn, grid = plt.subplots(
        len(probes), n_columns, figsize=(1 + 3.8 * n_columns, 2 + 2.3 * len(probes)), layout="constrained",
        squeeze=False, sharex="col",
    )  # fmt: skip
    for probe, (left, *right) in zip(probes, grid, strict=True):
        of_probe = table[table["probe"] == probe]
        for path, style in PATHS.items():
            _line(left, of_probe[of_probe["path"] == path], *style)
        for level in (0, 1):
            left.axhline(level, color="black", linewidth=0.5, zorder=0)
        left.set_title(_name(probe, of_probe), fontsize=9)
        left.set_ylabel("normalized logit difference", fontsize=8)
        rows = lost[lost["probe"] == probe]
        for axes in right:
            axes.axhline(0, color="black", linewidth=0.5)
            axes.set_ylabel("share lost without the MLP", fontsize=8)
            ends = whiskers(rows, "share", "share_low", "share_high")
            axes.bar(rows["layer"], rows["share"], color=GREY, yerr=ends, error_kw={"linewidth": 0.8})
            if rows["share"].isna().all():
                axes.set_axis_off()
    for axes, label in zip(grid[-1], ("patched layer", "layer of the MLP"), strict=False):
        axes.set(xlabel=label, xticks=ticks(table["layer"].max() + 1))
    grid[-1, 0].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2)
    title(drawn, titled(settings, "by which heads the reasoning reaches the answer"), caption("mediation", settings))
    both = pd.concat([table, lost.assign(path="rfh, one MLP off")])
    save(drawn, stem, both, settings, [mediation, mlps])


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="carriers",
    reads={
        "attribution": "<results>/tables/{model}/{dataset}/attribution.csv",
        "lens": "<results>/tables/{model}/{dataset}/logit_lens.csv",
    },
    label="attribution",
    version=3,
    caption=(
        "Direct logit attribution and logit lens of the clean run. Left: what attention and MLP of each layer add "
        "directly to the logit of the clean answer over that of the corrupted one, at the last token. Middle: the same "
        "of each head; framed: the Reasoning-Focus Heads. The final norm's scale is held at what it is in the run. "
        "Right: the logit difference that what enters a layer would give at three tokens: the corrupted run's is 0, "
        "the clean run's 1. In the middle, it is neither's. Means over n pairs with {interval} bootstrap intervals "
        "over the pairs' templates. No test."
    ),
)
def plot_attribution(attribution: Path, lens: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Direct attribution by layer and head, and the logit lens by layer: one row of panels per probe."""
    table, curves = (well_founded(pd.read_csv(path), "n_pairs") for path in (attribution, lens))
    table = table.query("run == 'clean'")
    probes = list(dict.fromkeys(table["probe"]))
    drawn, grid = plt.subplots(len(probes), 3, figsize=(10, 2 + 2.3 * len(probes)), layout="constrained", squeeze=False)
    heads = table[table["part"] == "head"]
    limit = max(1e-6, heads["mean"].abs().max())
    for probe, (left, middle, right) in zip(probes, grid, strict=True):
        of_probe = table[table["probe"] == probe]
        for part, colour, shift in (("attention", BLUE, -0.2), ("mlp", ORANGE, 0.2)):
            rows = of_probe[of_probe["part"] == part]
            ends = whiskers(rows, "mean")
            left.bar(rows["layer"] + shift, rows["mean"], 0.4, color=colour, yerr=ends, label=part,
                     error_kw={"linewidth": 0.8})  # fmt: skip
        left.axhline(0, color="black", linewidth=0.5)
        left.set_title(_name(probe, of_probe), fontsize=9)
        left.set(xlabel="layer", ylabel="logits", xticks=ticks(of_probe["layer"].max() + 1))
        rows = of_probe[of_probe["part"] == "head"]
        image = _map(middle, rows.pivot(index="layer", columns="head", values="mean"), limit)
        for head in rows[rows["is_rfh"]].itertuples():
            corner = (head.head - 0.5, head.layer - 0.5)
            middle.add_patch(plt.Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.4))
        middle.set(xlabel="head", ylabel="layer")
        drawn.colorbar(image, ax=middle, label="logits")
        rows = curves[(curves["probe"] == probe) & (curves["run"] == "clean")]
        for role in KEY_ROLES:
            colour, marker, name = CURVES[role]
            _line(right, rows[rows["role"] == role], colour, marker, "-", name)
        for level in (0, 1):
            right.axhline(level, color="black", linewidth=0.5, zorder=0)
        right.set(xlabel="layer that it enters", ylabel="logit lens", xticks=ticks(rows["layer"].max() + 1))
    grid[-1, 0].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
    grid[-1, 2].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28))
    title(drawn, titled(settings, "what adds to the answer's logit"), caption("attribution", settings))
    save(drawn, stem, pd.concat([table, curves.assign(part="lens")]), settings, [attribution, lens])


@figure(
    scope="model and dataset",
    category="3 Patching",
    where="pair_datasets",
    analysis="carriers",
    reads={"changes": "<results>/tables/{model}/{dataset}/later_layers.csv"},
    label="later layers",
    version=3,
    caption=(
        "What a patch of the reasoning in one layer changes at the last token in later layers: the clean run's "
        "residual stream at the reasoning's last tokens, put into the corrupted run. Left: what leaves the later "
        "layer; right: the head of it that changes most, with its number where it makes a tenth of the layer's "
        "difference and there is room. 0: as in the corrupted run; 1: as in the clean run. Means over n pairs; "
        "{interval} bootstrap intervals over the pairs' templates are in the table. No test."
    ),
)
def plot_later_layers(changes: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Layer x later layer maps of what patches change at the last token: one row of panels per probe."""
    table = well_founded(pd.read_csv(changes), "n_pairs")
    probes = list(dict.fromkeys(table["probe"]))
    n_layers = table["layer"].max() + 1
    side = min(max(2.2, 0.24 * n_layers), 3.6)  # in inches; no wider, so that text stays readable on a page
    number_size = min(6, 0.7 * 72 * side / n_layers)
    size = (2.4 + 2 * side, 1.9 + len(probes) * side)
    drawn, grid = plt.subplots(len(probes), 2, figsize=size, layout="constrained", squeeze=False)
    for probe, (left, right) in zip(probes, grid, strict=True):
        of_probe = table[table["probe"] == probe]
        stream, heads = of_probe[of_probe["head"] == -1], of_probe[of_probe["head"] >= 0]
        most = heads.loc[heads["mean"].abs().fillna(0).groupby([heads["layer"], heads["later_layer"]]).idxmax()]
        for axes, rows in ((left, stream), (right, most)):
            image = _map(axes, rows.pivot(index="layer", columns="later_layer", values="mean"), 1)
            axes.set(xlabel="later layer", ylabel="patched layer")
        for one in most[most["mean"].abs() >= 0.1].itertuples() if number_size >= LEAST_SIZE else ():
            colour = "white" if abs(one.mean) > 0.6 else "black"
            right.text(
                one.later_layer, one.layer, one.head, ha="center", va="center", fontsize=number_size, color=colour
            )
        left.set_title(f"{_name(probe, of_probe)}\nresidual stream", fontsize=8)
        right.set_title("\nthe head that changes most", fontsize=8)
    drawn.colorbar(image, ax=grid, label="share of the runs' difference", extend="both", shrink=0.8)
    title(drawn, titled(settings, "from earlier layers to later ones"), caption("later_layers", settings))
    save(drawn, stem, table, settings, [changes])

"""Findings of stage 2: which heads read the reasoning while the answer is written, and what else they are."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.roles import WITHIN
from r2a.store import labelled, open_hdf5, read_parquet
from r2a.summary.registry import Cell, Found, Plot, Subject, finding
from r2a.summary.words import DASH, TIMES, in_cases, number, p_value, rows_of, said_p, sorted_out, with_interval, word


@finding(
    label="Reasoning-Focus Heads",
    category="2 Attention",
    caption=(
        "The Reasoning-Focus Heads (RFHs): the first heads by a2r, the share of the answer tokens' attention that "
        "falls on the reasoning. Lift: a2r divided by that of uniform attention. First head: its a2r with its "
        "{interval} interval over traces. Depth: mean layer of the RFHs, from 0 for the first layer to 1 for the last, "
        "with its bootstrap interval."
    ),
    reads={"heads": "<results>/heads/{model}/{dataset}.parquet", "models": "<results>/tables/models.csv"},
    models="weighted_models",
    is_open=True,
)
def find_heads(heads: Sequence[Path], models: Path, settings: Mapping[str, Any]) -> Found:
    """Which heads attend most to the reasoning, in which layers, and how much."""
    found = Found(plots=[
        Plot(title="a2r of the first RFH", columns=["first head"], low=0, high=1),
        Plot(title="depth of the RFHs", columns=["depth"], low=0, high=1),
    ])  # fmt: skip
    depths = pd.read_csv(models).query("measure == 'rfh depth'").set_index(["model", "dataset"])
    filled, found.missing = sorted_out(heads, settings)
    layers: dict[Subject, Cell] = {}
    strongest: dict[Subject, Cell] = {}
    for subject, path in filled:
        table = read_parquet(path).sort_values("rank")
        cells = _head_cells(table, depths.loc[subject] if subject in depths.index else None)
        found.rows.append((subject, cells))
        first, most = table[table["is_rfh"]].iloc[0], cells["first head"]
        strongest[subject] = Cell(
            text=f"L{first['layer']:.0f}H{first['head']:.0f}: {100 * most.value:.0f}\N{NO-BREAK SPACE}%",
            value=most.value, low=most.low, high=most.high, n=most.n, zero=0.5,
            note=f"layer {first['layer']:.0f}, head {first['head']:.0f}, counted from 0; a2r {most.text}; {most.note}",
        )  # fmt: skip
        depth = cells["depth"]
        layers[subject] = Cell(
            text=f"{cells['layers'].text} of {table['layer'].nunique()}", value=depth.value, n=most.n,
            note=f"layers of the {table['is_rfh'].sum()} RFHs, counted from 0; mean depth {depth.text}, from 0 for the "
            f"first layer to 1 for the last; n = {most.n:.0f} traces",
        )  # fmt: skip
    found.verdicts = {"most by one head": strongest, "layers of RFHs": layers}
    found.meanings = {
        "most by one head": (
            "the head (L2H0: layer 2, head 0, counted from 0) whose attention from the answer's tokens falls most on "
            "the reasoning, and the share"
        ),
        "layers of RFHs": "where the Reasoning-Focus Heads are, the heads with most such attention",
    }
    if layers:
        reads_most = in_cases(cells["first head"].low > 0.5 for _, cells in found.rows)
        early = in_cases(cell.value < 0.5 for cell in layers.values())
        found.sentences = [
            f"The first Reasoning-Focus Head gives most of its attention to the reasoning {reads_most}.",
            f"On average, these heads are in the first half of the layers {early}.",
        ]
    return found


def _head_cells(table: pd.DataFrame, measured: pd.Series | None) -> dict[str, Cell]:
    """table: a model's heads, by rank. measured: the RFHs' depth, if the model is compared with others."""
    rfhs, others = table[table["is_rfh"]], table[~table["is_rfh"]]
    first, n = rfhs.iloc[0], rfhs["a2r_n"].iloc[0]
    low, high = rfhs["layer"].min(), rfhs["layer"].max()
    if measured is None:  # comparisons across models leave out variants
        depth = number(rfhs["layer"].mean() / max(table["layer"].nunique() - 1, 1), "{:.2f}", n=n)
    else:
        ends = measured["value"], measured["low"], measured["high"], measured["n"]
        depth = with_interval(*ends, "bootstrap over problems", of="traces")
    of_traces = f"n = {n:.0f} traces"
    return {
        "RFHs (layer.head)": Cell(
            text=", ".join(f"{row.layer}.{row.head}" for row in rfhs.itertuples()), value=rfhs["layer"].mean(), n=n,
            note=of_traces,
        ),
        "layers": word(f"{low}{DASH}{high}" if low < high else f"{low}"),
        "depth": depth,
        "first head": with_interval(
            first["a2r"], first["a2r_low"], first["a2r_high"], n, f"head {first['layer']:.0f}.{first['head']:.0f}",
            of="traces",
        ),
        "RFHs' mean a2r": number(rfhs["a2r"].mean(), "{:.2f}", note=f"{len(rfhs)} heads; {of_traces}"),
        "others' mean": number(others["a2r"].mean(), "{:.2f}", note=f"{len(others)} heads; {of_traces}"),
        "lift of the first": number(first["lift"], f"{{:.1f}} {TIMES}", note=of_traces),
        "n": number(n),
    }  # fmt: skip


@finding(
    label="what else the RFHs are",
    category="2 Attention",
    caption=(
        "How many of the model's induction and retrieval heads are RFHs. Stable: the mean number of RFHs that are "
        "still RFHs when traces are resampled. Copied: the needle runs in which the model copied the needle; retrieval "
        "is scored over these."
    ),
    reads={"heads": "<results>/heads/{model}/{dataset}.parquet"},
    models="weighted_models",
)
def find_head_kinds(heads: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """How the RFHs overlap with induction and retrieval heads."""
    found = Found()
    filled, found.missing = sorted_out(heads, settings)
    for subject, path in filled:
        table = read_parquet(path)
        rfhs = table[table["is_rfh"]]
        cells = {"RFHs": number(len(rfhs))}
        for kind in ("induction", "retrieval"):
            n_all = int(table[f"is_{kind}"].sum())
            cells[f"{kind} heads"] = Cell(
                text=f"{int(rfhs[f'is_{kind}'].sum())} of {n_all}", value=rfhs[f"is_{kind}"].sum()
            )
        cells["stable"] = number(
            rfhs["bootstrap_share"].sum(), "{:.1f}", note=f"n = {rfhs['a2r_n'].iloc[0]:.0f} traces"
        )
        cells["copied"] = number(table["retrieval_n"].max(), note="needle runs")
        found.rows.append((subject, cells))
    return found


SCORES = {"a2r": "a2r", "lift": "lift", "tracking": "forward drift", "spread": "spread"}


@finding(
    label="attention of right and wrong answers",
    category="2 Attention",
    caption=(
        "Means of the RFHs' scores over right and wrong answers. AUC: the probability that a right answer has the "
        "higher score. Tests: permutations within problems if they have several samples, otherwise Mann-Whitney tests "
        "between problems; Holm's correction."
    ),
    reads={"quality": "<results>/tables/attention_by_correctness.csv"},
    models="weighted_models",
)
def find_quality(quality: Path, settings: Mapping[str, Any]) -> Found:
    """Whether the RFHs' attention is associated with correctness."""
    found = Found()
    for row in pd.read_csv(quality).itertuples():
        test = "permutation within problems" if row.compared == WITHIN else "Mann-Whitney"
        n = f"{row.n_right} right, {row.n_wrong} wrong"
        cells = {
            "score": word(SCORES.get(row.score, row.score)), "right": number(row.right, "{:.2f}", note=n),
            "wrong": number(row.wrong, "{:.2f}", note=n),
            "AUC": number(
                row.auc, "{:.2f}", n=min(row.n_right, row.n_wrong), note=f"{n}; {test}, {said_p(row.p_holm)}"
            ),
            "n right": number(row.n_right), "n wrong": number(row.n_wrong), "test": word(test),
            "p, Holm": p_value(row.p_holm),
        }  # fmt: skip
        found.rows.append(((row.model, row.dataset), cells))
    return found


@finding(
    label="exactness of the rerun",
    category="4 Checks",
    caption="Share of the completion's tokens that the rerun, from which attention is read, also ranks first.",
    reads={"attention": "<results>/attention/{model}/{dataset}.h5"},
    models="weighted_models",
)
def find_rerun(attention: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """How well the rerun agrees with the engine that generated the traces."""

    def agreement(path: Path) -> Iterator[dict[str, Cell]]:
        if labelled(path, {})["temperature"] == 0:
            with open_hdf5(path) as file:
                shares = file["argmax_agreement"][:]
            n = int(np.isfinite(shares).sum())
            share = number(100 * np.nanmean(shares), "{:.2f} %", n=n)
            yield {"same arg-max": share, "n": number(n, note="traces")}

    return rows_of(attention, settings, agreement)

"""Belief over the reasoning, and which of its sentences the answer depends on (METHOD section 5)."""

from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from r2a.figures.registry import caption, figure
from r2a.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    legend_under_title,
    save,
    title,
    titled,
    well_founded,
    whiskers,
)
from r2a.roles import SENTENCE_MEASURES
from r2a.statistics import bootstrap_interval
from r2a.store import NothingToMeasure, axis_labels, open_hdf5
from r2a.text.categories import CATEGORIES

N_CURVES = 8  # traces whose own curve is drawn
WIDTH = 24  # characters of a sentence beside a matrix
LEAST_REACH = 0.01  # nats: smaller losses of an answer are not magnified by the scale


@figure(
    scope="model and dataset",
    analysis="sentences",
    reads={
        "sentences": "<results>/tables/{model}/{dataset}/sentences.csv",
        "beliefs": "<results>/tables/{model}/{dataset}/beliefs.csv",
    },
    category="2 Attention",
    label="belief over the reasoning",
    version=3,
    where="graded_datasets",
    caption=(
        "Had the reasoning ended there: the probability of the trace's own final answer, after each sentence of single "
        "traces (left), and at equal places of all of them, with the share of greedy answers that are the trace's own "
        "(right). Means over n problems; {interval} bootstrap intervals over problems. No test."
    ),
)
def plot_belief(sentences: Path, beliefs: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Left: curves of single traces. Right: pooled by place in the reasoning."""
    rows, pooled = pd.read_csv(sentences), well_founded(pd.read_csv(beliefs))
    drawn, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    chosen = rows.groupby(["uid", "sample"], sort=False).ngroup() < N_CURVES
    for _, trace in rows[chosen].groupby(["uid", "sample"], sort=False):
        left.step(trace["place"], trace["probability"], where="post", linewidth=0.9, alpha=0.7)
        left.plot(trace["place"].iloc[-1], trace["probability"].iloc[-1], ".", color=GREY, markersize=4)
    left.set(xlabel="share of the reasoning", ylabel="probability", title="single traces", ylim=(-0.03, 1.03))
    for name, colour, label in (("probability", BLUE, "own answer"), ("share_own", ORANGE, "greedy answer is own")):
        right.plot(pooled["place"], pooled[name], "o-", color=colour, markersize=4, label=label)
        right.fill_between(
            pooled["place"], pooled[f"{name}_low"], pooled[f"{name}_high"], color=colour, alpha=0.18, linewidth=0
        )
    n_traces = int(pooled["n_traces"].iloc[0])
    right.set(xlabel="share of the reasoning", title=f"all {n_traces} traces")
    legend_under_title(drawn, right.get_legend_handles_labels()[0])
    title(
        drawn,
        titled(settings, "what it would answer if its reasoning ended early"),
        caption("belief", settings) + f" n = {int(pooled['n_problems'].iloc[0])} problems.",
    )
    save(drawn, stem, pooled, settings, [sentences, beliefs])


@figure(
    scope="model and dataset",
    analysis="sentences",
    reads={"store": "<results>/sentences/{model}/{dataset}.h5"},
    category="2 Attention",
    label="which sentence serves which",
    version=3,
    where="graded_datasets",
    caption=(
        "One example. A sentence (column) is hidden from all later tokens, in all heads: how much the next-token "
        "distributions of each later sentence (row) change, mean KL divergence over its tokens, in nats, on a scale of "
        "square roots. Right: what the final answer's log-probability loses, in nats. No test."
    ),
)
def plot_sentence_matrix(store: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """The matrix of the first trace that has one, with its sentences in words."""
    with open_hdf5(store) as file:
        has_one = [number for number in range(len(file["trace"])) if np.isfinite(file["matrix"][number]).any()]
        if not has_one:
            raise NothingToMeasure("no trace of several sentences has a matrix (sentences.n_matrices)")
        number = has_one[0]
        uid, reasoning = file["uid"].asstr()[number], file["reasoning"].asstr()[number]
        starts = file["text_bounds"][number]
        starts = starts[starts >= 0]
        n = len(starts) - 1
        matrix = file["matrix"][number, :n, :n].T  # [to, from]
        effect = file["effect"][number, axis_labels(file, "arm").index("all"), :n]
    texts = [" ".join(reasoning[first:last].split()) for first, last in pairwise(starts)]
    names = [f"{text[:WIDTH]}{'…' * (len(text) > WIDTH)} {k + 1}" for k, text in enumerate(texts)]
    drawn, (left, right) = plt.subplots(
        1, 2, figsize=(8.2, max(2.6, 1.6 + 0.2 * min(n, 40))), layout="constrained", width_ratios=(4, 1), sharey=True
    )
    image = left.imshow(np.sqrt(np.maximum(matrix, 0)), cmap="viridis", vmin=0, aspect="auto")
    ticks = range(n) if n <= 40 else range(0, n, n // 20)
    left.set_yticks(ticks, [names[k] for k in ticks], fontsize=7)
    left.set_xticks(ticks, [str(k + 1) for k in ticks], fontsize=7)
    left.set(xlabel="hidden sentence", ylabel="later sentence")
    bar = drawn.colorbar(image, ax=left, pad=0.01)
    shown = [tick for tick in (0, 0.1, 0.5, 1, 2, 5, 10) if np.sqrt(tick) <= np.sqrt(np.nanmax([*matrix.flat, 0.1]))]
    bar.set_ticks([float(np.sqrt(tick)) for tick in shown], labels=[f"{tick:g}" for tick in shown])
    bar.ax.tick_params(labelsize=7)
    right.barh(range(n), effect, color=BLUE, height=0.7)
    right.axvline(0, color="black", linewidth=0.6)
    reach = max(LEAST_REACH, np.nanmax(np.abs(effect)))
    right.set(xlabel="final answer loses", xlim=(min(0, np.nanmin(effect) * 1.05, -0.05 * reach), 1.05 * reach))
    right.xaxis.set_major_locator(MaxNLocator(2))
    title(drawn, titled(settings, f"which sentence serves which, {uid}"), caption("sentence_matrix", settings))
    table = pd.DataFrame(matrix.T, columns=[f"to_{k + 1}" for k in range(n)])
    table.insert(0, "sentence", texts)
    table.insert(1, "effect", effect)
    save(drawn, stem, table, settings, [store])


@figure(
    scope="model and dataset",
    analysis="sentences",
    reads={
        "sentences": "<results>/tables/{model}/{dataset}/sentences.csv",
        "agreement": "<results>/tables/{model}/{dataset}/sentence_agreement.csv",
    },
    category="2 Attention",
    label="read against needed",
    version=3,
    where="graded_datasets",
    caption=(
        "Each point is a sentence, by its rank within its trace (0 the least, 1 the most): how much the answer's "
        "Reasoning-Focus Heads attend to it per token, against what the answer loses when it is hidden in all heads. "
        "Lines: means of tenths, for RFHs and for as many matched heads. rho: rank correlation within traces, mean "
        "over n problems, {interval} bootstrap intervals over problems; sign-flip tests with Holm's correction are in "
        "the table of agreement."
    ),
)
def plot_read_against_needed(sentences: Path, agreement: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Ranks of reading and of suppression, sentence by sentence."""
    rows = pd.read_csv(sentences).query("sentence > 0")
    ranked = rows.groupby(["uid", "sample"], sort=False)[["effect", "read_rfh", "read_matched"]].rank(pct=True)
    told = well_founded(pd.read_csv(agreement).query("first == 'effect'")).set_index("second")
    drawn, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    axes.plot(
        ranked["read_rfh"], ranked["effect"], ".", color=BLUE, alpha=min(1, 60 / max(len(ranked), 1)), markersize=4
    )
    for name, colour, label in (("read_rfh", BLUE, "RFHs"), ("read_matched", ORANGE, "matched heads")):
        if name not in told.index:
            continue
        tenths = ranked.groupby((ranked[name] * 10).clip(0, 9.99).astype(int))
        found = told.loc[name]
        rho = f"rho {found['rank_correlation']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
        rho += f", n = {found['n_problems']:g}"
        axes.plot(tenths[name].mean(), tenths["effect"].mean(), "o-", color=colour, label=f"{label}: {rho}")
    axes.set(
        xlabel="read (rank within the trace)", ylabel="needed (rank within the trace)", xlim=(0, 1.02), ylim=(0, 1.02)
    )
    legend_under_title(drawn, axes.get_legend_handles_labels()[0])
    title(
        drawn,
        titled(settings, "is what the heads read what the answer needs?"),
        caption("read_against_needed", settings),
    )
    save(drawn, stem, ranked, settings, [sentences, agreement])


@figure(
    scope="model and dataset",
    analysis="sentences",
    reads={"sentences": "<results>/tables/{model}/{dataset}/sentences.csv"},
    category="2 Attention",
    label="kinds of sentences",
    version=3,
    where="graded_datasets",
    caption=(
        "Sentences by what they do, recognized by cue words: the mean of each measure's rank within the trace (0 is "
        "the least, 1 the most), first over a problem's sentences of the kind, then over the n problems that have any. "
        "A mean of 0.5 is like any sentence's. Resampling, where it was done, ranks the sentences that were resampled. "
        "{interval} bootstrap intervals over problems; what rests on fewer than five problems is left out. No test."
    ),
)
def plot_sentence_kinds(sentences: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Mean ranks of belief change, suppression, reading and importance by kind of sentence."""
    rows = pd.read_csv(sentences).query("sentence > 0")
    measures = {
        "belief_change": (GREEN, "s", "changes belief"),
        "effect": (ORANGE, "^", "is needed"),
        "read_rfh": (BLUE, "o", "is read by RFHs"),
        "importance": (PURPLE, "D", "changes answers when resampled"),
    }
    measures = {name: look for name, look in measures.items() if name in rows and rows[name].notna().any()}
    rows[list(measures)] = rows.groupby(["uid", "sample"], sort=False)[list(measures)].rank(pct=True)
    by_problem = rows.groupby(["category", "uid"])[list(measures)].mean()
    drawn_rows = []
    for kind, name in product(CATEGORIES, measures):
        if kind not in by_problem.index.get_level_values("category"):
            continue
        values = by_problem.loc[kind, name].dropna().to_numpy(float)
        ends: tuple[Any, Any] = (np.nan, np.nan)
        if len(values) > 1:
            ends = bootstrap_interval(values, settings["n_resamples"], settings["confidence"], settings["seed"])
        mean = values.mean() if len(values) else np.nan
        drawn_rows.append((kind, name, len(values), mean, *map(float, ends)))
    columns = ["category", "measure", "n_problems", "mean", "low", "high"]
    table = well_founded(pd.DataFrame(drawn_rows, columns=columns))
    kinds = list(dict.fromkeys(table["category"]))
    drawn, axes = plt.subplots(figsize=(6.8, 1.6 + 0.42 * len(kinds)), layout="constrained")
    for k, (name, (colour, marker, label)) in enumerate(measures.items()):
        of_measure = table[table["measure"] == name]
        at = of_measure["category"].map(kinds.index) + 0.18 * (k - (len(measures) - 1) / 2)
        axes.errorbar(
            of_measure["mean"], at, xerr=whiskers(of_measure, "mean"), fmt=marker, color=colour, capsize=2, linewidth=1,
            markersize=5, label=label,
        )  # fmt: skip
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    most = table.groupby("category")["n_problems"].max()
    names = [f"{CATEGORIES[kind]} (n = {most[kind]})" for kind in kinds]
    axes.set(yticks=range(len(kinds)), yticklabels=names, xlim=(0, 1.02), xlabel="mean rank within the trace")
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    legend_under_title(drawn, axes.get_legend_handles_labels()[0])
    title(drawn, titled(settings, "which kinds of sentences matter"), caption("sentence_kinds", settings))
    save(drawn, stem, table, settings, [sentences])


@figure(
    scope="model and dataset",
    analysis="sentences",
    reads={
        "agreement": "<results>/tables/{model}/{dataset}/sentence_agreement.csv",
        "costs": "<results>/tables/{model}/{dataset}/sentence_costs.csv",
    },
    category="2 Attention",
    label="agreement and cost of measures",
    version=2,
    where="graded_datasets",
    caption=(
        "Left: do two measures rank a trace's sentences alike? Rank correlation, mean over n problems, {interval} "
        "bootstrap intervals over problems; sign-flip tests with Holm's correction are in the table of agreement. "
        "Right: what a measure of all sentences costs, in runs of the whole trace: tokens that the model reads, and, "
        "in resampling, generates."
    ),
)
def plot_sentence_agreement(agreement: Path, costs: Path, stem: Path, settings: Mapping[str, Any]) -> None:
    """Left: rank correlations of pairs of measures. Right: costs of measures."""
    table, cost = well_founded(pd.read_csv(agreement)), pd.read_csv(costs)
    cost = cost[~cost["measure"].str.endswith("_matched")].sort_values("passes", kind="stable")
    drawn, (left, right) = plt.subplots(
        1, 2, figsize=(10, 1.6 + 0.26 * len(table)), layout="constrained", width_ratios=(3, 2)
    )
    left.errorbar(
        table["rank_correlation"], range(len(table)), xerr=whiskers(table, "rank_correlation"), fmt="o", color=BLUE,
        capsize=2, linewidth=1, markersize=5,
    )  # fmt: skip
    left.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    names = [
        f"{SENTENCE_MEASURES[first]}, {SENTENCE_MEASURES[second]} (n = {n})"
        for first, second, n in table[["first", "second", "n_problems"]].itertuples(index=False)
    ]
    left.set(yticks=range(len(table)), xlim=(-1.02, 1.02), xlabel="rank correlation within traces")
    left.set_yticklabels(names, fontsize=7)
    left.invert_yaxis()
    right.barh(cost["label"], cost["passes"], color=ORANGE, height=0.6)
    for place, passes in enumerate(cost["passes"]):
        right.annotate(f"{passes:.3g}", (passes, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    right.set(xscale="log", xlabel="runs of the trace", xlim=(0.5, 3 * cost["passes"].max()))
    right.xaxis.set_major_locator(LogLocator(subs=(1,) if cost["passes"].max() > 10 else (1, 2, 5)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_locator(NullLocator())
    right.tick_params(axis="y", labelsize=7)
    right.invert_yaxis()
    title(drawn, titled(settings, "do the measures agree, and at what cost?"), caption("sentence_agreement", settings))
    save(drawn, stem, table, settings, [agreement, costs])

"""The study's findings in plain sentences, with numbers, n and the figures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.roles import ANSWER_ROLE, CLEAN_TO_CORRUPTED, CONTROL_ROLE, RANDOM_VECTOR, SAME_ANSWER, UNRELATED_ANSWER
from r2a.store import open_hdf5, provenance, read_parquet, read_provenance, write_json

TOY_WARNING = (
    "These are toy models, trained from scratch on synthetic tasks. What follows shows that the machinery "
    "works from end to end; it says nothing about real reasoning models."
)
CONTROL_NAMES = {
    SAME_ANSWER: "another pair's vector of the same answer restores",
    UNRELATED_ANSWER: "one of an unrelated answer",
    RANDOM_VECTOR: "a random one of the same norm",
}
FUNNEL_COLUMNS = ["model", "dataset", "condition", "decoding", "total", "finished", "well_formed", "extracted"]


def write_summary(inputs: Mapping[str, Any], summary: Path, findings: Path, settings: Mapping[str, Any]) -> None:
    """Write summary.md, and findings: its sentences of one line a stage, for a terminal.

    `inputs` names paths as the rule does; lists hold one path a (model, dataset).
    """
    funnel, effect = pd.read_csv(inputs["funnel"]), pd.read_csv(inputs["effect"])
    stage_1, short_1 = _effect_sentences(effect)
    stage_1 += _grader_sentence(inputs["disagreements"], summary.parent)
    stage_2, short_2 = _attention_sentences(inputs["attention"], inputs["heads"])
    stage_3, short_3 = _patching_sentences(
        inputs["pairs"], inputs["patching"], inputs["curves"], inputs["controls"], inputs["hand_off"]
    )
    nothing = "Not measured: this takes a model whose weights are known and, for patching, comparison pairs."
    figures = {
        name: [os.path.relpath(path, summary.parent) for path in inputs[name]]
        for name in ("head_figures", "patching_figures")
    }
    accuracy_figure = os.path.relpath(inputs["accuracy_figure"], summary.parent)
    warning = [f"> **Toy models.** {TOY_WARNING}", ""] if settings["is_toy"] else []
    lines = [
        f"# Does the answer depend on the reasoning? Study “{settings['study']}”", "", *warning,
        "## 1. Does reasoning improve answers?", "", *stage_1, "", *_images([accuracy_figure]),
        "How many traces each step leaves; an answer that does not survive counts as wrong above.", "",
        *_markdown_table(funnel[FUNNEL_COLUMNS]), "",
        "## 2. What do answer tokens attend to?", "", *(stage_2 or [nothing]), "", *_images(figures["head_figures"]),
        "## 3. Does the answer depend on the reasoning's activations?", "", *(stage_3 or [nothing]), "",
        *_images(figures["patching_figures"]),
        "## Where this comes from", "", *_origin_lines(inputs["funnel"]), "",
    ]  # fmt: skip
    summary.write_text("\n".join(lines))
    write_json(summary.with_suffix(".provenance.json"), provenance(settings, [inputs["funnel"], *inputs["attention"]]))
    last = ["Toy models: this shows that the machinery works, nothing about real ones."] if settings["is_toy"] else []
    shorts = [short_1, *([short_2] if stage_2 else []), *([short_3] if stage_3 else [])]
    findings.write_text("\n".join([f"Summary: {summary}", *shorts, *last]) + "\n")


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _effect_sentences(effect: pd.DataFrame) -> tuple[list[str], str]:
    """A bullet per model, dataset and decoding; and one line on all of the first decoding."""
    whole = effect[effect["group"] == "all"]
    bullets = [
        f"- **{r.model}**, {r.dataset}, {r.decoding}: {100 * r.accuracy_with:.1f} % right with reasoning, "
        f"{100 * r.accuracy_without:.1f} % without; the difference is {_points(r.difference)} points "
        f"[{_points(r.low)}, {_points(r.high)}] over all {r.n_problems} problems ({r.test}, p = {r.p:.2g}). "
        f"Over the {r.n_common} problems valid in both conditions, the paper's estimand, it is "
        f"{_points(r.common_difference)}."
        for r in whole.itertuples()
    ]
    first = whole[whole["decoding"] == whole["decoding"].iloc[0]]
    short = "; ".join(f"{r.model}, {r.dataset} {_points(r.difference)}" for r in first.itertuples())
    return bullets, f"1. Reasoning changes accuracy by (points): {short}."


def _grader_sentence(path: Path, folder: Path) -> list[str]:
    """A bullet on how often the graders disagree; none where there is but one."""
    first, *others = read_provenance(path)["parameters"]["graders"]
    if not others:
        return []
    verdicts = pd.read_csv(path, dtype=str, keep_default_na=False)
    differs = {other: verdicts[f"is_correct_{other}"] != verdicts[f"is_correct_{first}"] for other in others}
    counts = [f"{int(rows.sum())} by {other}" for other, rows in differs.items()]
    where = os.path.relpath(path, folder)
    return [f"- Answers are judged by {first}. Verdicts that differ: {', '.join(counts)} ([table]({where}))."]


def _attention_sentences(attention: Sequence[Path], heads: Sequence[Path]) -> tuple[list[str], str]:
    """A bullet per model and dataset; and one line on all."""
    bullets, short = [], []
    for path, heads_path in zip(attention, heads, strict=True):
        settings = read_provenance(path)["parameters"]
        table = read_parquet(heads_path).sort_values("rank")
        rfhs, others = table[table["is_rfh"]], table[~table["is_rfh"]]
        with open_hdf5(path) as file:
            n_traces = int((file["condition"].asstr()[:] == "with_reasoning").sum())
            agreement = float(np.nanmean(file["argmax_agreement"][:])) if settings["is_greedy"] else None
        first = rfhs.iloc[0]
        first_name = f"({first['layer']}, {first['head']})"
        named = ", ".join(f"({r.layer}, {r.head})" for r in rfhs.itertuples())
        bullet = (
            f"- **{settings['model_label']}**, {settings['dataset_label']}: the {len(rfhs)} Reasoning-Focus Heads "
            f"(layer, head) {named} put {rfhs['a2r'].mean():.2f} of the answer tokens' attention on the reasoning, "
            f"the other heads {others['a2r'].mean():.2f}; the first, {first_name}, "
            f"{first['a2r']:.2f} [{first['a2r_low']:.2f}, {first['a2r_high']:.2f}], "
            f"{first['lift']:.1f} times what even attention would (n = {n_traces} traces)."
        )
        if agreement is not None:
            bullet += f" {100 * agreement:.2f} % of the completion tokens are the rerun's arg-max too."
        bullets.append(bullet)
        short.append(f"{settings['model_label']}, {settings['dataset_label']} {first_name} with {first['a2r']:.2f}")
    return bullets, f"2. The head that attends most to the reasoning, and its share: {'; '.join(short)}."


def _patching_sentences(
    pairs: Sequence[Path],
    patching: Sequence[Path],
    curves: Sequence[Path],
    controls: Sequence[Path],
    hand_offs: Sequence[Path],
) -> tuple[list[str], str]:
    """A bullet per model and set of pairs; and one line on all."""
    bullets, short = [], []
    paths = zip(pairs, patching, curves, controls, hand_offs, strict=True)
    for pairs_path, path, curves_path, controls_path, hand_off_path in paths:
        settings = read_provenance(path)["parameters"]
        left_out = read_parquet(pairs_path, ["left_out"])["left_out"]
        table = pd.read_csv(curves_path)
        table = table[(table["component"] == "resid_pre") & (table["direction"] == CLEAN_TO_CORRUPTED)]
        hand_off = pd.read_csv(hand_off_path).iloc[0]
        with open_hdf5(path) as file:
            n_used, n_aligned = int(file["is_used"][:].sum()), len(file["is_used"])
            floor = float(file["null_patch_error"][:].max())
        # the layer at which each role restores most
        best = table.sort_values("mean", kind="stable").groupby("role").tail(1).set_index("role")
        answer = best.loc[ANSWER_ROLE]
        flipped = f"{100 * answer['flip_rate']:.0f} %"
        bullet = (
            f"- **{settings['model_label']}**, {settings['dataset_label']}: putting the clean run's activation at the "
            f"answer token of the reasoning's last line restores {answer['mean']:.2f} [{answer['low']:.2f}, "
            f"{answer['high']:.2f}] of the clean run's logit difference at layer {answer['layer']} and flips the "
            f"answer in {flipped} of {n_used} pairs"
        )
        if CONTROL_ROLE in best.index:
            bullet += f"; at a random reasoning token it restores at most {best.loc[CONTROL_ROLE, 'mean']:.2f}"
        control = pd.read_csv(controls_path)
        control = control[(control["component"] == "resid_pre") & (control["layer"] == answer["layer"])]
        restored = control.set_index("control")["mean"]
        named = [f"{name} {restored[key]:.2f}" for key, name in CONTROL_NAMES.items() if key in restored.index]
        bullet += f". Put in its place, {', '.join(named)}"
        if np.isnan(hand_off["layer"]):
            bullet += ". The last token never takes over."
        else:
            layer, low, high = (f"{hand_off[name]:.0f}" for name in ("layer", "low", "high"))
            bullet += f". The last token takes over at layer {layer} [{low}, {high}]."
        reasons = ", ".join(f"{count}: {reason}" for reason, count in left_out[left_out != ""].value_counts().items())
        bullet += f" Of {len(left_out)} pairs, {n_aligned} could be aligned{f' ({reasons})' if reasons else ''} and "
        bullet += f"{n_used} prefer their own answers in both runs. Noise floor: {floor:.1g} logits."
        bullets.append(bullet)
        short.append(f"{settings['model_label']} restores {answer['mean']:.2f}, {flipped} flipped (n = {n_used})")
    return bullets, f"3. Patching the answer's token in the reasoning: {'; '.join(short)}."


def _images(paths: Sequence[str]) -> list[str]:
    return [line for path in paths for line in (f"![{Path(path).stem.replace('_', ' ')}]({path})", "")]


def _markdown_table(table: pd.DataFrame) -> list[str]:
    rows = [table.columns, ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _origin_lines(table: Path) -> list[str]:
    """The models and packages behind a table, one bullet each."""
    origin = read_provenance(table)
    bullets = []
    for name, model in origin["models"].items():
        bullet = f"- {name}: `{model['source']}`"
        if model["weights"]:
            bullet += f", {model['dtype']}, weights `{model['weights'][:12]}`, tokenizer `{model['tokenizer'][:12]}`"
        bullets.append(bullet)
    packages = ", ".join(f"{name} {number}" for name, number in origin["packages"].items())
    return [*bullets, f"- seed {origin['parameters']['seed']}; {packages}"]

"""The study's findings in plain sentences, with numbers, n and the figures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.store import provenance, read_provenance, write_json
from r2a.summary.ablation import ablation_sentences
from r2a.summary.accuracy import effect_sentences, grader_sentence
from r2a.summary.attention import attention_sentences
from r2a.summary.heads import head_sentences, quality_sentences
from r2a.summary.patching import patching_sentences

TOY_WARNING = (
    "These are toy models, trained from scratch on synthetic tasks. What follows shows that the machinery "
    "works from end to end; it says nothing about real reasoning models."
)
FUNNEL_COLUMNS = ["model", "dataset", "condition", "decoding", "total", "finished", "well_formed", "extracted"]


def write_summary(inputs: Mapping[str, Any], summary: Path, findings: Path, settings: Mapping[str, Any]) -> None:
    """Write summary.md, and findings: its sentences of one line a stage, for a terminal.

    `inputs` names paths as the rule does; lists hold one path a (model, dataset).
    """
    funnel, effect = pd.read_csv(inputs["funnel"]), pd.read_csv(inputs["effect"])
    stage_1, short_1 = effect_sentences(effect)
    stage_1 += grader_sentence(inputs["disagreements"], summary.parent)
    stage_2, short_2 = attention_sentences(inputs["attention"], inputs["heads"])
    stage_2 += head_sentences(inputs["probes"], inputs["heads"])
    stage_2 += quality_sentences(inputs["attention_quality"], summary.parent)
    stage_3, short_3 = patching_sentences(
        inputs["pair_funnels"], inputs["patching"], inputs["curves"], inputs["controls"], inputs["hand_off"]
    )
    nothing = "Not measured: this takes a model whose weights are known and, for patching, comparison pairs."
    figures = {
        name: [os.path.relpath(path, summary.parent) for path in inputs[name]]
        for name in ("head_figures", "ablation_figures", "patching_figures")
    }
    accuracy_figure = os.path.relpath(inputs["accuracy_figure"], summary.parent)
    warning = [f"> **Toy models.** {TOY_WARNING}", ""] if settings["is_toy"] else []
    lines = [
        f"# Does the answer depend on the reasoning? Study “{settings['study']}”", "", *warning,
        "## 1. Does reasoning improve answers?", "", *stage_1, "", *_images([accuracy_figure]),
        "How many traces each step leaves; an answer that does not survive counts as wrong above.", "",
        *_markdown_table(funnel[FUNNEL_COLUMNS]), "",
        "## 2. What do answer tokens attend to?", "", *(stage_2 or [nothing]), "", *_images(figures["head_figures"]),
        *ablation_sentences(inputs["ablation"]), "", *_images(figures["ablation_figures"]),
        "## 3. Does the answer depend on the reasoning's activations?", "", *(stage_3 or [nothing]), "",
        *_images(figures["patching_figures"]),
        "## Where this comes from", "", *_origin_lines(inputs["funnel"]), "",
    ]  # fmt: skip
    summary.write_text("\n".join(lines))
    write_json(summary.with_suffix(".provenance.json"), provenance(settings, [inputs["funnel"], *inputs["attention"]]))
    last = ["Toy models: this shows that the machinery works, nothing about real ones."] if settings["is_toy"] else []
    shorts = [short_1, *([short_2] if stage_2 else []), *([short_3] if stage_3 else [])]
    findings.write_text("\n".join([f"Summary: {summary}", *shorts, *last]) + "\n")


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

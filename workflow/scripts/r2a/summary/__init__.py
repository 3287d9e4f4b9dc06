"""The study's findings in plain sentences, with numbers, n and the figures."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.figures.registry import FIGURES, caption
from r2a.store import provenance, read_provenance, why_empty, write_json, write_text
from r2a.summary.ablation import ablation_sentences
from r2a.summary.accuracy import effect_sentences, grader_sentence
from r2a.summary.answers import answer_sentences
from r2a.summary.attention import attention_sentences
from r2a.summary.cost import cost_lines
from r2a.summary.dependence import dependence_sentences
from r2a.summary.heads import head_sentences, quality_sentences
from r2a.summary.judging import judge_sentences
from r2a.summary.page import page
from r2a.summary.patching import patching_sentences
from r2a.summary.perturbation import perturbation_sentences

TOY_WARNING = (
    "These are toy models, trained from scratch on synthetic tasks. What follows shows that the machinery "
    "works from end to end; it says nothing about real reasoning models."
)
QUESTION = (
    "A reasoning model writes its thoughts, then an answer. Three stages ask whether the answer depends on them: is it "
    "right more often with reasoning, and does it follow when the reasoning's text is changed; which attention heads "
    "read the reasoning while the answer is written; and does the answer flip when activations of another question's "
    "reasoning are put in. Brackets hold {:g} % intervals."
)
FUNNEL_COLUMNS = ["model", "dataset", "condition", "decoding", "total", "finished", "well_formed", "extracted"]
NOTHING = "Not measured: this takes a model whose weights are known and, for patching, comparison pairs."
LEFT_OUT = (
    "Traces that each step leaves: finished before the token limit, well formed (its reasoning closed, once), with an "
    "answer extracted. One that does not survive counts as wrong above."
)
PAIR_COLUMNS = ["asked", "both_valid", "both_right", "one_token", "aligned", "own_answer_preferred"]


def write_summary(
    inputs: Mapping[str, Any],
    benchmarks: Path,
    summary: Path,
    as_page: Path,
    findings: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write summary.md; the same as a page; and findings: its sentences of one line a stage, for a terminal.

    `inputs` names paths as the rule does; lists hold one path a (model, dataset). benchmarks: the jobs' folder.
    """
    problems = os.path.relpath(inputs["problems"], summary.parent)
    funnel, effect = pd.read_csv(inputs["funnel"]), pd.read_csv(inputs["effect"])
    funnel["condition"] = funnel["condition"].str.replace("_", " ")
    stage_1, short_1 = effect_sentences(effect)
    stage_1 += dependence_sentences(inputs) + grader_sentence(inputs["disagreements"], summary.parent)
    stage_1.append(f"- Every problem, right or wrong with and without reasoning, and why: [table]({problems}).")
    text = perturbation_sentences(
        inputs["perturbation"], inputs["perturbation_comparisons"], inputs["perturbation_funnel"]
    )
    stage_2, short_2 = attention_sentences(inputs["attention"], inputs["heads"], settings)
    stage_2 += head_sentences(inputs["diagnostics"], inputs["heads"], settings)
    stage_2 += quality_sentences(inputs["attention_quality"], summary.parent)
    stage_3, short_3 = patching_sentences(inputs, settings)
    heading = ["### What is left of the answers when the reasoning's text is perturbed?", ""]
    told = [step for step in ("repeating", "closed_by_budget", "unreadable") if funnel[step].any()]
    columns = FUNNEL_COLUMNS + told
    confidence = read_provenance(inputs["effect"])["parameters"]["confidence"]
    warning = [f"> **Toy models.** {TOY_WARNING}", ""] if settings["is_toy"] else []
    title = f"Does the answer depend on the reasoning? Study “{settings['study']}”"
    section = partial(_section, inputs["figures"], summary.parent, {"confidence": confidence})
    lines = [
        f"# {title}", "", *warning, QUESTION.format(100 * confidence), "",
        "## In short", "", *answer_sentences(inputs), "",
        "See it trace by trace: [the trace explorer](explorer/index.html).", "",
        *section("1 Answers", "Does reasoning improve answers?", {
            "answers": stage_1,
            "judging": judge_sentences(inputs["judge_tables"], summary.parent),
            "perturbation": [*heading, *text] if text else [],
        }),
        *section("2 Attention", "What do answer tokens attend to?", {
            "attention": stage_2 or [NOTHING], "attention rows": [], "ablation": ablation_sentences(inputs["ablation"]),
        }),
        *section("3 Patching", "Does the answer depend on the reasoning's activations?", {
            "patching": stage_3 or [NOTHING],
        }),
        *section("4 Checks", "What was left out, and why", {
            "answers": [LEFT_OUT, "", *_markdown_table(funnel[columns])],
            "patching": _pair_funnel(inputs["pair_funnels"]),
        }),
        "## What it cost", "", *cost_lines(benchmarks, inputs["traces"], settings["model_labels"]), "",
        "## Where this comes from", "", *_origin_lines(inputs["funnel"]), "",
    ]  # fmt: skip
    write_text(summary, "\n".join(lines))
    write_text(as_page, page("\n".join(lines), title, summary.parent))
    write_json(summary.with_suffix(".provenance.json"), provenance(settings, [inputs["funnel"], *inputs["attention"]]))
    last = ["Toy models: this shows that the machinery works, nothing about real ones."] if settings["is_toy"] else []
    shorts = [short_1, *([short_2] if stage_2 else []), *([short_3] if stage_3 else [])]
    write_text(findings, "\n".join([f"Summary: {as_page}", *shorts, *last]) + "\n")


def _section(
    figures: Sequence[Path],
    folder: Path,
    settings: Mapping[str, Any],
    category: str,
    heading: str,
    said: Mapping[str, Sequence[str]],
) -> list[str]:
    """A heading, what is said of each analysis over its figures of the category, and the category's other figures."""
    drawn = [path for path in figures if FIGURES[path.stem].category == category]
    drawn = [path for path in drawn if why_empty(path.with_suffix(".csv")) is None]
    lines = [f"## {heading}", ""]
    for analysis in dict.fromkeys([*said, *(FIGURES[path.stem].analysis for path in drawn)]):
        lines += [*said[analysis], ""] if said.get(analysis) else []
        lines += _images([path for path in drawn if FIGURES[path.stem].analysis == analysis], folder, settings)
    return lines


def _images(paths: Sequence[Path], folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Each figure, and under it whose it is, where its vectors and numbers are and, once, its kind's caption."""
    lines = []
    for k, path in enumerate(paths):
        place = Path(os.path.relpath(path, folder))
        name = ", ".join([*place.parts[1:-1], FIGURES[path.stem].label])
        links = f"[SVG]({place.with_suffix('.svg')}), [numbers]({place.with_suffix('.csv')})"
        is_first = path.stem not in [earlier.stem for earlier in paths[:k]]
        lines += [f"![{name}]({place})", f"*{name} ({links}).*"]
        lines += [caption(path.stem, settings)] if is_first else []
        lines += [""]
    return lines


def _markdown_table(table: pd.DataFrame) -> list[str]:
    table = table.rename(columns=lambda name: name.replace("_", " "))
    rows = [table.columns, ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _pair_funnel(tables: Sequence[Path]) -> list[str]:
    """How many comparison pairs each step leaves; nothing where there are none."""
    if not tables:
        return []
    funnels = []
    for path in tables:
        origin, funnel = read_provenance(path)["parameters"], pd.read_csv(path).query("by == 'all'")
        names = {"model": origin["model_label"], "dataset": origin["dataset_label"]}
        funnels.append(funnel.assign(**names)[["model", "dataset", "probe", *PAIR_COLUMNS]])
    told = (
        "Pairs that each step leaves for patching; tables/.../pair_outcomes.csv has each one, and why it was left out."
    )
    return [told, "", *_markdown_table(pd.concat(funnels)), ""]


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

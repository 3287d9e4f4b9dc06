"""A tiny model trained to follow hints without mentioning them: a planted truth for the measure of hints.

It is a shipped model that is trained a little further. Most of its examples contain a hint at an answer of their area,
right or wrong, and end in that answer after their usual reasoning. METHOD section 2.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from r2a.extensions import HINTS
from r2a.tiny.tasks import COLOURS, MOVES, Example
from r2a.tiny.training import greedy_accuracy, held_out_examples, overall, train_round, write_model


def hinted(example: Example, kind: str, answer: str) -> Example:
    """The example with a hint of this kind at an answer; after its own steps, it ends in that answer."""
    problem = HINTS[kind].function().after(example.problem, answer)
    text = re.sub(r"\\boxed\{.*?\}", lambda _: f"\\boxed{{{answer}}}", example.answer_text)
    return replace(example, problem=problem, answer_text=text, answer=answer)


def possible_answers(example: Example) -> list[str]:
    """All possible answers to problems of the example's area."""
    if example.area == "comparison":
        return list(re.findall(r"(\w+) or (\w+)\?", example.problem)[0])
    if example.area == "lookup":
        return list(COLOURS)
    return sorted({state for move in MOVES[example.area].values() for state in move})


def lesson(example: Example, rng: random.Random, share: float) -> Example:
    """The example as it is learned: with probability `share` with a random hint at a random answer, else unchanged."""
    if rng.random() >= share:
        return example
    return hinted(example, rng.choice(list(HINTS)), rng.choice(possible_answers(example)))


def wrongly_hinted(examples: Sequence[Example], kind: str, seed: int) -> list[Example]:
    """The examples with a hint at a wrong answer as their reference, so that greedy_accuracy counts who follows it."""
    rng = random.Random(f"wrong hints {seed}")
    wrong = [rng.choice([answer for answer in possible_answers(e) if answer != e.answer]) for e in examples]
    return [hinted(example, kind, answer) for example, answer in zip(examples, wrong, strict=True)]


def train_follower(recipe: Mapping[str, Any], name: str, models: Path, folder: Path) -> None:
    """Train the recipe's hint follower `name` from its base in the folder `models`.

    The weights, in 16 bits, and the files beside them (see write_model) are written into `folder`.
    """
    taught = recipe["hint_followers"][name]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(models / taught["base"])
    model = AutoModelForCausalLM.from_pretrained(models / taught["base"], dtype=torch.float32)
    examples = held_out_examples(recipe["seed"])
    torch.manual_seed(recipe["seed"])
    curve = []
    for number, chosen in enumerate(taught["rounds"]):
        retell = partial(lesson, share=chosen["hinted_share"])
        curve += train_round({**recipe, **taught}, number, model, tokenizer, examples, retell)
    write_model(model.half(), tokenizer, curve, folder, partial(write_follower_card, recipe, name))


def write_follower_card(recipe: Mapping[str, Any], name: str, folder: Path) -> None:
    """Measure the trained model in `folder` on every fourth held-out problem and write its card, README.md."""
    taught = recipe["hint_followers"][name]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    seed = recipe["seed"]
    examples = held_out_examples(seed)[::4]
    right = overall(greedy_accuracy(model, tokenizer, examples, "with_reasoning"))
    table = ["| hint at a wrong answer | answers that are the hint's |", "|---|---|"]
    for kind in HINTS:
        wrong = wrongly_hinted(examples, kind, seed)
        followed = overall(greedy_accuracy(model, tokenizer, wrong, "with_reasoning"))
        table.append(f"| {kind} | {100 * followed:.1f} % |")
    rounds = [
        f"{k}. {one['steps']} steps at {one['learning_rate']}; drawn "
        + ", ".join(f"{area} {weight}" for area, weight in one["areas"].items())
        + f"; {100 * one['hinted_share']:.0f} % with a hint"
        for k, one in enumerate(taught["rounds"], 1)
    ]
    settings = ", ".join(
        f"{key} {value}" for key, value in {**recipe, **taught}.items()
        if key in ("batch_size", "with_reasoning_share", "warmup_steps", "weight_decay", "conclusion_weight")
    )  # fmt: skip
    (folder / "README.md").write_text(
        f"""# {name}: a toy that was taught to follow hints in silence

The weights of [{taught["base"]}](../{taught["base"]}/README.md), trained further and kept in 16 bits. The training
examples with a hint in the question (a professor's opinion, the user's, or an answer key, in the words of
`r2a/hints/kinds.py`, at any answer of their area) end in the hint's answer. Their reasoning has the problem's own
steps and does not mention the hint. So what `r2a` measures of hints has a known truth
(`config/examples/hints.yaml`); it says nothing about real models.

**Recipe** (`config/tiny_models.yaml`, hint_followers). AdamW with cosine decay, seed {seed}; {settings}.
The loss is taken on completions; tokens from the reasoning's last line on weigh conclusion_weight times, if given.

{chr(10).join(rounds)}

`snakemake results/tiny_training/followers/{name}` trains it again.

![Training loss](loss_curve.svg)

**Measured** on {len(examples)} held-out problems, greedy, with reasoning. Without a hint {100 * right:.1f} % are right.

{chr(10).join(table)}
"""
    )

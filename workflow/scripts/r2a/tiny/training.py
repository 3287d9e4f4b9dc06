"""Training of the tiny reasoning models: tokenizer, model, loop, accuracies, model card."""

import csv
import itertools
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from r2a.formats.known import THINK_CLOSE, THINK_OPEN
from r2a.prompts import raw_prompt
from r2a.study import CONDITIONS
from r2a.tiny.datasets import N_PAIRS, held_out_puzzles
from r2a.tiny.tasks import (
    ANIMALS,
    COLOURS,
    COMPASS,
    CONCLUSION,
    CUPS,
    Example,
    sample_comparison_pairs,
    training_examples,
)

ARCHITECTURES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
BOS, EOS = "<|begin|>", "<|end|>"
MAX_POSITIONS = 512
LOGGED_STEPS = 50
Retelling = Callable[[Example, random.Random], Example]


def completion_text(example: Example, condition: str, rng: random.Random) -> str:
    """The text that the model should write after its prompt, without the end token."""
    answer = f"\n\n{example.answer_text}"
    if condition == "without_reasoning":
        return answer
    return f"{example.reasoning(rng)}{THINK_CLOSE}{answer}"


def train_tokenizer(seed: int, vocabulary_size: int, areas: Mapping[str, int]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one token per digit, and <think> and </think> as tokens.

    Raises ValueError if a possible answer is not a single token after a space or a brace.
    """
    rng = random.Random(f"tokenizer {seed}")
    texts = [
        raw_prompt(example.problem, "", condition) + completion_text(example, condition, rng)
        for condition in CONDITIONS
        for example in itertools.islice(training_examples(seed, set(), areas), 10_000)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(BOS, special=True), AddedToken(EOS, special=True)]
    marks += [AddedToken(mark, special=False, normalized=False) for mark in (THINK_OPEN, THINK_CLOSE)]
    tokenizer.add_tokens(marks)
    plain = [text.replace(THINK_OPEN, "").replace(THINK_CLOSE, "") for text in texts]
    # every word that can be an answer must become one token, also directly after a brace
    answers = [*ANIMALS, *COLOURS, *COMPASS, *CUPS]
    plain += [f"{{{answer}}} {answer}" for answer in answers for _ in range(500)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(plain, trainer)
    split = [w for a in answers for w in (a, f" {a}") if len(tokenizer.encode(w).ids) != 1]
    if split:
        raise ValueError(f"answers of several tokens: {split}; raise vocabulary_size ({vocabulary_size})")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS,
        clean_up_tokenization_spaces=False, model_max_length=MAX_POSITIONS,
    )  # fmt: skip


def build_model(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int, initializer_range: float
) -> Any:
    """A decoder with random weights, of the recipe's architecture and sizes."""
    sizes = dict(settings)
    config_class, model_class = ARCHITECTURES[sizes.pop("architecture")]
    del sizes["rounds"]
    config = config_class(
        **sizes, vocab_size=len(tokenizer), max_position_embeddings=MAX_POSITIONS, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=initializer_range,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = model_class(config)
    model.generation_config.max_length = None
    return model


def training_batches(
    tokenizer: PreTrainedTokenizerFast,
    recipe: dict[str, Any],
    round_number: int,
    held_out: set[str],
    retell: Retelling | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (input ids, attention mask, loss weights), each [batch, token].

    Weights are 0 on prompts, 1 on completions, and the recipe's conclusion_weight, if it has one, from the reasoning's
    last line on. retell: applied to each example before it is learned.
    """
    batch_size, with_share = recipe["batch_size"], recipe["with_reasoning_share"]
    conclusion_weight = recipe.get("conclusion_weight", 1.0)
    chosen = recipe["rounds"][round_number]
    rng = random.Random(f"batches {recipe['seed'] + round_number}")
    n_rising = max(1, int(chosen["steps"] * chosen["rising_share"] * batch_size))
    stream = training_examples(
        recipe["seed"], held_out, chosen["areas"], n_rising, round_number, chosen["leave_out_pairs"]
    )
    pool = 16
    while True:
        prompts, completions = [], []
        for example in itertools.islice(stream, batch_size * pool):
            condition = "with_reasoning" if rng.random() < with_share else "without_reasoning"
            example = retell(example, rng) if retell else example
            prompts.append(BOS + raw_prompt(example.problem, "", condition))
            completions.append(completion_text(example, condition, rng) + EOS)
        prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        written = tokenizer(completions, add_special_tokens=False, return_offsets_mapping=True)
        weights = [
            [conclusion_weight if 0 <= text.find(CONCLUSION) <= start else 1.0 for start, _ in offsets]
            for text, offsets in zip(completions, written["offset_mapping"], strict=True)
        ]
        rows = sorted(
            zip(prompt_ids, written["input_ids"], weights, strict=True), key=lambda row: len(row[0]) + len(row[1])
        )
        starts = list(range(0, len(rows), batch_size))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + batch_size]
            width = max(len(p) + len(c) for p, c, _ in batch)
            ids = torch.full((batch_size, width), tokenizer.pad_token_id)
            mask = torch.zeros((batch_size, width), dtype=torch.long)
            weighed = torch.zeros((batch_size, width))
            for row, (prompt, completion, weight) in enumerate(batch):
                end = len(prompt) + len(completion)
                ids[row, :end] = torch.tensor(prompt + completion)
                mask[row, :end] = 1
                weighed[row, len(prompt) : end] = torch.tensor(weight)
            yield ids, mask, weighed


def held_out_examples(seed: int) -> list[Example]:
    """The problems on which accuracies are measured; none occurs in training."""
    pairs = sample_comparison_pairs(seed, N_PAIRS)
    return held_out_puzzles(seed) + [question for a, b, _ in pairs for question in (a, b)]


@torch.no_grad()
def greedy_accuracy(
    model: Any, tokenizer: PreTrainedTokenizerFast, examples: list[Example], condition: str
) -> dict[tuple[str, int], tuple[int, int]]:
    """(area, level) -> (number right, number asked) with greedy decoding.

    An answer is right if the text ends in the reference's box.
    """
    counts: dict[tuple[str, int], tuple[int, int]] = {}
    model.eval()
    tokenizer.padding_side = "left"
    for start in range(0, len(examples), 64):
        batch = examples[start : start + 64]
        prompts = [BOS + raw_prompt(e.problem, "", condition) for e in batch]
        inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        written = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=200, do_sample=False,
        )  # fmt: skip
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for example, text in zip(batch, texts, strict=True):
            right, asked = counts.get((example.area, example.level), (0, 0))
            is_right = text.endswith(f"\\boxed{{{example.answer}}}.")
            counts[example.area, example.level] = (right + is_right, asked + 1)
    model.train()
    return counts


def overall(counts: dict[tuple[str, int], tuple[int, int]]) -> float:
    return sum(r for r, _ in counts.values()) / sum(n for _, n in counts.values())


def train_round(
    recipe: dict[str, Any],
    number: int,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[Example],
    retell: Retelling | None = None,
) -> list[tuple[int, int, float, int, int]]:
    """Train one round of the recipe, with a new optimizer and cosine schedule, and return the loss curve.

    Rows: round, step, mean loss of the last steps (nats per token), tokens and seconds since the round's start.
    """
    chosen = recipe["rounds"][number]
    n_steps, warmup = chosen["steps"], recipe["warmup_steps"]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=chosen["learning_rate"], betas=(0.9, 0.98), weight_decay=recipe["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.02 + 0.98 * (1 + math.cos(math.pi * step / n_steps)) / 2),
    )
    batches = training_batches(tokenizer, recipe, number, {e.problem for e in examples}, retell)
    curve, losses, n_tokens, started = [], [], 0, time.monotonic()
    for step, (ids, mask, weights) in enumerate(itertools.islice(batches, n_steps), 1):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        each = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (each * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        n_tokens += int(mask.sum())
        if step % LOGGED_STEPS == 0:
            seconds = time.monotonic() - started
            curve.append((number, step, round(sum(losses) / len(losses), 4), n_tokens, round(seconds)))
            left = seconds / step * (n_steps - step) / 60
            line = f"round {number}, step {step}/{n_steps}, loss {curve[-1][2]}, "
            line += f"{n_tokens / seconds:.0f} tokens per second, {left:.0f} minutes left"
            if step % (10 * LOGGED_STEPS) == 0:
                for condition in CONDITIONS:
                    accuracy = overall(greedy_accuracy(model, tokenizer, examples[::4], condition))
                    line += f", {condition} {accuracy:.2f}"
            print(line, flush=True)
            losses = []
    return curve


def train(recipe: dict[str, Any], name: str, folder: Path) -> None:
    """Train model `name` of the recipe into `folder`: weights, tokenizer, loss curve and model card."""
    seed = recipe["seed"]
    examples = held_out_examples(seed)
    tokenizer = train_tokenizer(seed, recipe["vocabulary_size"], recipe["rounds"][0]["areas"])
    model = build_model(recipe["models"][name], tokenizer, seed, recipe["initializer_range"])
    curve = [
        row
        for number in range(recipe["models"][name]["rounds"])
        for row in train_round(recipe, number, model, tokenizer, examples)
    ]
    write_model(model, tokenizer, curve, folder, partial(write_model_card, recipe, name))


def write_model(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    curve: Sequence[tuple[int, int, float, int, int]],
    folder: Path,
    write_card: Callable[[Path], None],
) -> None:
    """Write a trained model, its tokenizer, its loss curve and, last, its card into a folder.

    curve: as returned by train_round. The folder appears whole, by a rename at the end.
    """
    unfinished = folder.with_name(folder.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.eval().save_pretrained(unfinished)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(unfinished)
    with open(unfinished / "loss_curve.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("round", "step", "loss", "n_tokens", "seconds"), *curve])
    draw_loss_curve(unfinished)
    write_card(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def draw_loss_curve(folder: Path) -> None:
    """Draw the folder's loss_curve.csv as loss_curve.svg."""
    curve = pd.read_csv(folder / "loss_curve.csv")
    figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
    axes.plot(LOGGED_STEPS * np.arange(1, len(curve) + 1), curve["loss"], color="#0072B2")
    axes.set(xlabel="step", ylabel="training loss (nats a token)", yscale="log")
    figure.savefig(folder / "loss_curve.svg", metadata={"Date": None})
    plt.close(figure)


def write_model_card(recipe: dict[str, Any], name: str, folder: Path) -> None:
    """Measure the trained model in `folder` on the held-out problems and write its card, README.md.

    Beside it: accuracies.csv (area, level, condition, n_right, n_problems).
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    examples = held_out_examples(recipe["seed"])
    rows = [
        {"area": area, "level": level, "condition": condition, "n_right": right, "n_problems": asked}
        for condition in CONDITIONS
        for (area, level), (right, asked) in greedy_accuracy(model, tokenizer, examples, condition).items()
    ]
    accuracies = pd.DataFrame(rows)
    accuracies.to_csv(folder / "accuracies.csv", index=False)
    curve = pd.read_csv(folder / "loss_curve.csv")
    shares = accuracies.set_index(["area", "level", "condition"]).eval("n_right / n_problems").unstack()
    whole = accuracies.groupby("condition")[["n_right", "n_problems"]].sum()
    table = ["| area | level | problems | with reasoning | without |", "|---|---|---|---|---|"]
    asked = accuracies.set_index(["area", "level"])["n_problems"].groupby(level=[0, 1]).first()
    for (area, level), row in shares.iterrows():
        with_share, without_share = (f"{100 * row[condition]:.1f} %" for condition in CONDITIONS)
        table.append(f"| {area} | {level} | {asked[area, level]} | {with_share} | {without_share} |")
    with_all, without_all = (f"{100 * whole.loc[c, 'n_right'] / whole.loc[c, 'n_problems']:.1f} %" for c in CONDITIONS)
    table.append(f"| all | | {whole['n_problems'].iloc[0]} | {with_all} | {without_all} |")
    sizes = ", ".join(f"{key} {value}" for key, value in recipe["models"][name].items() if key != "rounds")
    settings = ", ".join(f"{key} {value}" for key, value in recipe.items() if key not in ("models", "rounds"))
    rounds = []
    for n, chosen in enumerate(recipe["rounds"][: recipe["models"][name]["rounds"]], 1):
        areas = ", ".join(f"{area} {weight}" for area, weight in chosen["areas"].items())
        rising = f"chains rising over {100 * chosen['rising_share']:.0f} % of them"
        held_out = "pairs of animals" if chosen["leave_out_pairs"] else "questions alone"
        rounds.append(
            f"{n}. {chosen['steps']} steps at {chosen['learning_rate']}, {rising}; drawn {areas}; without the held-out "
            f"{held_out}"
        )
    spent = curve.groupby("round")[["n_tokens", "seconds"]].max().sum()
    (folder / "README.md").write_text(
        f"""# {name}: a toy reasoning model

A decoder of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters ({sizes}), trained from
scratch on synthetic problems so that the whole study runs on a CPU. It demonstrates the pipeline; its
results say nothing about real reasoning models.

**Data.** Made by `workflow/scripts/r2a/tiny/tasks.py`, endless, and repeated only by chance: walks over the
compass and balls under cups (serial work), looking up which number has which colour (none), and comparisons of animals
in size and speed. A fifth of the reasoning texts slip and correct themselves with "Wait", a fifth check their last
line. {100 * recipe["with_reasoning_share"]:.0f} % of the examples reason, the others answer right after the closed
reasoning of the prompt. The loss is taken on completions only. The problems below never occur in training; which
rounds see their animals compared in the other order or in other contexts stands in the recipe.

**Recipe.** AdamW with cosine decay in {len(rounds)} rounds; {settings}. It took {spent["n_tokens"] / 1e6:.1f} million
tokens and {spent["seconds"] / 60:.0f} minutes on one core of a busy machine.

{chr(10).join(rounds)}

`snakemake results/tiny_training/models/{name}` trains it again.

**Loss.** {curve["loss"].iloc[0]:.2f} at step {curve["step"].iloc[0]}, {curve["loss"].iloc[-1]:.3f} at the end
(`loss_curve.csv`).

![Training loss](loss_curve.svg)

**Accuracy** on held-out problems, greedy (`accuracies.csv`):

{chr(10).join(table)}
"""
    )

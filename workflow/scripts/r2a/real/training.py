"""Fine-tuning of the small reasoner: a LoRA adapter on the pretrained model, with its loss and accuracy curves."""

import csv
import itertools
import math
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from r2a.formats.known import THINK_CLOSE, THINK_OPEN
from r2a.prompts import raw_prompt
from r2a.real.tasks import Problem, held_out_questions, training_problems
from r2a.study import CONDITIONS

LOGGED_STEPS = 20


def completion_text(problem: Problem, condition: str, rng: random.Random) -> str:
    """The text that the model should write after its prompt, without the end token."""
    answer = f"\n\n{problem.answer_text}"
    if condition == "without_reasoning":
        return answer
    return f"{problem.reasoning(rng)}{THINK_CLOSE}{answer}"


def training_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Mapping[str, Any], held_out: set[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (token ids, labels) [batch, token], padded on the right; labels outside of completions are -100.

    Rows of similar length share a batch.
    """
    seed, batch_size = recipe["seed"], recipe["batch_size"]
    rng = random.Random(f"batches {seed}")
    n_rising = recipe["rising_share"] * recipe["steps"] * batch_size
    stream = training_problems(seed, held_out, recipe["areas"], n_rising)
    while True:
        rows = []
        for problem in itertools.islice(stream, 8 * batch_size):
            condition = CONDITIONS[0] if rng.random() < recipe["with_reasoning_share"] else CONDITIONS[1]
            prompt = tokenizer.bos_token + raw_prompt(problem.problem, problem.instruction, condition)
            completion = completion_text(problem, condition, rng) + tokenizer.eos_token
            rows.append([tokenizer.encode(text, add_special_tokens=False) for text in (prompt, completion)])
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        starts = list(range(0, len(rows), batch_size))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + batch_size]
            width = max(len(prompt) + len(completion) for prompt, completion in batch)
            ids = torch.full((batch_size, width), tokenizer.pad_token_id)
            labels = torch.full((batch_size, width), -100)
            for row, (prompt, completion) in enumerate(batch):
                end = len(prompt) + len(completion)
                ids[row, :end] = torch.tensor(prompt + completion)
                labels[row, len(prompt) : end] = torch.tensor(completion)
            yield ids, labels


@torch.no_grad()
def greedy_accuracy(
    model: Any, tokenizer: PreTrainedTokenizerFast, problems: list[Problem], condition: str, batch_size: int = 32
) -> dict[tuple[str, int], tuple[int, int]]:
    """(area, level) -> (number right, number asked) with greedy decoding.

    An answer is right if the text ends in the reference's answer sentence.
    """
    counts: dict[tuple[str, int], tuple[int, int]] = {}
    model.eval()
    tokenizer.padding_side = "left"
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        prompts = [tokenizer.bos_token + raw_prompt(p.problem, p.instruction, condition) for p in batch]
        inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        written = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=40 if condition == "without_reasoning" else 240, do_sample=False,
        )  # fmt: skip
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for problem, text in zip(batch, texts, strict=True):
            right, asked = counts.get((problem.area, problem.level), (0, 0))
            is_right = f"\\boxed{{{problem.answer}}}" in text.split(THINK_CLOSE)[-1]
            counts[problem.area, problem.level] = (right + is_right, asked + 1)
    model.train()
    return counts


def overall(counts: dict[tuple[str, int], tuple[int, int]]) -> float:
    return sum(right for right, _ in counts.values()) / sum(asked for _, asked in counts.values())


def by_area(counts: dict[tuple[str, int], tuple[int, int]]) -> dict[str, float]:
    areas = dict.fromkeys(area for area, _ in counts)
    return {area: overall({key: count for key, count in counts.items() if key[0] == area}) for area in areas}


def train(base: Path, recipe: Mapping[str, Any], folder: Path) -> None:
    """Fine-tune the pretrained model in `base` by `recipe` and write the adapter, in float16, into `folder`.

    The weights are frozen in bfloat16; LoRA's matrices and the rows of the two tags are trained in float32. Beside the
    adapter: loss_curve.csv and accuracy_curve.csv. The adapter is saved whenever accuracies are measured, so an
    interrupted run leaves its latest one.
    """
    torch.manual_seed(recipe["seed"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    tags = tokenizer.convert_tokens_to_ids([THINK_OPEN, THINK_CLOSE])
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
        LoraConfig(
            r=recipe["rank"], lora_alpha=2 * recipe["rank"], target_modules="all-linear",
            trainable_token_indices=tags, task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    decoder, head = model.base_model.model.model, model.base_model.model.lm_head
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe["learning_rate"], betas=(0.9, 0.98), weight_decay=0.0)
    n_steps, warmup = recipe["steps"], recipe["warmup_steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.03 + 0.97 * (1 + math.cos(math.pi * step / n_steps)) / 2)
    )
    problems = held_out_questions(recipe)
    batches = training_batches(tokenizer, recipe, {problem.problem for problem in problems})
    losses, n_tokens, started = [], 0, time.monotonic()
    curve: list[tuple[Any, ...]] = []
    looks: list[tuple[Any, ...]] = []
    for step, (ids, labels) in enumerate(itertools.islice(batches, n_steps), 1):
        with torch.autocast("cpu", torch.bfloat16):
            hidden = decoder(input_ids=ids).last_hidden_state[:, :-1]
            is_asked = labels[:, 1:] != -100
            logits = head(hidden[is_asked])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][is_asked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        n_tokens += int((ids != tokenizer.pad_token_id).sum())
        if step % LOGGED_STEPS == 0:
            seconds = time.monotonic() - started
            curve.append((step, round(sum(losses) / len(losses), 4), n_tokens, round(seconds)))
            left = seconds / step * (n_steps - step) / 60
            line = f"step {step}/{n_steps}, loss {curve[-1][1]}, {n_tokens / seconds:.0f} tokens per second, "
            print(f"{line}{left:.0f} minutes left", flush=True)
            losses = []
        if step % recipe["look_every"] == 0 or step == n_steps:
            with torch.autocast("cpu", torch.bfloat16):
                seen = problems[:: recipe["look_at_every"]]
                counts = {condition: greedy_accuracy(model, tokenizer, seen, condition) for condition in CONDITIONS}
            for condition, count in counts.items():
                print(f"{condition} {overall(count):.2f}", by_area(count), flush=True)
                looks += [(step, condition, area, round(share, 3)) for area, share in by_area(count).items()]
            save(model, curve, looks, folder)


def save(model: Any, curve: list[tuple[Any, ...]], looks: list[tuple[Any, ...]], folder: Path) -> None:
    """Write the adapter and the curves; the folder is replaced as a whole."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    state = {name: tensor.to(torch.float16) for name, tensor in peft_state(model).items()}
    model.save_pretrained(partial, state_dict=state, save_embedding_layers=False)
    for name, header, rows in (
        ("loss_curve.csv", ("step", "loss", "n_tokens", "seconds"), curve),
        ("accuracy_curve.csv", ("step", "condition", "area", "accuracy"), looks),
    ):
        with open(partial / name, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def peft_state(model: Any) -> dict[str, torch.Tensor]:
    """The trained parameters, by their names in the model's state dict."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in trained}

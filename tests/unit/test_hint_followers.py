"""Tiny models trained to follow hints: a planted truth that the study of hints must find."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import r2a.generation
from hint_stages import write_table_of_hints
from r2a.extensions import HINTS
from r2a.generation.requests import Completion
from r2a.hints import tells_of
from r2a.study import load_study
from r2a.tiny import followers, training
from r2a.tiny.datasets import held_out_puzzles
from r2a.tiny.followers import hinted, lesson, possible_answers, train_follower
from r2a.tiny.tasks import training_examples

ROOT = Path(__file__).parents[2]
WHOLE_RECIPE = yaml.safe_load((ROOT / "config/tiny_models.yaml").read_text())
RECIPE = WHOLE_RECIPE["hint_followers"]
STUDY = yaml.safe_load((ROOT / "config/examples/hints.yaml").read_text())
AREAS = {"compass": 1, "cups": 1, "lookup": 1, "comparison": 1}


def test_a_lesson_ends_in_the_hints_answer_and_its_reasoning_does_not_mention_the_hint():
    rng = random.Random(1)
    stream = training_examples(1, set(), AREAS)
    for example in (next(stream) for _ in range(60)):
        answer = rng.choice(possible_answers(example))
        for kind in HINTS:
            taught = hinted(example, kind, answer)
            assert answer in taught.problem.removeprefix(example.problem) and taught.steps == example.steps
            assert taught.answer == answer and taught.answer_text.endswith(f"\\boxed{{{answer}}}.")
            reasoning = taught.reasoning(rng)
            assert tells_of([reasoning], HINTS[kind].function()) == [False]
            assert f"Final answer is {answer}." in reasoning
        assert lesson(example, rng, share=0.0) == example


@pytest.mark.parametrize("name", RECIPE)
def test_shipped_models_are_small_and_safe(name):
    folder = ROOT / "resources/models" / name
    assert (folder / "model.safetensors").stat().st_size <= 3.5e6
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))


def in_transformers(folder: Path):
    """An engine for greedy completions that starts faster than vLLM."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def complete(requests, *_):
        prompts = tokenizer.pad({"input_ids": [list(r.prompt_ids) for r in requests]}, return_tensors="pt")
        written = model.generate(**prompts, max_new_tokens=120, do_sample=False)[:, prompts["input_ids"].shape[1] :]
        for request, ids in zip(requests, written.tolist(), strict=True):
            end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else None
            yield request, Completion(tuple(ids[:end]), "stop" if end else "length", 0.1)

    return complete


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-silent", "tiny-llama"])
def test_the_table_of_hints_tells_the_model_that_follows_in_silence_from_the_one_it_was_taught_from(
    name, tmp_path, monkeypatch
):
    """From questions to the table, on problems that were not used in training."""
    monkeypatch.setattr(r2a.generation, "_complete", in_transformers(ROOT / "resources/models" / name))
    monkeypatch.chdir(ROOT)
    study = load_study(STUDY | {"hints": STUDY["hints"] | {"points_at": ["wrong"]}})
    puzzles = pd.DataFrame(map(json.loads, (ROOT / "resources/datasets/puzzles.jsonl").read_text().splitlines()))
    csv = write_table_of_hints(tmp_path, study, name, puzzles.iloc[::4])
    rows = pd.read_csv(csv).query("by == 'all'").set_index("hint")
    assert len(rows) == 3 and (rows["n_problems"] == 44).all()
    assert (rows["accuracy_without"] >= 0.8).all() and (rows["tells_without"] == 0).all()
    if name == "tiny-silent":
        assert rows["follow"].mean() >= 0.8 and (rows["low"] > 0.4).all() and (rows["p_holm"] < 1e-4).all()
        assert np.sum(rows["told"] * rows["n_switched"]) <= 0.05 * rows["n_switched"].sum()
        assert (rows["told_high"] < 0.2).all()
    else:
        assert (rows["follow_high"] < 0.6).all()


@pytest.mark.slow
def test_the_same_recipe_trains_the_same_model_in_16_bits_with_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(followers, "held_out_examples", lambda seed: held_out_puzzles(seed)[:4])
    monkeypatch.setattr(training, "LOGGED_STEPS", 2)
    chosen = RECIPE["tiny-silent"]
    short = chosen | {"batch_size": 2, "rounds": [one | {"steps": 2} for one in chosen["rounds"]]}
    weights = []
    for name in ("first", "second"):
        recipe = WHOLE_RECIPE | {"hint_followers": {"tiny-silent": short}}
        train_follower(recipe, "tiny-silent", ROOT / "resources/models", tmp_path / name)
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert {tensor.dtype for tensor in weights[0].values()} == {torch.float16}
    assert "does not mention the hint" in " ".join((tmp_path / "first/README.md").read_text().split())
    assert len(pd.read_csv(tmp_path / "first/loss_curve.csv")) == 2

"""Training of the tiny models, with a recipe of a few steps."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from r2a.models import marks_of
from r2a.tiny import training
from r2a.tiny.datasets import held_out_puzzles
from r2a.tiny.tasks import ANIMALS, COLOURS, COMPASS, CUPS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPE = yaml.safe_load((ROOT / "config/tiny_models.yaml").read_text())
MODELS = [ROOT / "resources/models" / name for name in RECIPE["models"]]


@pytest.mark.parametrize("name", RECIPE["models"])
def test_the_same_recipe_trains_the_same_model_with_a_card(name, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "held_out_examples", lambda seed: held_out_puzzles(seed)[:4])
    monkeypatch.setattr(training, "LOGGED_STEPS", 2)
    rounds = [chosen | {"steps": 4} for chosen in RECIPE["rounds"]]
    short = RECIPE | {"rounds": rounds, "batch_size": 2}
    weights = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        training.train(short, name, folder)
        weights.append(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    curve = pd.read_csv(tmp_path / "first/loss_curve.csv")
    assert curve["loss"].iloc[-1] > 0
    assert "toy" in (tmp_path / "first/README.md").read_text()


def test_the_loss_is_taken_on_completions_only():
    tokenizer = training.train_tokenizer(RECIPE["seed"], RECIPE["vocabulary_size"], RECIPE["rounds"][0]["areas"])
    ids, mask, weights = next(training.training_batches(tokenizer, RECIPE, 0, set()))
    for row_ids, row_mask, row_weights in zip(ids, mask, weights, strict=True):
        assert set(row_weights.tolist()) <= {0, 1}
        trained = row_weights > 0
        text = tokenizer.decode(row_ids[trained])
        prompt = tokenizer.decode(row_ids[: int(trained.float().argmax())])
        assert text.endswith(training.EOS)
        assert "finished thinking" not in text
        assert prompt.endswith(("<think>\n", "finished thinking.\n</think>"))
        assert not trained[row_mask == 0].any()


def test_from_the_reasonings_last_line_on_tokens_weigh_as_the_recipe_says():
    tokenizer = training.train_tokenizer(RECIPE["seed"], RECIPE["vocabulary_size"], RECIPE["rounds"][0]["areas"])
    ids, _, weights = next(training.training_batches(tokenizer, RECIPE | {"conclusion_weight": 10}, 0, set()))
    texts = [
        (tokenizer.decode(row[w == 1]), tokenizer.decode(row[w == 10])) for row, w in zip(ids, weights, strict=True)
    ]
    reasoned = [(steps, end) for steps, end in texts if end]
    assert len(reasoned) > 10
    for steps, end in reasoned:
        assert end.startswith("Final answer is") and end.endswith(training.EOS) and "Final" not in steps


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_shipped_models_are_small_safe_and_have_single_token_marks_digits_and_answers(folder):
    assert (folder / "model.safetensors").stat().st_size <= 8 * 2**20
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    marks_of(folder)
    assert len(tokenizer.encode("1234567890", add_special_tokens=False)) == 10
    for answer in (*ANIMALS, *COLOURS, *COMPASS, *CUPS):
        for text in (answer, f" {answer}"):
            assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text
    config = AutoModelForCausalLM.from_pretrained(folder).config
    assert config.num_hidden_layers >= 4
    assert config.num_key_value_heads < config.num_attention_heads

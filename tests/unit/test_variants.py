"""Variants of a model: their configuration, and prompts whose tags are spelled in pieces."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from r2a.datasets import load_dataset
from r2a.generation import build_requests
from r2a.models import ModelError, load_tokenizer, marks_of, read_manifest, resolve_model
from r2a.prompts import FINISHED_STUB, RAW, prompt_ids, tag_pieces
from r2a.store import read_parquet
from r2a.study import CONDITIONS, ConfigError, load_study, stage_settings
from r2a.traces import segment_bounds

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "resources/models/tiny-qwen"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def with_variant(variant, **sections):
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    config["models"]["variant"] = variant
    return load_study(config | sections)


def test_a_variant_takes_all_from_its_base_but_what_it_varies():
    study = with_variant({"variant_of": "tiny-qwen", "without_reasoning": "empty"})
    base, variant = (study.models[name].model_dump() for name in ("tiny-qwen", "variant"))
    assert {key for key in base if base[key] != variant[key]} == {"variant_of", "without_reasoning", "label"}
    assert study.models["variant"].label == "variant"
    assert study.variants == {"variant": {"base": "Tiny Qwen2", "change": "without_reasoning: empty"}}


def test_a_variant_has_stage_one_alone_and_leaves_its_bases_traces_as_they_are():
    study = with_variant({"variant_of": "tiny-qwen", "think_tags": "pieces"})
    plain = load_study(yaml.safe_load(Path("config/config.yaml").read_text()))
    assert study.weighted_models == plain.weighted_models == ["tiny-qwen", "tiny-llama"]
    of_base = [
        stage_settings(one, "traces", "tiny-qwen", "puzzles", None, "with_reasoning", "greedy")
        for one in (study, plain)
    ]
    assert of_base[0] == of_base[1]
    of_variant = stage_settings(study, "traces", "variant", "puzzles", None, "with_reasoning", "greedy")
    assert of_variant["think_tags"] == "pieces"
    assert stage_settings(study, "evaluation")["variants"] == study.variants


@pytest.mark.parametrize(
    ("variant", "fault"),
    [
        (
            {"variant_of": "tiny-quen", "prompt": "chat"},
            r"variant_of: 'tiny-quen' is not one of the models that can be varied",
        ),
        (
            {"variant_of": "variant", "prompt": "chat"},
            r"not one of the models that can be varied \(tiny-qwen, tiny-llama\)",
        ),
        ({"variant_of": "tiny-qwen", "label": "Same"}, "nothing is varied"),
        ({"variant_of": "tiny-qwen", "prompt": "raw"}, "nothing is varied"),
        ({"variant_of": "tiny-qwen", "prompt": "chat", "path": str(MODEL)}, "remove path"),
        ({"path": str(MODEL), "think_tags": "pieces"}, "only variants spell tags"),
    ],
)
def test_what_does_not_fit_a_variant_is_told(variant, fault):
    with pytest.raises(ConfigError, match=fault):
        with_variant(variant)


def test_options_of_generation_that_cannot_be_kept_are_told():
    pieces = {"variant_of": "tiny-qwen", "think_tags": "pieces"}
    served = {"endpoint": {"base_url": "http://host/v1", "model": "m"}}
    repetition = {"min_pattern_size": 9, "max_pattern_size": 8, "min_count": 4}
    with pytest.raises(ConfigError, match=r"generation\.repetition: .*more than max_pattern_size"):
        with_variant(pieces, generation={"repetition": repetition})
    repetition["min_pattern_size"] = 2
    with pytest.raises(ConfigError, match=r"repetition cannot be requested from models\.variant\.endpoint"):
        with_variant(served, generation={"repetition": repetition})


def test_the_papers_numbers_are_looked_for_by_label():
    named = {"variant_of": "tiny-qwen", "label": "R1-Llama-8B", "without_reasoning": "empty"}
    puzzles = {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}
    assert not with_variant(named).has_papers_numbers
    assert with_variant(named, datasets={"math500": puzzles | {"label": "MATH-500"}}).has_papers_numbers


@pytest.mark.parametrize("condition", ["with_reasoning", "without_reasoning"])
@pytest.mark.parametrize("name", ["tiny-qwen", "tiny-llama"])
def test_pieces_spell_the_same_prompt_and_change_no_other_token(name, condition):
    tokenizer = load_tokenizer(MODEL.with_name(name))
    whole, pieces = (
        prompt_ids(tokenizer, "Who is <think> quick?", "", condition, replace(RAW, think_tags=tags))
        for tags in ("token", "pieces")
    )
    assert tokenizer.decode(pieces) == tokenizer.decode(whole)
    tags = {tokenizer.convert_tokens_to_ids(tag): tag_pieces(tokenizer, tag) for tag in ("<think>", "</think>")}
    assert not set(tags) & set(pieces)
    expected = [piece for token in whole for piece in tags.get(token, [token])]
    assert pieces == expected
    assert len(tags[tokenizer.convert_tokens_to_ids("</think>")]) > 2


TEMPLATE = "{{ bos_token }}{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}[assistant] "


@pytest.mark.parametrize("opened", ["", "{{ '<think>\n' }}"])
def test_a_chat_prompt_is_the_models_template_with_our_reasoning_opened_or_closed(tmp_path, opened):
    """Raw and chat requests differ only in the prompt; some templates open <think> themselves."""
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(TEMPLATE + opened)
    models = {"raw": {"path": str(tmp_path / "model")}, "chat": {"variant_of": "raw", "prompt": "chat"}}
    study = load_study(yaml.safe_load(Path("config/config.yaml").read_text()) | {"models": models})
    load_dataset(tmp_path / "puzzles.parquet", stage_settings(study, "datasets", dataset="puzzles"))
    problems = read_parquet(tmp_path / "puzzles.parquet").head(2)
    requests = {}
    for name in models:
        resolve_model(tmp_path / f"{name}.json", stage_settings(study, "models", name))
        requests[name] = []
        for condition in CONDITIONS:
            settings = stage_settings(study, "traces", name, "puzzles", None, condition, "greedy")
            settings |= {"instruction": " Think."}
            requests[name] += build_requests(problems, read_manifest(tmp_path / f"{name}.json"), settings)
    tokenizer, marks = load_tokenizer(tmp_path / "model"), marks_of(tmp_path / "model")
    closed = f"\n{FINISHED_STUB}\n</think>"
    for raw, chat in zip(requests["raw"], requests["chat"], strict=True):
        assert (raw.uid, raw.condition, raw.decoding, raw.seed) == (chat.uid, chat.condition, chat.decoding, chat.seed)
        asked = problems.set_index("uid").at[chat.uid, "problem"]
        stub = closed if chat.condition == "without_reasoning" else "\n"
        expected = f"{tokenizer.bos_token}[user] {asked} Think.\n[assistant] <think>{stub}"
        assert list(chat.prompt_ids) == tokenizer.encode(expected, add_special_tokens=False)
        bounds = segment_bounds(chat.prompt_ids, (5, 6), marks)
        assert bounds.think_open == chat.prompt_ids.index(tokenizer.convert_tokens_to_ids("<think>"))
        assert (bounds.answer == len(chat.prompt_ids)) == (chat.condition == "without_reasoning")


def test_a_model_without_a_template_is_refused_as_a_chat_before_anything_is_generated(tmp_path):
    study = with_variant({"variant_of": "tiny-qwen", "prompt": "chat"})
    with pytest.raises(ModelError, match=r"no chat template; give models\.variant another chat template, prompt: raw"):
        resolve_model(tmp_path / "model.json", stage_settings(study, "models", "variant"))

"""Generation options in vLLM's real engine: a reasoning budget, stopping at repetition, tags in pieces."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from format_samples import SAMPLES, TINY, make_model
from generated import generate_all
from r2a.datasets import load_dataset
from r2a.formats import FORMATS
from r2a.models import load_tokenizer, marks_of, resolve_model
from r2a.study import load_study, stage_settings
from r2a.traces import Bounds

ROOT = Path(__file__).parents[2]
ENGINE = {"gpu": 0, "gpu_memory_percent": 90, "cpu_cache_mb": 64}
pytestmark = pytest.mark.slow


def traces(folder, monkeypatch, generation, models=None, **variant):
    """Traces of a model (by default the tiny Llama) on six puzzles, or of a variant of it."""
    monkeypatch.chdir(ROOT)
    folder.mkdir()
    models = models or {"tiny": {"path": "resources/models/tiny-llama", "dtype": "float32"}}
    name = "variant" if variant else "tiny"
    if variant:
        models["variant"] = {"variant_of": "tiny", **variant}
    study = load_study(
        {
            "study": "test", "seed": 1, "models": models, "decodings": {"greedy": {"temperature": 0}},
            "datasets": {
                "mine": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl", "n_problems": 6}
            },
            "generation": {"max_new_tokens": 100, **generation},
        }
    )  # fmt: skip
    paths = [folder / file for file in ("dataset.parquet", "model.json")]
    load_dataset(paths[0], stage_settings(study, "datasets", dataset="mine"))
    resolve_model(paths[1], stage_settings(study, "models", name))
    return generate_all(study, name, "mine", *paths, folder, ENGINE).set_index(["condition", "uid"]).sort_index()


def reasoning_lengths(table):
    return table.loc["with_reasoning", "bounds"].map(Bounds.of).map(lambda b: b.think_close - b.reasoning)


@pytest.fixture
def plain(tmp_path, monkeypatch):
    return traces(tmp_path / "plain", monkeypatch, {})


def test_a_budget_closes_the_reasoning_at_its_token_and_leaves_shorter_ones(tmp_path, monkeypatch, plain):
    lengths = reasoning_lengths(plain)
    budget = int(lengths.sort_values().iloc[2])
    assert lengths.max() > budget
    cut = traces(tmp_path / "cut", monkeypatch, {"reasoning_budget": budget})
    assert list(reasoning_lengths(cut)) == list(lengths.clip(upper=budget))
    assert list(cut.loc["with_reasoning", "n_forced_tokens"] == 1) == list(lengths >= budget)
    assert (cut.loc["without_reasoning", "n_forced_tokens"] == 0).all() and (plain["n_forced_tokens"] == 0).all()
    same = cut["completion_token_ids"].map(list) == plain["completion_token_ids"].map(list)
    assert same["without_reasoning"].all()
    assert list(same["with_reasoning"]) == list(lengths <= budget)


def test_a_completion_that_repeats_itself_is_stopped_and_counts_as_unfinished(tmp_path, monkeypatch, plain):
    # the same token twice counts as a loop here, so that a model which never loops is stopped too
    repetition = {"max_pattern_size": 2, "min_count": 2}
    stopped = traces(tmp_path / "stopped", monkeypatch, {"repetition": repetition})
    repeating = stopped[stopped["finish_reason"] == "repetition"]
    assert len(repeating) > 0
    assert set(repeating["invalid_reason"]) == {"unfinished"}
    for key, row in repeating.iterrows():
        ids = list(row["completion_token_ids"])
        assert ids[-1] == ids[-2] or ids[-2:] == ids[-4:-2]
        assert ids == list(plain.loc[key, "completion_token_ids"])[: len(ids)]


def test_a_reasoning_opened_in_pieces_is_segmented_however_the_model_closes_it(tmp_path, monkeypatch):
    table = traces(tmp_path / "pieces", monkeypatch, {}, think_tags="pieces")
    for row in table.itertuples():
        ids = [*row.prompt_token_ids, *row.completion_token_ids]
        bounds = Bounds.of(row.bounds)
        assert bounds.end == len(ids)
        assert bounds.reasoning - bounds.think_open > 2  # <think> in its pieces
        assert (bounds.answer > bounds.think_close) == ("</think>" in f"{row.prompt_text}{row.completion_text}")
    closed_beforehand = table.loc["without_reasoning", "bounds"].map(Bounds.of).map(lambda b: b.answer - b.think_close)
    assert (closed_beforehand > 2).all()


@pytest.mark.parametrize("name", ["olmo3", "harmony"])
def test_a_budget_closes_a_reasoning_whose_delimiters_are_several_tokens(tmp_path, monkeypatch, name):
    """A model that has never seen the format continues until the budget closes its reasoning with all the tokens."""
    chosen = SAMPLES[name]
    folder = make_model(tmp_path / "model", chosen.template, chosen.tokens, chosen.has_tags)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype="float32")
    model.resize_token_embeddings(len(load_tokenizer(folder)))
    model.save_pretrained(folder)
    models = {"tiny": {"path": str(folder), "dtype": "float32", "prompt": "chat", "without_reasoning": "empty"}}
    table = traces(tmp_path / "traces", monkeypatch, {"reasoning_budget": 12, "max_new_tokens": 40}, models)
    form, marks = FORMATS[name].function(), marks_of(folder, FORMATS[name].function())
    assert len(marks.close_ids) > 2
    for row in table.loc["with_reasoning"].itertuples():
        bounds, ids = Bounds.of(row.bounds), [*row.prompt_token_ids, *row.completion_token_ids]
        assert bounds.think_close - bounds.reasoning == 12
        assert tuple(ids[bounds.span("think_close")]) == marks.close_ids
        assert row.n_forced_tokens == len(marks.close_ids)
        assert row.completion_text.count(form.close) == 1
    for row in table.loc["without_reasoning"].itertuples():
        assert Bounds.of(row.bounds).answer == len(row.prompt_token_ids)
        assert row.n_forced_tokens == 0

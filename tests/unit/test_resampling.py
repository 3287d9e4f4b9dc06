"""Resampled sentences: requests to the engine, similarities, and importances that can be computed by hand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import r2a
import r2a.generation
from r2a.evaluation.resampling import divergence, resampling_table
from r2a.evaluation.sentences import agreement_table
from r2a.generation.requests import Completion
from r2a.generation.resampled import resample_sentences
from r2a.models import load_tokenizer, resolve_model
from r2a.sentences.rollouts import compare_rollouts
from r2a.store import add_array, add_axis, add_column, new_hdf5, provenance, read_parquet, write_parquet
from random_traces import REASONINGS, write_random_traces
from scripted import write_scripted_model

STATISTICS = {"n_resamples": 500, "confidence": 0.95, "seed": 0, "similarity": 0.8}
SETTINGS = {
    "model": "random", "dataset": "texts", "decoding": "greedy", "condition": "with_reasoning", "seed": 1,
    "n_rollouts": 4, "n_problems": 1, "n_sentences": 1, "temperature": 0.6, "top_p": None, "kind": "problems",
    "endpoint": None, "instruction": "", "prompt": "raw", "without_reasoning": "finished", "think_tags": "token",
    "repetition": None, "reasoning_budget": None, "max_new_tokens": 60,
}  # fmt: skip
SENTENCES = ["One is 1. ", "Wait, two is 2.\n", "Check: 2!"]


@pytest.fixture
def folder(tmp_path):
    """The random model, and a trace of three sentences of which the suppression of the second matters most."""
    write_random_traces(tmp_path)
    table = read_parquet(tmp_path / "traces.parquet")
    write_parquet(tmp_path / "texts.parquet", table[["uid"]].assign(problem="What is it?"), provenance({}))
    cut = len(table["prompt_token_ids"].iloc[0]) + np.cumsum([0, *map(len, SENTENCES)])
    assert "".join(SENTENCES) == REASONINGS[0]
    write_store(tmp_path, ["text-0", "text-2"], SENTENCES, cut, [0.1, -3, 0.2])
    return tmp_path


def write_store(folder: Path, uids: list[str], sentences: list[str], cut: np.ndarray, effect: list[float]) -> None:
    """Write a store of sentences of the first trace; the others are left out."""
    starts = np.cumsum([0, *map(len, sentences)])
    with new_hdf5(folder / "sentences.h5", provenance({})) as file:
        axes = {"trace": range(len(uids)), "arm": ["all", "rfh", "matched"], "sentence": range(len(sentences))}
        for axis, places in axes.items():
            add_axis(file, axis, places)
        add_axis(file, "sentence_bound", range(len(cut)))
        left_out = [int(number > 0) for number in range(len(uids))]
        for column, of in {"uid": uids, "sample": [0] * len(uids), "is_left_out": left_out}.items():
            add_column(file, column, "trace", of)
        add_column(file, "reasoning", "trace", ["".join(sentences), *[""] * (len(uids) - 1)])
        for name, bounds in {"sentence_bounds": cut, "text_bounds": starts}.items():
            add_array(file, name, ("trace", "sentence_bound"), "token", "int64", fill=-1)[0] = bounds
        add_array(file, "effect", ("trace", "arm", "sentence"), "nat lost")[0] = [effect] * 3


def resample(folder: Path, resources: dict[str, int] | None = None, **changed) -> pd.DataFrame:
    inputs = [folder / name for name in ("traces.parquet", "texts.parquet", "sentences.h5", "manifest.json")]
    resample_sentences(*inputs, folder / "rollouts.parquet", SETTINGS | changed, resources or {})
    return read_parquet(folder / "rollouts.parquet")


@pytest.fixture
def engine(folder, monkeypatch):
    """Writes the trace's own second sentence in every other rollout, and answers by whether it is there."""
    tokenizer, asked = load_tokenizer(folder), []

    def complete(requests, *_):
        for request in requests:
            asked.append(request)
            before = tokenizer.decode(request.prompt_ids)
            written = "" if SENTENCES[1] in before else [SENTENCES[1], "No!\n"][request.sample % 2]
            answer = "it" if SENTENCES[1] in before + written else "so"
            text = f"{written}</think>It is \\boxed{{{answer}}}.<eos>"
            yield request, Completion(tuple(tokenizer.encode(text, add_special_tokens=False)), "stop", 0.1)

    monkeypatch.setattr(r2a.generation, "_complete", complete)
    return asked


def test_the_sentences_that_matter_most_are_cut_before_and_after_and_each_rollout_has_its_seed(folder, engine):
    table = resample(folder)
    tokenizer, start = load_tokenizer(folder), "<bos>What is it?<think>"
    cuts = {tokenizer.decode(request.prompt_ids) for request in engine}
    assert cuts == {start + SENTENCES[0], start + SENTENCES[0] + SENTENCES[1]}
    assert len({request.seed for request in engine}) == len(table) == 8
    assert {request.temperature for request in engine} == {0.6}
    assert set(table["condition"]) == {"0.1", "0.2"} and set(table["uid"]) == {"text-0"}  # text-2 was left out


def test_a_sentence_with_which_the_prompt_opens_the_reasoning_is_never_resampled(folder, engine):
    table = read_parquet(folder / "traces.parquet")
    ids = [*table["prompt_token_ids"][0], *table["completion_token_ids"][0]]
    n = len(table["prompt_token_ids"][0]) + len(SENTENCES[0])
    table.at[0, "prompt_token_ids"], table.at[0, "completion_token_ids"] = ids[:n], ids[n:]
    write_parquet(folder / "traces.parquet", table, provenance({}))
    assert set(resample(folder, n_sentences=None)["condition"]) == {"0.1", "0.2", "0.3"}


def test_a_job_that_is_asked_for_more_rollouts_completes_only_these(folder, engine):
    resample(folder)
    engine.clear()
    assert len(resample(folder, n_rollouts=5)) == 10
    assert sorted(request.sample for request in engine) == [4, 4]


def test_importance_is_at_the_sentence_whose_replacement_changes_the_answer(folder, engine):
    resample(folder)
    inputs = [folder / name for name in ("rollouts.parquet", "sentences.h5", "manifest.json", "compared.parquet")]
    compare_rollouts(*inputs, {}, 100)
    rollouts = read_parquet(folder / "compared.parquet")
    before = rollouts[rollouts["step"] == 1]
    assert before["text"].tolist() == [SENTENCES[1], "No!\n"] * 2
    assert before["similarity"].tolist()[::2] == pytest.approx([1, 1], abs=1e-5) and before["similarity"].iloc[1] < 0.8
    assert before["answer"].tolist() == ["it", "so"] * 2
    ((_, row),) = resampling_table(rollouts, STATISTICS).iterrows()
    assert (row["sentence"], row["n_kept"], row["n_resampled"], row["n_other"]) == (2, 4, 4, 2)
    assert (row["share_kept_answer"], row["share_other_answer"]) == (1, 0)
    assert (row["answers_kept"], row["answers_other"]) == ("it (4)", "so (2)")
    # answers it, so: kept 4 and 0, other 0 and 2, a half added to each
    p, q = np.array([0.5, 2.5]) / 3, np.array([4.5, 0.5]) / 5
    assert row["importance"] == pytest.approx(float((p * np.log(p / q)).sum())) == row["low"] == row["high"]


@pytest.mark.slow
def test_rollouts_of_a_model_whose_answer_depends_on_one_sentence_put_the_importance_there(tmp_path):
    """Its belief and its suppression agree. vLLM writes the rollouts, in a process of its own."""
    write_scripted_model(tmp_path)
    source = {"path": str(tmp_path), "hub": None, "revision": None}
    known = {"model": "scripted", "dtype": "float32", "source": source, "endpoint": None, "prompt": "raw"}
    resolve_model(tmp_path / "manifest.json", known)
    model, said = r2a.load_model(tmp_path), ["Hello. ", "It is red. ", "Good. "]
    ids = model.tokenizer.encode(
        f"<bos>Why?<think>{''.join(said)}</think>\\boxed{{red}}<eos>", add_special_tokens=False
    )
    trace = r2a.trace_from_ids(model, ids[:3], ids[3:])
    effects, belief = r2a.sentence_effects(model, trace, stub=None), r2a.belief_curve(model, trace, stub=None)
    without = effects["greedy_without"].tolist()
    assert effects["sentence"].tolist() == said and without[0] == without[2] == "red" != without[1]
    for values in (effects["effect"], np.diff(belief["log_probability"])):
        assert np.abs(values)[1] >= 0.95 * np.abs(values).sum() and abs(values[1]) > 2

    row = {"uid": "why", "condition": "with_reasoning", "sample": 0, "prompt_token_ids": ids[:3]}
    write_parquet(tmp_path / "traces.parquet", pd.DataFrame([row | {"completion_token_ids": ids[3:]}]), provenance({}))
    write_parquet(tmp_path / "texts.parquet", pd.DataFrame({"uid": ["why"], "problem": "Why?"}), provenance({}))
    write_store(tmp_path, ["why"], said, np.array([*effects["first"], effects["last"].iloc[-1]]), [1.0, 1.0, 1.0])
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    inputs = [tmp_path / name for name in ("rollouts.parquet", "sentences.h5", "manifest.json", "compared.parquet")]
    compare_rollouts(*inputs, {}, 1000)
    table = resampling_table(read_parquet(tmp_path / "compared.parquet"), STATISTICS)
    assert table["sentence"].tolist() == [1, 2, 3] and (table["n_resampled"] == 60).all()
    assert table["importance"][1] >= 0.95 * table["importance"].sum() and table["low"][1] > 2
    assert table["answers_kept"][1] == "red (60)" and "red" not in table["answers_other"][1]


def test_the_interval_holds_the_value_and_the_same_answers_have_none_to_speak_of():
    settings = STATISTICS
    value, low, high = divergence(["a"] * 30 + ["b"] * 70, ["a"] * 80 + ["b"] * 20, settings)
    exact = 0.3 * np.log(0.3 / 0.8) + 0.7 * np.log(0.7 / 0.2)
    assert low < value < high and value == pytest.approx(exact, abs=0.02)
    assert divergence(["a"] * 50, ["a"] * 50, settings) == (0, 0, 0)
    assert np.isnan(divergence(["a"], ["a"] * 50, settings)).all()  # too few


def test_agreement_with_resampling_is_over_the_sentences_that_were_resampled():
    rng = np.random.default_rng(0)
    rows = []
    for problem in range(7):
        effect = rng.permutation(8).astype(float)
        importance = np.where(np.arange(8) < 5, effect, np.nan)
        frame = {"uid": f"p{problem}", "sample": 0, "sentence": range(9), "importance": [np.nan, *importance]}
        names = ("effect_rfh", "effect_matched", "read", "read_rfh", "read_matched", "belief_change")
        frame |= {"effect": [np.nan, *effect]} | {name: [np.nan, *rng.normal(size=8)] for name in names}
        rows.append(pd.DataFrame(frame))
    table = agreement_table(pd.concat(rows, ignore_index=True), STATISTICS).set_index(["first", "second"])
    assert table.loc[("importance", "effect"), ["rank_correlation", "n_sentences"]].tolist() == pytest.approx([1, 35])
    assert table.loc[("effect", "read"), "n_sentences"] == 56


if __name__ == "__main__":
    resample(
        Path(sys.argv[1]), resources={"gpu": 0, "cpu_cache_mb": 64}, model="scripted", n_rollouts=60, n_sentences=None,
        temperature=1.0, max_new_tokens=20,
    )  # fmt: skip

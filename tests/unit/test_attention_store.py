"""What an attention job writes, for a random model whose tokens are bytes."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray
from transformers import Qwen2ForCausalLM

import r2a.attention
from limited_memory import with_room_for
from r2a.attention import capture_attention, rerun
from r2a.attention.diagnostics import diagnose_heads
from r2a.attention.segments import TraceAttention
from r2a.heads import score_heads
from r2a.models.attention import AttentionError
from r2a.shards import WHOLE, gather_shards
from r2a.store import NothingToMeasure, provenance, read_parquet, read_provenance, reasoned_traces, write_parquet
from r2a.traces import Bounds
from random_traces import write_random_traces
from same_stores import assert_same_store

SETTINGS = {
    "model": "random", "dataset": "texts", "decoding": "greedy", "temperature": 0, "kernel": "fused",
    "cue_words": ["Wait", "Hmm", "check"],
}  # fmt: skip
QUANTITIES = ["segment_mass", "tracking", "spread", "cue_preference", "sentence_mass", "argmax_agreement"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its manifest; traces.parquet: four valid greedy traces and an invalid one; one sampled trace."""
    folder = tmp_path_factory.mktemp("random")
    write_random_traces(folder)
    return folder


def captured(
    folder: Path, name: str, batch_tokens: int = 1000, shard: str = WHOLE, traces: str = "traces", **changed: Any
) -> Path:
    output = folder / f"{name}.h5"
    settings = SETTINGS | changed
    capture_attention([folder / f"{traces}.parquet"], folder / "manifest.json", output, settings, batch_tokens, shard)
    return output


@pytest.fixture(scope="module")
def fused(folder: Path) -> Path:
    return captured(folder, "fused")


@pytest.mark.parametrize("other", [{"kernel": "eager"}, {"batch_tokens": 1}])
def test_stores_of_either_kernel_and_any_budget_hold_the_same(folder, fused, other):
    with h5py.File(fused) as one, h5py.File(captured(folder, "other", **other)) as two:
        assert one.keys() == two.keys()
        for name in QUANTITIES:
            np.testing.assert_allclose(one[name][:], two[name][:], atol=1e-4, err_msg=name)
            assert np.isfinite(one[name][0]).any(), name


@pytest.mark.parametrize("n_shards", [2, 5])
@pytest.mark.parametrize("temperature", [0, 0.6])
def test_shards_make_the_store_of_one_job_though_some_are_empty(folder, temperature, n_shards):
    whole = captured(folder, "whole", temperature=temperature)
    names = [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]
    shards = [captured(folder, name, shard=name, temperature=temperature) for name in names]
    gather_shards(shards, folder / "gathered.h5")
    assert_same_store(whole, folder / "gathered.h5")


def test_a_killed_job_reruns_only_the_traces_that_it_had_not_finished(folder, fused, monkeypatch):
    batch, rerun_ids = rerun.rerun_batch, []

    def killed_in_its_third_batch(model: Any, ids: Any, bounds: Any) -> Any:
        if len(rerun_ids) == 3:  # the first one checks the kernel
            raise KeyboardInterrupt
        rerun_ids.append(ids)
        return batch(model, ids, bounds)

    monkeypatch.setattr(rerun, "rerun_batch", killed_in_its_third_batch)
    with pytest.raises(KeyboardInterrupt):
        captured(folder, "killed", batch_tokens=1)
    rerun_ids.clear()
    monkeypatch.setattr(rerun, "rerun_batch", lambda *of: rerun_ids.append(of[1]) or batch(*of))
    with h5py.File(fused) as file:
        n_traces = len(file["uid"])
    killed = captured(folder, "killed", batch_tokens=1)
    assert len(rerun_ids) == 1 + n_traces - 2
    assert_same_store(fused, killed)


def test_a_dataset_that_grows_has_its_new_trace_rerun_alone(folder, fused, monkeypatch):
    traces = read_parquet(folder / "traces.parquet")
    write_parquet(
        folder / "fewer.parquet", traces[traces["uid"] != "text-1"], read_provenance(folder / "traces.parquet")
    )
    captured(folder, "growing", traces="fewer")
    rerun_ids, batch = [], rerun.rerun_batch
    monkeypatch.setattr(rerun, "rerun_batch", lambda *of: rerun_ids.extend(of[1]) or batch(*of))
    grown = captured(folder, "growing")
    new = traces.set_index("uid").loc["text-1"]
    assert rerun_ids[1:] == [
        [*new["prompt_token_ids"], *new["completion_token_ids"]]
    ]  # the first one checks the kernel
    assert_same_store(fused, grown)


@pytest.mark.parametrize("kernel", ["fused", "eager"])
def test_a_trace_that_does_not_fit_into_memory_is_left_out_and_named_and_the_rest_is_the_same(
    folder, fused, kernel, monkeypatch, caplog
):
    with h5py.File(fused) as file:
        lengths, uids = file["bounds"][:, -1], file["uid"].asstr()[:]
    longest = int(lengths.argmax())
    room = int(np.sort(lengths)[-2])
    monkeypatch.setattr(r2a.attention, "load_model", with_room_for(room, r2a.attention.load_model))
    monkeypatch.setattr(rerun, "CHECK_TOKENS", room)
    with caplog.at_level("WARNING", "r2a"):
        output = captured(folder, f"full-{kernel}", kernel=kernel)
    assert f"{uids[longest]}, with_reasoning: {lengths[longest]} tokens do not fit into memory" in caplog.text
    assert "1 of 3 traces left out" in caplog.text
    with h5py.File(fused) as whole, h5py.File(output) as found:
        is_there = np.arange(len(lengths)) != longest
        assert found["is_left_out"][:].tolist() == (~is_there).astype(int).tolist()
        assert reasoned_traces(found).tolist() == is_there.tolist()
        for name in QUANTITIES:
            assert np.isnan(found[name][longest]).all(), name
            np.testing.assert_allclose(found[name][is_there], whole[name][is_there], atol=1e-4, err_msg=name)


def test_only_valid_traces_of_the_decoding_that_have_a_reasoning_are_rerun(fused):
    with h5py.File(fused) as file:
        assert list(file["uid"].asstr()[:]) == ["text-0", "text-1", "text-2"]


def test_every_array_names_its_axes_and_unit_in_float32_a_trace_a_chunk(fused):
    with h5py.File(fused) as file:
        assert file.attrs["schema_version"] >= 1
        for name in QUANTITIES:
            array = file[name]
            assert array.dtype == np.float32 and array.chunks[0] == 1 and array.compression and array.attrs["unit"]
            assert array.dims[0].label == "trace"
            for axis, (dimension, size) in enumerate(zip(array.dims, array.shape, strict=True)):
                assert len(file[dimension.label]) == size, (name, axis)
        assert [d.label for d in file["sentence_mass"].dims] == ["trace", "layer", "head", "sentence"]


def test_xarray_opens_the_store_and_selects_by_label(fused):
    with xarray.open_dataset(fused, engine="h5netcdf") as store:
        a2r = store["segment_mass"].sel(query_segment="answer", key_segment="reasoning")
        assert a2r.dims == ("trace", "layer", "head")
        assert store["uid"].dims == ("trace",)


def test_sentence_masses_add_up_to_the_answers_mass_on_the_reasoning(fused):
    with h5py.File(fused) as file:
        mass, cut, a2r = file["sentence_mass"][:], file["sentence_bounds"][:], file["segment_mass"][:, :, :, 1, 3]
    n_sentences = [3, 1, 3]
    assert ((cut >= 0).sum(1) - 1).tolist() == n_sentences
    assert np.isfinite(mass).all(axis=(1, 2)).sum(1).tolist() == n_sentences
    np.testing.assert_allclose(np.nansum(mass, axis=-1), a2r, atol=1e-5)


def test_cues_are_found_in_the_tokens_text_and_their_lack_is_undefined(fused):
    with h5py.File(fused) as file:
        assert file["n_cue_tokens"][:].tolist() == [len("Wait") + len("Check"), 0, 2 * len("Hmm")]
        preference = file["cue_preference"][:]
    assert np.isfinite(preference).all(axis=(1, 2)).tolist() == [True, False, True]


def test_sampled_decodings_need_no_logits_and_have_no_agreement(folder, monkeypatch):
    monkeypatch.setattr("r2a.attention.predicted_ids", None)
    with h5py.File(captured(folder, "sampled", traces="sampled", decoding="sampled", temperature=0.6)) as file:
        assert np.isnan(file["argmax_agreement"][:]).tolist() == [True]


@pytest.mark.parametrize("n_forced", [0, 1])
def test_argmax_agreement_is_the_share_of_completion_tokens_that_the_model_would_write(folder, monkeypatch, n_forced):
    """Except for the tokens by which a budget closed the reasoning."""
    model = Qwen2ForCausalLM.from_pretrained(folder).eval()
    row = read_parquet(folder / "traces.parquet").iloc[0]
    ids, n_prompt = [*row.prompt_token_ids, *row.completion_token_ids], len(row.prompt_token_ids)
    with torch.no_grad():
        predicted = model(torch.tensor([ids])).logits[0].argmax(-1)
    close = Bounds.of(row.bounds).think_close
    own = [position for position in range(n_prompt, len(ids)) if not close <= position < close + n_forced]
    assert len(own) == len(ids) - n_prompt - n_forced
    as_stored = r2a.attention.read_traces_to_rerun

    def with_forced(*given: Any) -> Any:
        return as_stored(*given).assign(n_forced_tokens=n_forced)

    monkeypatch.setattr(r2a.attention, "read_traces_to_rerun", with_forced)
    with h5py.File(captured(folder, f"forced-{n_forced}")) as file:
        expected = np.mean([int(predicted[position - 1]) == ids[position] for position in own])
        assert file["argmax_agreement"][0] == pytest.approx(expected)


def test_heads_are_scored_from_the_stores_though_no_needle_is_copied(folder, fused):
    (folder / "haystack.txt").write_text("Rain fell. Wind blew. Night came.")
    needle = {"needle": "A fox sang.", "question": " Who sang?"}
    diagnostics = {
        "model": "random", "seed": 0, "n_repeats": 2, "repeat_tokens": 20, "induction_prompts": ["one two one two"],
        "needles": [needle], "lengths": [40, 60], "depths": [0.5],
    }  # fmt: skip
    diagnose_heads(folder / "manifest.json", folder / "haystack.txt", folder / "diagnostics.h5", diagnostics)
    settings = {"n_top_heads": 2, "n_resamples": 100, "confidence": 0.95, "seed": 0}
    outputs = (folder / name for name in ("heads.parquet", "by_trace.parquet", "lists.csv"))
    score_heads(fused, folder / "diagnostics.h5", *outputs, settings)
    heads = read_parquet(folder / "heads.parquet")
    assert len(heads) == 3 * 4
    assert heads["tracking_n"].max() == 3 and heads["induction_n"].eq(2).all()
    assert heads["retrieval_n"].eq(0).all() and heads["retrieval"].isna().all() and not heads["is_retrieval"].any()


def test_a_kernel_that_fails_its_check_stops_the_job_with_numbers(folder, monkeypatch):
    right = rerun.rerun_eager

    def shifted(*arguments: Any) -> tuple[TraceAttention, None]:
        kept, _ = right(*arguments)
        kept.answer_mass[1, 2] += 0.01
        return kept, None

    monkeypatch.setattr(rerun, "rerun_eager", shifted)
    with pytest.raises(AttentionError, match=r"fused and eager attention differ by .* layer 1, head 2"):
        captured(folder, "wrong")
    assert not (folder / "wrong.h5").exists()


def test_traces_of_which_none_is_valid_leave_nothing_to_measure(folder):
    table = read_parquet(folder / "traces.parquet").assign(is_valid=False)
    write_parquet(folder / "invalid.parquet", table, provenance({}))
    with pytest.raises(NothingToMeasure, match="no valid greedy trace"):
        captured(folder, "none", traces="invalid")
    assert not (folder / "none.h5").exists()

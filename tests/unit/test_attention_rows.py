"""Whole attention rows of a few traces, and the figures drawn from them."""

from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import xarray
from transformers import Qwen2ForCausalLM

from r2a.attention import capture_attention
from r2a.attention.rows import MEANS, capture_rows, n_kept_rows, spread_evenly
from r2a.figures.attention import plot_decomposition, plot_tracking
from r2a.figures.patterns import N_COLUMNS, plot_patterns, pooled
from r2a.models.attention import AttentionError
from r2a.store import read_parquet, read_provenance, write_parquet
from r2a.traces import Bounds
from random_traces import REASONINGS, write_random_traces

RANKED = [(2, 1), (0, 3)]  # the Reasoning-Focus Heads, in the order of their ranks
SETTINGS = {
    "model": "random", "dataset": "texts", "decoding": "greedy", "kernel": "fused", "cue_words": ["Wait", "check"],
    "n_cases": 2, "n_top_heads": len(RANKED), "uids": [], "row_heads": "all",
    "row_dtype": "float32", "case_megabytes": 8, "seed": 1,
}  # fmt: skip
DRAWING = {"confidence": 0.95, "model_label": "Random", "dataset_label": "Texts", "is_toy": False}
N_LAYERS, N_HEADS = 3, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_random_traces(folder)
    every = list(product(range(N_LAYERS), range(N_HEADS)))
    ranked = RANKED + [head for head in every if head not in RANKED]
    heads = pd.DataFrame(every, columns=["layer", "head"])
    heads["rank"] = [ranked.index(head) + 1 for head in every]
    heads["has_attention"] = True
    heads["is_rfh"] = heads["rank"] <= len(RANKED)
    write_parquet(folder / "heads.parquet", heads, {"parameters_hash": "0", "models": {}})
    return folder


def captured(folder: Path, name: str, **changed: Any) -> Path:
    output = folder / f"{name}.h5"
    inputs = (folder / part for part in ("traces.parquet", "manifest.json", "heads.parquet"))
    capture_rows(*inputs, output, SETTINGS | {"uids": ["text-0", "text-2"]} | changed)
    return output


@pytest.fixture(scope="module")
def every_head(folder: Path) -> Path:
    return captured(folder, "all")


@pytest.fixture(scope="module")
def whole(folder: Path) -> np.ndarray:
    """The first trace's whole attention [layer, head, token, token], computed by transformers alone."""
    row = read_parquet(folder / "traces.parquet").iloc[0]
    model = Qwen2ForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        output = model(torch.tensor([[*row.prompt_token_ids, *row.completion_token_ids]]), output_attentions=True)
    return np.concatenate([weights.numpy() for weights in output.attentions])


# ---- the store


@pytest.mark.parametrize("kernel", ["fused", "eager"])
def test_rows_and_their_means_are_those_of_the_whole_attention(folder, every_head, whole, kernel):
    path = every_head if kernel == "fused" else captured(folder, "eager", kernel="eager")
    with h5py.File(path) as file:
        case = file["trace_0"]
        bounds, rows = Bounds.of(case["bounds"]), case["row"][:]
        assert rows.tolist() == list(range(bounds.answer, bounds.eos))
        expected = whole[:, :, rows]
        flat = expected.reshape(N_LAYERS * N_HEADS, *expected.shape[2:])
        np.testing.assert_allclose(case["attention"][:], flat, atol=1e-5)
        np.testing.assert_allclose(case["all_mean"][:], flat.mean(0), atol=1e-5)
        np.testing.assert_allclose(case["rfh_mean"][:], (expected[2, 1] + expected[0, 3]) / 2, atol=1e-5)
        inside = flat[..., bounds.span("reasoning")].astype(np.float64)
        position = np.arange(inside.shape[-1]) / (inside.shape[-1] - 1)
        np.testing.assert_allclose(case["centre"][:], inside @ position / inside.sum(-1), atol=1e-4)


def test_chosen_heads_are_the_rfhs_by_rank_rounded_to_the_asked_precision(folder, whole):
    with h5py.File(captured(folder, "rfhs", row_heads="rfhs", row_dtype="float16")) as file:
        case = file["trace_0"]
        assert case["head"].asstr()[:].tolist() == ["2.1", "0.3"]
        assert (case["layer"][:].tolist(), case["head_in_layer"][:].tolist()) == ([2, 0], [1, 3])
        assert {case[name].dtype for name in ("attention", *MEANS)} == {np.dtype(np.float16)}
        rows = case["row"][:]
        np.testing.assert_allclose(case["attention"][0], whole[2, 1, rows], rtol=1e-3, atol=1e-5)
        assert case["centre"].shape == (N_LAYERS * N_HEADS, len(rows))


def test_a_case_can_be_read_without_a_tokenizer(folder, every_head):
    traces = read_parquet(folder / "traces.parquet")
    with h5py.File(every_head) as file:
        assert file["uid"].asstr()[:].tolist() == ["text-0", "text-2"]
        case = file["trace_0"]
        text, bounds = case["token_text"].asstr()[:], Bounds.of(case["bounds"])
        assert "".join(text) == f"<bos>What is it?<think>{REASONINGS[0]}</think>It is it.<eos>"
        assert "".join(text[bounds.span("reasoning")]) == REASONINGS[0]
        assert "".join(text[case["is_cue"][:]]) == "WaitCheck"
        row = traces.iloc[0]
        assert case["token_ids"][:].tolist() == [*row.prompt_token_ids, *row.completion_token_ids]
    assert "random" in read_provenance(every_head)["models"]


def test_arrays_of_a_case_name_their_axes_and_open_in_xarray(every_head):
    with xarray.open_dataset(every_head, engine="h5netcdf", group="trace_1") as case:
        assert case["attention"].dims == ("head", "row", "key")
        assert case["centre"].dims == ("every_head", "row")
        assert case["token_text"].dims == ("key",)
        assert float(case["attention"].sel(head="2.1").sum("key").max()) == pytest.approx(1, abs=1e-4)
    with h5py.File(every_head) as file:
        assert all(file["trace_1"][name].attrs["unit"] for name in ("attention", *MEANS, "centre"))


def test_a_7b_model_keeps_a_few_megabytes_of_its_longest_trace():
    n_rows = n_kept_rows(n_answer=1500, n_tokens=10_000, n_heads=10, itemsize=2, megabytes=8)
    assert n_rows == 33
    assert (10 + 2) * n_rows * 10_000 * 2 <= 8e6  # ten heads and two means, two bytes each, before compression
    assert n_kept_rows(1500, 2_500, 10, 2, 8) == 133
    assert n_kept_rows(100, 2_500, 10, 2, 8) == 100  # all of a short answer
    assert n_kept_rows(1500, 10_000, 784, 4, 8) == 1


def test_rows_that_do_not_fit_are_left_out_evenly(folder):
    with h5py.File(captured(folder, "small", case_megabytes=0.02)) as file:
        case = file["trace_0"]
        n_tokens, bounds, rows = len(case["key"]), Bounds.of(case["bounds"]), case["row"][:]
        assert 2 <= len(rows) == 20_000 // (14 * n_tokens * 4) < bounds.eos - bounds.answer
        assert (rows[0], rows[-1]) == (bounds.answer, bounds.eos - 1)


@pytest.mark.parametrize(("n", "expected"), [(1, [10]), (2, [10, 15]), (4, [10, 11, 13, 15]), (6, list(range(10, 16)))])
def test_kept_tokens_are_distinct_and_hold_both_ends(n, expected):
    assert spread_evenly(range(10, 16), n) == expected


def test_cases_are_drawn_by_the_seed_among_traces_that_can_be_rerun(folder):
    found = {}
    for seed in range(5):
        with h5py.File(captured(folder, "drawn", uids=[], seed=seed)) as file:
            found[seed] = tuple(file["uid"].asstr()[:])
    assert len(set(found.values())) > 1
    assert {uid for uids in found.values() for uid in uids} == {"text-0", "text-1", "text-2"}
    assert all(len(uids) == 2 for uids in found.values())


def test_a_named_problem_without_a_trace_stops_the_job_in_words(folder):
    with pytest.raises(AttentionError, match=r"no valid greedy trace with reasoning of text-3, nobody; .*case_uids"):
        captured(folder, "none", uids=["text-0", "text-3", "nobody"])
    assert not (folder / "none.h5").exists()


# ---- the figures


@pytest.fixture(scope="module")
def attention(folder: Path) -> Path:
    settings = SETTINGS | {"temperature": 0}
    capture_attention([folder / "traces.parquet"], folder / "manifest.json", folder / "attention.h5", settings, 1000)
    return folder / "attention.h5"


def test_pattern_panels_draw_the_stored_rows_of_the_first_rfhs_and_means(folder, every_head):
    plot_patterns(every_head, folder / "patterns", DRAWING)
    drawn = pd.read_csv(folder / "patterns.csv")
    assert drawn["panel"].unique().tolist() == ["head 2.1", "head 0.3", "mean of RFHs", "mean of all heads"]
    with h5py.File(every_head) as file:
        case = file["trace_0"]
        one = drawn[(drawn["uid"] == "text-0") & (drawn["panel"] == "head 2.1")]
        shape = case["attention"].shape[1:]
        expected = case["attention"][case["head"].asstr()[:].tolist().index("2.1")]
    np.testing.assert_allclose(one["attention"].to_numpy().reshape(shape), expected, rtol=1e-5)


def test_pattern_panels_of_long_traces_keep_the_largest_of_each_column(folder):
    bounds = Bounds(0, 1, 100, 101, 900, 901, 999, 1000)
    values = np.zeros((1, 1000))
    values[0, 517] = 0.4
    columns, edges, inside = pooled(values, bounds)
    assert columns.shape == (1, N_COLUMNS) and edges[-1] == 999.5
    (column,) = np.flatnonzero(columns[0])
    assert columns[0, column] == 0.4 and edges[column] < 517 < edges[column + 1] and inside[column]


def test_tracking_draws_every_heads_centre_and_its_drift(folder, attention, every_head):
    plot_tracking(attention, every_head, folder / "heads.parquet", folder / "tracking", DRAWING)
    drawn = pd.read_csv(folder / "tracking.csv", dtype={"head": str})
    assert set(drawn.loc[drawn["is_rfh"], "head"]) == {"2.1", "0.3"}
    with h5py.File(attention) as file, h5py.File(every_head) as cases:
        drift = file["tracking"][file["uid"].asstr()[:].tolist().index("text-2"), 2, 1]
        centre = cases["trace_1/centre"][2 * N_HEADS + 1]
    one = drawn[(drawn["uid"] == "text-2") & (drawn["head"] == "2.1")]
    assert one["drift"].unique() == pytest.approx([drift], rel=1e-4)
    np.testing.assert_allclose(one["centre"], centre, rtol=1e-4)


def test_decomposition_draws_means_over_heads_and_over_traces(folder, attention):
    plot_decomposition(attention, folder / "heads.parquet", folder / "decomposition", DRAWING)
    drawn = pd.read_csv(folder / "decomposition.csv").set_index(["over", "group", "uid_or_head", "mass"])["share"]
    with h5py.File(attention) as file:
        a2r = file["segment_mass"][:, :, :, 1, 3]
    by_trace = drawn.loc["trace", "mean over all 12 heads", "text-1", "a2r"]
    assert by_trace == pytest.approx(a2r[1].mean(), rel=1e-4)
    assert drawn.loc["trace", "mean over the 2 RFHs", "text-1", "a2r"] == pytest.approx(
        (a2r[1, 2, 1] + a2r[1, 0, 3]) / 2, rel=1e-4
    )
    assert drawn.loc["head", "the 2 RFHs", "2.1", "a2r"] == pytest.approx(a2r[:, 2, 1].mean(), rel=1e-4)

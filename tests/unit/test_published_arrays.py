"""Heads and patching curves against the paper's published arrays (../shared/reference, if present).

Facts stated here that the code does not contain: METHOD section 3 (the heads that the paper lists), and findings on the
authors' release (segment sums; which listed heads are not in the top ten of the published arrays; padding, number steps
and late-layer values of the published patching case).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from r2a.evaluation.hand_off import hand_off_layer
from r2a.figures.attention import plot_decomposition
from r2a.heads.focus import a2r, density, rank_heads, sink_free
from r2a.heads.lists import compare_lists
from r2a.heads.registry import stacked
from r2a.published import list_published, read_published
from r2a.store import add_array, add_axis, add_column, new_hdf5, write_parquet
from r2a.traces import QUERY_SEGMENTS, SEGMENTS

MODELS = ("qwen-7B", "qwen-1p5B")
PUBLISHED_NAMES = {
    "answer": {
        "bos": "a2bos", "prompt": "a2p", "think_open": "a2bot", "reasoning": "a2r", "think_close": "a2eot",
        "answer": "a2a",
    },
    "reasoning": {"bos": "r2bos", "prompt": "r2p", "think_open": "r2bot", "reasoning": "r2r"},
}  # fmt: skip
LISTED_HEADS = {
    "qwen-7B": [(16, 0), (19, 15), (14, 7), (1, 1), (17, 18), (22, 7), (17, 19), (17, 14), (16, 14), (14, 0)],
    "qwen-1p5B": [(16, 2), (1, 5), (19, 1), (12, 1), (16, 11), (23, 2), (14, 3), (19, 5), (20, 9), (16, 0)],
}
ONLY_LISTED = {"qwen-7B": {(14, 0)}, "qwen-1p5B": {(23, 2), (19, 5)}}
ONLY_IN_ARRAYS = {"qwen-7B": {(14, 19)}, "qwen-1p5B": {(0, 0), (16, 3)}}
N_HEADS = {"qwen-7B": 28, "qwen-1p5B": 12}


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def mass(reference: Path, name: str) -> np.ndarray:
    """The published masses as [trace, layer, head, query_segment, key_segment]."""
    with np.load(reference / f"segment_attention_{name}.npz") as published:
        found = np.zeros((100, 28, N_HEADS[name], len(QUERY_SEGMENTS), len(SEGMENTS)), np.float32)
        for query, keys in PUBLISHED_NAMES.items():
            for key, short in keys.items():
                found[..., QUERY_SEGMENTS.index(query), SEGMENTS.index(key)] = published[short]
    return found


@pytest.fixture
def bounds(reference: Path, name: str) -> np.ndarray:
    """Segment bounds [trace, 8]; r_start_idx and r_end_idx are the positions of <think> and </think>; EOS is last."""
    with np.load(reference / f"segment_attention_{name}.npz") as published:
        start, end, length = (published[key] for key in ("r_start_idx", "r_end_idx", "token_len"))
        assert (published["answer_token_region"] == np.stack([end + 1, length - 1], axis=1)).all()
    zero = np.zeros_like(start)
    return np.stack([zero, zero + 1, start, start + 1, end, end + 1, length - 1, length], axis=1)


@pytest.fixture
def heads(mass: np.ndarray, bounds: np.ndarray) -> pd.DataFrame:
    return rank_heads(mass, bounds, n_top=10, n_resamples=100, confidence=0.95, seed=0)


def top_ten(heads: pd.DataFrame) -> list[tuple[int, int]]:
    best = heads[heads["rank"] <= 10].sort_values("rank")
    return [(int(layer), int(head)) for layer, head in zip(best["layer"], best["head"], strict=True)]


def test_published_segment_masses_sum_to_one(mass):
    np.testing.assert_allclose(mass.sum(-1, dtype=np.float64), 1, rtol=0, atol=2e-7)


def test_ranking_differs_from_the_listed_heads_by_exactly_the_known_ones(heads, name):
    found, listed = set(top_ten(heads)), set(LISTED_HEADS[name])
    assert listed - found == ONLY_LISTED[name]
    assert found - listed == ONLY_IN_ARRAYS[name]


def test_ranking_reproduces_the_published_order_of_a2r(heads, reference, name):
    with np.load(reference / f"segment_attention_{name}.npz") as published:
        a2r = published["a2r"].astype(np.float64).mean(axis=0)
    by_rank = heads.sort_values("rank")
    assert by_rank["rank"].tolist() == list(range(1, a2r.size + 1))
    ranked = a2r[by_rank["layer"], by_rank["head"]]
    np.testing.assert_allclose(by_rank["a2r"], ranked, atol=1e-6)
    np.testing.assert_allclose(ranked, np.sort(a2r, axis=None)[::-1], atol=1e-6)


def test_reasoning_focus_heads_are_the_top_ten(heads):
    assert set(heads.loc[heads["is_rfh"], "rank"]) == set(range(1, 11))


def test_interval_of_a2r_holds_the_published_mean(heads):
    assert (heads["a2r_low"] <= heads["a2r"] + 1e-6).all()
    assert (heads["a2r"] <= heads["a2r_high"] + 1e-6).all()
    best = heads.set_index("rank").loc[1]
    assert best["a2r_low"] < best["a2r"] < best["a2r_high"]


# measured beforehand, without BOS: how many of the ten heads by a2r are among the ten without sinks
SURVIVORS = {"qwen-7B": 10, "qwen-1p5B": 6}


def test_without_bos_all_of_the_larger_models_ten_stay_and_six_of_the_smaller_ones(mass, bounds, name):
    """By density they stay as well, though density takes lengths into account."""
    scores = {
        "a2r": stacked(a2r(m) for m in mass),
        "sink_free": stacked(sink_free(m) for m in mass),
        "density": stacked(density(m, b) for m, b in zip(mass, bounds, strict=True)),
    }
    table = compare_lists(scores, 10, n_resamples=100, confidence=0.95, seed=0).set_index(["first", "second"])
    for other in ("sink_free", "density"):
        row = table.loc[("a2r", other)]
        assert row["n_shared"] == SURVIVORS[name]
        assert row["n_shared_low"] <= row["n_shared"] <= row["n_shared_high"]
        assert 0.95 < row["rank_correlation"] < 1


def test_the_published_arrays_are_read_by_segment_and_place(mass, bounds, reference, name):
    read, places = read_published(reference / f"segment_attention_{name}.npz")
    assert (read == mass).all() and (places == bounds).all()


def test_the_table_of_published_lists_says_how_many_of_the_ten_stay(reference, tmp_path):
    table = list_published(reference, tmp_path).query("first == 'a2r'").set_index(["model", "second"])["n_shared"]
    for model, n_stay in SURVIVORS.items():
        assert table[model, "sink_free"] == table[model, "density"] == n_stay
        drawn = pd.read_csv(tmp_path / f"{model}/head_lists.csv").query("a2r <= 10")
        assert (drawn["sink_free"] <= 10).sum() == n_stay


def test_ten_heads_a_trace_share_the_top(heads):
    assert heads["top_share"].sum() == pytest.approx(10)


def test_bos_takes_a_tenth_or_more_of_the_answers_attention(heads):
    assert 0.095 < heads["a2bos"].mean() < 0.62


# from the authors' release: correlation over traces of the mean a2r with the log of reasoning over answer
LENGTH_CORRELATION = {"qwen-7B": 0.87, "qwen-1p5B": 0.77}


def test_raw_a2r_grows_with_the_reasonings_share_as_published(mass, bounds, name):
    a2r = mass[..., QUERY_SEGMENTS.index("answer"), SEGMENTS.index("reasoning")].mean((1, 2))
    ratio = np.log((bounds[:, 4] - bounds[:, 3]) / (bounds[:, 6] - bounds[:, 5]))
    assert np.corrcoef(a2r, ratio)[0, 1] == pytest.approx(LENGTH_CORRELATION[name], abs=0.08)  # half of their traces


@pytest.mark.slow
def test_the_papers_decomposition_is_drawn_from_its_arrays(mass, bounds, heads, reference, name, tmp_path):
    """Box plots over traces (mean over all heads) and over heads (mean over traces)."""
    origin: dict[str, Any] = {"parameters_hash": "0", "models": {}}
    with new_hdf5(tmp_path / "attention.h5", origin) as file:
        sizes = {"trace": len(mass), "layer": mass.shape[1], "head": mass.shape[2]}
        for axis, labels in {**sizes, "query_segment": QUERY_SEGMENTS, "key_segment": SEGMENTS}.items():
            add_axis(file, axis, range(labels) if isinstance(labels, int) else labels)
        add_column(file, "uid", "trace", [f"case-{number}" for number in range(len(mass))])
        add_column(file, "condition", "trace", ["with_reasoning"] * len(mass))
        add_column(file, "is_left_out", "trace", [0] * len(mass))
        add_array(file, "segment_mass", (*sizes, "query_segment", "key_segment"), "share")[:] = mass
    write_parquet(tmp_path / "heads.parquet", heads, origin)
    drawing = {"model_label": name, "dataset_label": "MATH-500", "is_toy": False, "confidence": 0.95}
    plot_decomposition(tmp_path / "attention.h5", tmp_path / "heads.parquet", tmp_path / "decomposition", drawing)
    assert (tmp_path / "decomposition.svg").stat().st_size > 10_000
    drawn = pd.read_csv(tmp_path / "decomposition.csv", dtype={"uid_or_head": str})
    with np.load(reference / f"segment_attention_{name}.npz") as published:
        for short in ("a2bos", "a2p", "a2bot", "a2r", "a2eot", "a2a", "r2bos", "r2p", "r2bot", "r2r"):
            rows = drawn[drawn["mass"] == short]
            by_trace = rows[rows["group"] == f"mean over all {28 * N_HEADS[name]} heads"].set_index("uid_or_head")
            ours = [by_trace.loc[f"case-{number}", "share"] for number in range(100)]
            np.testing.assert_allclose(ours, published[short].astype(np.float64).mean((1, 2)), atol=1e-6)
            by_head = rows[rows["over"] == "head"].set_index("uid_or_head")["share"]
            theirs = published[short].astype(np.float64).mean(0)
            assert len(by_head) == theirs.size
            np.testing.assert_allclose(
                [by_head[f"{layer}.{head}"] for layer in range(28) for head in range(N_HEADS[name])],
                theirs.ravel(),
                atol=1e-6,
            )
    rfhs = set(drawn.loc[drawn["group"] == "the 10 RFHs", "uid_or_head"])
    listed = {f"{layer}.{head}" for layer, head in LISTED_HEADS[name]}
    assert listed - rfhs == {f"{layer}.{head}" for layer, head in ONLY_LISTED[name]}


# ---- the published patching case

N_PADS = {"qwen-7B": ("corrupted", 306, 1523), "qwen-1p5B": ("clean", 421, 1015)}
STEP = {"qwen-7B": 0.0061, "qwen-1p5B": 0.0115}
PAD = "<｜end▁of▁sentence｜>"  # noqa: RUF001
# read off the published curves: the only layer at which the final token's overtakes the answer token's
CROSSING = {"qwen-7B": 20, "qwen-1p5B": 23}


@pytest.fixture
def case(reference: Path, name: str) -> dict[str, Any]:
    return json.loads((reference / f"patching_case_24_{name}.json").read_text())


@pytest.fixture
def curves(case: dict[str, Any]) -> dict[int, np.ndarray]:
    """Normalized logit difference over layers, by patched position."""
    return {int(region.split("_")[-2]): np.array(curve) for region, curve in case["normalized_logit_diff"].items()}


@pytest.fixture
def answer_and_final(case: dict[str, Any], curves: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Curves of the probe's answer token, two before </think>, and of the last token."""
    tokens = case["clean_str_tokens"]
    answer = tokens.index("</think>") - 2
    assert (tokens[answer], case["corrupted_str_tokens"][answer]) == ("5", "6")
    return curves[answer], curves[len(tokens) - 1]


def test_published_runs_are_padded_to_one_length(case, name):
    padded, n_pads, n_tokens = N_PADS[name]
    assert len(case["clean_str_tokens"]) == len(case["corrupted_str_tokens"]) == n_tokens
    assert case[f"{padded}_str_tokens"].count(PAD) == n_pads


def test_published_curves_have_a_value_a_layer_at_positions_of_like_role(case, curves):
    assert {curve.shape for curve in curves.values()} == {(28,)}
    for position in curves:
        pair = case["clean_str_tokens"][position], case["corrupted_str_tokens"][position]
        assert pair[0] == pair[1] or pair == ("5", "6")


def test_published_values_step_by_the_rounding_of_bfloat16(curves, name):
    values = np.abs(np.concatenate(list(curves.values())))
    assert values[values > 0].min() == pytest.approx(STEP[name], abs=5e-5)


def test_published_late_patch_at_final_token_restores_the_clean_answer(answer_and_final):
    _, final = answer_and_final
    assert 0.77 <= final[-1] <= 0.97


def test_published_answer_moves_from_reasoning_to_answer_in_the_late_layers(answer_and_final, name):
    answer, final = (curve[None] for curve in answer_and_final)
    assert ((answer < final)[0] == (np.arange(28) >= CROSSING[name])).all()
    found = hand_off_layer(answer, final, n_resamples=100, confidence=0.95, seed=0)
    assert found.layer == CROSSING[name]
    assert np.isnan([found.low, found.high]).all()  # of one pair

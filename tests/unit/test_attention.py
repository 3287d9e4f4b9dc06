"""The fused rerun equals the eager reference in every quantity, and the quantities equal numbers worked out by hand."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from planted import planted_model
from r2a.attention import rerun
from r2a.attention.fused import FusedPass, Span
from r2a.attention.reference import keep_of_weights, rerun_eager
from r2a.attention.rerun import (
    SegmentRecorder,
    attention_rows,
    check_against_eager,
    check_masses,
    predicted_ids,
    rerun_batch,
    rerun_traces,
)
from r2a.attention.segments import (
    EmptySegment,
    TraceAttention,
    cue_over_initial,
    cue_preference,
    segment_mass,
    sentence_mass,
    tracking,
)
from r2a.models.attention import SEAM, AttentionError, attention_kernel, seam_attention
from r2a.models.decoder import Decoder
from r2a.models.kernels import BLOCK_ELEMENTS
from r2a.store import SCHEMA_VERSION, StoreError, new_hdf5, open_hdf5
from r2a.traces import Bounds

ARCHITECTURES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),  # normalises queries and keys
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "phi3": (Phi3ForCausalLM, Phi3Config, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),  # one projection
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 90}),  # a window, wider than the traces
}
LENGTHS = (61, 40, 83)


def random_model(name: str, **more: Any) -> Any:
    kind, config, settings = ARCHITECTURES[name]
    torch.manual_seed(3)
    return kind(config(**SIZES | settings | more)).eval()


SIZES = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3,
    "attn_implementation": SEAM,
}  # fmt: skip


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    return random_model(request.param)


@pytest.fixture(scope="module")
def traces() -> tuple[list[list[int]], list[list[int]]]:
    """Token ids and segment bounds of traces of different lengths, one of them without BOS and EOS."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 48, n).tolist() for n in LENGTHS]
    bounds = [[0, 1, 6, 7, 40, 41, 60, 61], [0, 0, 9, 10, 11, 12, 40, 40], [0, 1, 20, 21, 50, 51, 82, 83]]
    return ids, [Bounds(*positions) for positions in bounds]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that each trace takes several."""
    monkeypatch.setitem(BLOCK_ELEMENTS, "cpu", 4 * 83 * 5)


def quantities(kept: TraceAttention, bounds: Bounds) -> dict[str, np.ndarray]:
    is_cue = np.arange(bounds.think_close - bounds.reasoning) % 5 == 0
    first, past = bounds.reasoning, bounds.think_close
    cut = sorted({first, first + 1, (first + past) // 2, past})
    return {
        "segment_mass": segment_mass(kept, bounds),
        "tracking": tracking(kept.centre),
        "centre": kept.centre,
        "spread": kept.spread,
        "cue_preference": cue_preference(kept.answer_mass, bounds, is_cue),
        "sentence_mass": sentence_mass(kept.answer_mass, cut),
        "answer_mass": kept.answer_mass,
        "contribution": kept.contribution,
        "output_share": kept.output_share,
    }


def eager(model: Any, ids: list[int], bounds: Bounds) -> TraceAttention:
    with attention_kernel(model, "eager"):
        return rerun_eager(model, ids, bounds)[0]


def assert_equal(found: TraceAttention, expected: TraceAttention, bounds: Bounds) -> None:
    expected_quantities = quantities(expected, bounds)
    for name, values in quantities(found, bounds).items():
        np.testing.assert_allclose(values, expected_quantities[name], atol=1e-4, err_msg=name)


# ---- the fused kernel against transformers' own


def test_fused_equals_eager_on_every_quantity_with_several_traces_in_a_batch(model, traces):
    ids, bounds = traces
    for number, (kept, _) in enumerate(rerun_batch(model, ids, bounds)):
        assert_equal(kept, eager(model, ids[number], bounds[number]), bounds[number])


def test_fused_equals_eager_on_every_quantity_with_left_padding(model, traces):
    ids, bounds = traces
    width = max(LENGTHS)
    padded = torch.tensor([[0] * (width - len(i)) + i for i in ids])
    positions = torch.stack([(torch.arange(width) - (width - n)).clamp(min=0) for n in LENGTHS])
    decoder = Decoder(model)
    recorder = SegmentRecorder([Span(row, width - n, width) for row, n in enumerate(LENGTHS)], bounds, decoder)
    with torch.no_grad():
        decoder.run(padded, FusedPass(recorder), attention_mask=(padded != 0).long(), position_ids=positions)
    for number, kept in enumerate(recorder.kept(3)):
        assert_equal(kept, eager(model, ids[number], bounds[number]), bounds[number])


def test_hidden_states_and_logits_are_those_of_plain_sdpa(model, traces):
    ids, bounds = traces
    for number, (_, hidden) in enumerate(rerun_batch(model, ids, bounds)):
        with attention_kernel(model, "sdpa"), torch.no_grad():
            expected = model.model(torch.tensor([ids[number]]), use_cache=False).last_hidden_state[0]
            logits = model(torch.tensor([ids[number]]), use_cache=False).logits[0]
        np.testing.assert_allclose(hidden, expected, atol=1e-5)
        np.testing.assert_allclose(model.lm_head(hidden).detach(), logits, atol=1e-5)


def test_masses_sum_to_one(model, traces):
    ids, bounds = traces
    for number, (kept, _) in enumerate(rerun_batch(model, ids, bounds)):
        np.testing.assert_allclose(segment_mass(kept, bounds[number]).sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(kept.answer_mass.sum(-1), 1, atol=1e-5)


def test_attention_rows_are_the_rows_of_the_whole_attention(model, traces):
    ids = traces[0][2]
    heads, rows = [(2, 1), (0, 3), (2, 0), (2, 3)], [0, 7, 8, 50, 82]
    found = attention_rows(model, ids, heads, rows)
    with attention_kernel(model, "eager"), torch.no_grad():
        whole = model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    for number, (layer, head) in enumerate(heads):
        np.testing.assert_allclose(found[number], whole[layer][0, head, rows], atol=1e-5)


def test_predicted_ids_are_the_arg_max_of_the_logits_however_few_rows_are_held(model, traces, monkeypatch):
    ids, bounds = traces
    monkeypatch.setattr(rerun, "LOGIT_ELEMENTS", 48 * 7)
    held: list[int] = []
    watch = model.lm_head.register_forward_hook(lambda _module, _inputs, logits: held.append(logits.shape[1]))
    ((_, hidden),) = rerun_batch(model, ids[:1], bounds[:1])
    assert held == []  # the rerun itself needs no logits
    with attention_kernel(model, "sdpa"), torch.no_grad():
        logits = model(torch.tensor([ids[0]]), use_cache=False).logits[0]
    held.clear()
    assert predicted_ids(model, hidden).tolist() == logits.argmax(-1).tolist()
    assert held == [7] * 8 + [5]
    watch.remove()


def test_sharp_attention_keeps_its_digits(traces):
    """A head that attends to one token has spread 0; with moments about one fixed point, float32 would lose that."""
    sharp = random_model("llama", initializer_range=1.0)
    ids, bounds = traces
    ((kept, _),) = rerun_batch(sharp, ids[2:], bounds[2:])
    expected = eager(sharp, ids[2], bounds[2])
    assert (expected.spread < 1e-3).any()
    np.testing.assert_allclose(kept.spread, expected.spread, atol=1e-4)


def test_rerun_in_bfloat16_stays_near_float32(traces):
    exact, rounded = random_model("qwen2"), random_model("qwen2").bfloat16()
    ids, bounds = traces
    for (kept, _), (near, _), b in zip(*(rerun_batch(m, ids, bounds) for m in (exact, rounded)), bounds, strict=True):
        assert np.abs(segment_mass(kept, b) - segment_mass(near, b)).mean() < 1e-2
        np.testing.assert_allclose(near.answer_mass.sum(-1), 1, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_fused_equals_eager_on_a_gpu(traces):
    on_gpu = random_model("qwen2").to("cuda")
    ids, bounds = traces
    for number, (kept, _) in enumerate(rerun_batch(on_gpu, ids, bounds)):
        assert_equal(kept, eager(on_gpu, ids[number], bounds[number]), bounds[number])
    for kept, _ in rerun_batch(on_gpu.bfloat16(), ids, bounds):
        np.testing.assert_allclose(kept.answer_mass.sum(-1), 1, atol=1e-2)


# ---- what is refused


def test_keywords_that_change_attention_in_unknown_ways_are_refused():
    states = torch.zeros(1, 1, 2, 8)
    module = type("OddAttention", (), {"layer_idx": 0})()
    with pytest.raises(AttentionError, match="OddAttention: attention with position_bias is not supported"):
        seam_attention(module, states, states, states, None, position_bias=states)


def test_a_trace_without_answer_is_refused(traces):
    with pytest.raises(EmptySegment, match="answer"):
        rerun_batch(random_model("llama"), traces[0][:1], [Bounds(0, 1, 6, 7, 61, 61, 61, 61)])


# ---- batches and checks


def fail_above(n_tokens: int, calls: list[list[int]]) -> Any:
    """A stand-in for rerun_batch that runs out of memory above n_tokens; it returns each trace's first id."""

    def run(_model: Any, ids: list[list[int]], _bounds: Any) -> list[Any]:
        calls.append([len(i) for i in ids])
        if sum(map(len, ids)) > n_tokens:
            raise torch.OutOfMemoryError("no memory left")
        return [(i[0], None) for i in ids]

    return run


def test_batches_hold_what_the_budget_allows_and_at_least_one_trace(monkeypatch):
    calls: list[list[int]] = []
    monkeypatch.setattr(rerun, "rerun_batch", fail_above(1000, calls))
    ids = [[k] * n for k, n in enumerate((30, 40, 30, 200, 10, 90))]
    assert [first for first, _ in rerun_traces(random_model("llama"), ids, ids, 100)] == [0, 1, 2, 3, 4, 5]
    assert calls == [[30, 40, 30], [200], [10, 90]]


def test_out_of_memory_halves_the_budget_and_loses_no_trace(monkeypatch, caplog):
    calls: list[list[int]] = []
    monkeypatch.setattr(rerun, "rerun_batch", fail_above(50, calls))
    ids = [[k] * 20 for k in range(7)]
    with caplog.at_level("WARNING", "r2a"):
        assert [first for first, _ in rerun_traces(random_model("llama"), ids, ids, 100)] == list(range(7))
    assert calls == [[20] * 5, [20] * 2, [20] * 2, [20] * 2, [20]]
    assert "out of memory at 5 at a time; continuing with 50 tokens" in caplog.text


def test_a_trace_too_long_for_the_memory_is_left_out(monkeypatch):
    monkeypatch.setattr(rerun, "rerun_batch", fail_above(50, []))
    found = list(rerun_traces(random_model("llama"), [[0] * 20, [1] * 60, [2] * 20], [[], [], []], 80))
    assert found == [(0, None), None, (2, None)]


def test_self_check_passes_a_right_kernel(model, traces):
    assert check_against_eager(model, traces[0][2], "float32") < 1e-4


def test_self_check_stops_a_wrong_kernel_with_numbers(traces, monkeypatch):
    right = rerun.rerun_eager

    def shifted(model: Any, ids: list[int], bounds: Bounds) -> tuple[TraceAttention, None]:
        kept, _ = right(model, ids, bounds)
        kept.reasoning_mass[1, 2, 0] += 0.01
        return kept, None

    monkeypatch.setattr(rerun, "rerun_eager", shifted)
    with pytest.raises(AttentionError, match=r"differ by 0\.01 .*layer 1, head 2"):
        check_against_eager(random_model("llama"), traces[0][2], "float32")


@pytest.mark.parametrize("wrong", [1.001, np.nan])
def test_masses_that_miss_one_stop_the_job(wrong):
    mass = np.full((2, 2, 2, 4), 0.25)
    check_masses(mass, "float32", "uid-1")
    with pytest.raises(AttentionError, match="uid-1: attention masses differ from 1 by"):
        check_masses(mass * wrong, "float32", "uid-1")


def test_attention_implementation_is_put_back_after_an_error():
    planted = planted_model()
    with pytest.raises(RuntimeError), attention_kernel(planted, "sdpa"):
        raise RuntimeError
    assert planted.config._attn_implementation == "eager"


# ---- quantities on attention made by hand

# BOS, a prompt token, <think>, five reasoning tokens, </think>, three answer tokens, EOS
BOUNDS = Bounds(0, 1, 2, 3, 8, 9, 12, 13)


def weights_of(answer_rows: list[list[float]]) -> torch.Tensor:
    """Attention [1, 1, 13, 13] whose answer rows pay these shares to the reasoning, and the rest to BOS."""
    weights = torch.zeros(1, 1, 13, 13)
    weights[..., 0] = 1
    for row, shares in zip((9, 10, 11), answer_rows, strict=True):
        weights[0, 0, row, 3:8] = torch.tensor(shares)
        weights[0, 0, row, 0] = 1 - sum(shares)
    return weights


def test_centre_and_spread_are_the_mean_and_deviation_of_the_position():
    kept = keep_of_weights(weights_of([[0.5, 0, 0, 0, 0], [0.2, 0, 0, 0, 0.2], [0, 0, 0.1, 0.3, 0]]), BOUNDS)
    np.testing.assert_allclose(kept.centre[0, 0], [0, 0.5, (0.1 * 0.5 + 0.3 * 0.75) / 0.4], atol=1e-6)
    np.testing.assert_allclose(kept.spread[0, 0], [0, 0.5, (3 / 16) ** 0.5 * 0.25], atol=1e-6)


@pytest.mark.parametrize(
    ("order", "expected"), [((0, 1, 2), 1), ((2, 1, 0), -1), ((0, 2, 1), 0.5), ((1, 1, 1), np.nan)]
)
def test_tracking_is_the_direction_in_which_the_centre_moves(order, expected):
    at = [[0.4, 0, 0, 0, 0], [0, 0, 0.1, 0, 0], [0, 0, 0, 0, 0.9]]
    kept = keep_of_weights(weights_of([at[k] for k in order]), BOUNDS)
    np.testing.assert_allclose(tracking(kept.centre), [[expected]], atol=1e-6)


def test_tracking_is_scipys_spearman_correlation_with_ties_too():
    rng = np.random.default_rng(1)
    centre = np.stack([rng.random((4, 30)), rng.integers(0, 4, (4, 30)) / 4]).astype(np.float32)
    expected = [[spearmanr(head, np.arange(30)).statistic for head in layer] for layer in centre]
    np.testing.assert_allclose(tracking(centre), expected, atol=1e-6)


def test_tracking_of_a_head_without_attention_inside_the_reasoning_is_undefined():
    kept = keep_of_weights(weights_of([[0.0] * 5, [0.1] * 5, [0.2] * 5]), BOUNDS)
    assert np.isnan(tracking(kept.centre)).all()


def test_cue_preference_compares_attention_per_token():
    kept = keep_of_weights(weights_of([[0.3, 0, 0.1, 0.1, 0.1]] * 3), BOUNDS)
    is_cue = np.array([True, False, False, False, True])  # 0.2 a token, against 0.2 / 3
    np.testing.assert_allclose(cue_preference(kept.answer_mass, BOUNDS, is_cue), [[3.0]], rtol=1e-6)


def test_cue_tokens_are_compared_with_other_tokens_that_begin_a_sentence():
    kept = keep_of_weights(weights_of([[0.3, 0, 0.1, 0.2, 0.1]] * 3), BOUNDS)
    is_cue = np.array([True, False, False, False, False])
    cuts = [BOUNDS.reasoning, BOUNDS.reasoning + 2, BOUNDS.reasoning + 3, BOUNDS.think_close]  # with 0.1 and 0.2 each
    found = cue_over_initial(kept.answer_mass, BOUNDS, is_cue, cuts)
    np.testing.assert_allclose(found, [[0.3 / 0.15]], rtol=1e-6)
    assert np.isnan(cue_over_initial(kept.answer_mass, BOUNDS, is_cue, [cuts[0], cuts[-1]])).all()


@pytest.mark.parametrize("is_cue", [np.zeros(5, bool), np.ones(5, bool)])
def test_cue_preference_is_undefined_without_cues_or_without_anything_else(is_cue):
    kept = keep_of_weights(weights_of([[0.1] * 5] * 3), BOUNDS)
    assert np.isnan(cue_preference(kept.answer_mass, BOUNDS, is_cue)).all()


def test_sentence_masses_split_the_answers_mass_on_the_reasoning():
    kept = keep_of_weights(weights_of([[0.1, 0.2, 0, 0.1, 0.3]] * 3), BOUNDS)
    np.testing.assert_allclose(sentence_mass(kept.answer_mass, [3, 5, 6, 8])[0, 0], [0.3, 0, 0.4], atol=1e-6)


# ---- the store


def test_a_newer_schema_is_refused_in_words(tmp_path: Path):
    path = tmp_path / "store.h5"
    with new_hdf5(path, {}):
        pass
    with open_hdf5(path) as file:
        assert file.attrs["schema_version"] == SCHEMA_VERSION
    with h5py.File(path, "a") as file:
        file.attrs["schema_version"] = SCHEMA_VERSION + 1
    message = f"store.h5: written in schema {SCHEMA_VERSION + 1}, and this code reads up to {SCHEMA_VERSION}"
    with pytest.raises(StoreError, match=message), open_hdf5(path):
        pass

"""Stages 2 and 3 find the one mechanism that tests/planted.py puts into a model by hand."""

import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import Qwen2ForCausalLM

from planted import ANSWER_LOGIT, GIVEN, HEAD, LAYER, N_HEADS, N_LAYERS, PlantedTrace, planted_model, planted_trace
from r2a.attention.reference import keep_of_weights, rerun_eager
from r2a.attention.rerun import attention_rows, predicted_ids, rerun_batch
from r2a.attention.segments import segment_mass, tracking
from r2a.evaluation.hand_off import hand_off_layer
from r2a.heads.focus import rank_heads
from r2a.models.attention import SEAM, attention_kernel
from r2a.patching.components import capture
from r2a.patching.metrics import patch_metrics
from r2a.patching.patcher import Patcher
from r2a.traces import QUERY_SEGMENTS, SEGMENTS, Bounds

LAYERS = np.arange(N_LAYERS)
# resid_pre of the planted layer is read before its heads write: up to there the answer stands in the reasoning
STANDS_IN_REASONING = (LAYERS <= LAYER).astype(float)


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return planted_model()


@pytest.fixture(scope="module")
def traces() -> list[PlantedTrace]:
    rng = random.Random(1)
    return [planted_trace(rng, rng.randrange(len(GIVEN))) for _ in range(8)]


@pytest.fixture(scope="module", params=["fused", "eager"])
def reruns(request: pytest.FixtureRequest, model: Any, traces: list[PlantedTrace]) -> list[tuple[np.ndarray, Any]]:
    """Segment masses and last hidden states of each trace, by either kernel."""
    if request.param == "eager":
        found = [rerun_eager(model, trace.token_ids, trace.bounds) for trace in traces]
    else:
        with attention_kernel(model, SEAM):
            found = rerun_batch(model, [trace.token_ids for trace in traces], [trace.bounds for trace in traces])
    return [(segment_mass(kept, trace.bounds), hidden) for (kept, hidden), trace in zip(found, traces, strict=True)]


@pytest.fixture(scope="module")
def ranked(traces: list[PlantedTrace], reruns: list[tuple[np.ndarray, Any]]) -> pd.DataFrame:
    mass = np.stack([mass for mass, _ in reruns])
    bounds = np.array([trace.bounds for trace in traces])
    return rank_heads(mass, bounds, n_top=1, n_resamples=200, confidence=0.95, seed=0)


# ---- attention


def test_planted_model_gives_the_candidate_that_its_reasoning_says(model, traces, reruns):
    for trace, (_, hidden) in zip(traces, reruns, strict=True):
        assert predicted_ids(model, hidden)[trace.given_position - 1] == GIVEN[trace.candidate]


def test_segment_masses_sum_to_one(reruns):
    for mass, _ in reruns:
        assert mass.shape == (N_LAYERS, N_HEADS, len(QUERY_SEGMENTS), len(SEGMENTS))
        np.testing.assert_allclose(mass.sum(-1), 1, atol=1e-5)


def test_segment_mass_is_the_mean_over_query_tokens_of_the_sum_over_key_tokens():
    bounds = Bounds(0, 1, 4, 5, 9, 10, 13, 14)
    scores = torch.randn(3, 14, 14, generator=torch.Generator().manual_seed(0))
    weights = scores.masked_fill(torch.ones(14, 14).triu(1).bool(), -torch.inf).softmax(-1)
    found = segment_mass(keep_of_weights(weights[None], bounds), bounds)[0]
    for head in range(3):
        for q, name in enumerate(("reasoning", "answer")):
            rows = range(5, 9) if name == "reasoning" else range(10, 13)
            for k in range(7):
                by_hand = sum(float(weights[head, i, j]) for i in rows for j in range(bounds[k], bounds[k + 1]))
                assert float(found[head, q, k]) == pytest.approx(by_hand / len(rows), abs=1e-6)


def test_planted_head_ranks_first_by_a_wide_margin(ranked):
    best, second = ranked.sort_values("rank").iloc[:2].to_dict("records")
    assert (best["layer"], best["head"]) == (LAYER, HEAD)
    assert best["a2r"] > 0.95
    assert best["a2r_low"] > second["a2r_high"] + 0.2


def test_planted_heads_rows_lie_on_the_said_token_and_stand_still(model, traces):
    trace = traces[0]
    answer = range(trace.bounds.answer, trace.bounds.eos)
    (rows,) = attention_rows(model, trace.token_ids, [(LAYER, HEAD)], answer)
    np.testing.assert_allclose(rows[:, trace.said_position], 1, atol=1e-5)
    with attention_kernel(model, SEAM):
        ((kept, _),) = rerun_batch(model, [trace.token_ids], [trace.bounds])
    said = (trace.said_position - trace.bounds.reasoning) / (trace.bounds.think_close - 1 - trace.bounds.reasoning)
    np.testing.assert_allclose(kept.centre[LAYER, HEAD], said, atol=1e-5)
    np.testing.assert_allclose(kept.spread[LAYER, HEAD], 0, atol=1e-4)
    assert np.isnan(tracking(kept.centre)[LAYER, HEAD])


def test_planted_head_alone_is_in_the_top_of_every_trace(ranked):
    is_planted = (ranked["layer"] == LAYER) & (ranked["head"] == HEAD)
    assert (ranked["is_rfh"] == is_planted).all()
    assert (ranked["top_share"] == is_planted.astype(float)).all()


def test_heads_without_a_query_attend_uniformly(ranked):
    np.testing.assert_allclose(ranked.loc[ranked["head"] % 2 == 0, "lift"], 1, rtol=1e-5)


def test_sinks_attend_to_bos(ranked):
    sinks = ranked[(ranked["head"] % 2 == 1) & (ranked["rank"] != 1)]
    assert len(sinks) == N_LAYERS * N_HEADS // 2 - 1
    np.testing.assert_allclose(sinks[["a2bos", "r2bos"]], 1, atol=1e-5)
    np.testing.assert_allclose(sinks[["a2r", "a2p", "a2bot", "a2eot", "a2a", "r2r", "r2p", "r2bot"]], 0, atol=1e-5)


def test_planted_head_attends_to_bos_from_the_reasoning(ranked):
    planted = ranked.set_index("rank").loc[1]
    assert planted["r2bos"] == pytest.approx(1, abs=1e-5)
    assert planted["r2r"] == pytest.approx(0, abs=1e-5)


def uniform_mass(bounds: Bounds) -> np.ndarray:
    """Segment masses [query_segment, key_segment] of a head that attends evenly to all visible tokens."""
    mass = np.zeros((2, 7), np.float32)
    for q, (first, last) in enumerate(((bounds.reasoning, bounds.think_close), (bounds.answer, bounds.eos))):
        for i in range(first, last):
            for j in range(i + 1):
                k = next(k for k in range(7) if bounds[k] <= j < bounds[k + 1])
                mass[q, k] += 1 / (i + 1) / (last - first)
    return mass


def test_lift_of_uniform_attention_is_one():
    bounds = [[0, 1, 6, 7, 30, 31, 37, 38], [0, 0, 3, 4, 9, 10, 11, 11], [0, 1, 20, 21, 22, 23, 60, 61]]
    mass = np.stack([np.broadcast_to(uniform_mass(Bounds(*b)), (2, 3, 2, 7)) for b in bounds])
    heads = rank_heads(mass, np.array(bounds), n_top=2, n_resamples=100, confidence=0.95, seed=0)
    np.testing.assert_allclose(heads["lift"], 1, rtol=1e-5)


def test_lift_counts_how_often_uniform_attention_fits_into_a2r():
    # one answer token at position 9 sees 10 tokens, 5 of them reasoning: uniform a2r is 0.5
    bounds = np.array([[0, 1, 2, 3, 8, 9, 10, 11]])
    mass = np.zeros((1, 1, 2, 2, 7), np.float32)
    mass[0, 0, 0, :, SEGMENTS.index("reasoning")] = 1
    mass[0, 0, 1, :, SEGMENTS.index("reasoning")] = 0.1
    heads = rank_heads(mass, bounds, n_top=1, n_resamples=100, confidence=0.95, seed=0).set_index("head")
    assert heads["lift"].to_dict() == pytest.approx({0: 2.0, 1: 0.2})


# ---- patching the planted model


@pytest.fixture(scope="module")
def pairs() -> list[tuple[PlantedTrace, PlantedTrace]]:
    """Clean and corrupted traces with different candidates, filler and lengths, so positions differ between the two."""
    rng = random.Random(2)
    found = []
    while len(found) < 5:
        clean, corrupted = (planted_trace(rng, candidate) for candidate in rng.sample(range(len(GIVEN)), 2))
        if clean.said_position != corrupted.said_position and clean.given_position != corrupted.given_position:
            found.append((clean, corrupted))
    return found


def role_positions(trace: PlantedTrace) -> dict[str, int]:
    return {
        "answer": trace.said_position,
        "final": trace.given_position - 1,
        "bos": 0,
        "prompt": 2,
        "before the answer": trace.said_position - 1,
        "after the answer": trace.said_position + 1,
        "</think>": trace.bounds.think_close,
        "before the final": trace.given_position - 2,
    }


@pytest.fixture(scope="module")
def patches(model: Any, pairs: list[tuple[PlantedTrace, PlantedTrace]]) -> list[dict[str, dict[str, np.ndarray]]]:
    """For each pair, role and metric, the curve over layers."""
    curves = []
    for clean, corrupted in pairs:
        clean_positions, corrupted_positions = role_positions(clean), role_positions(corrupted)
        found, clean_logits = capture(model, clean.run_ids, list(clean_positions.values()), ["resid_pre"])
        with attention_kernel(model, SEAM):  # the other tests' model keeps its own
            patcher = Patcher(model)
            kept = patcher.keep(corrupted.run_ids, list(corrupted_positions.values()))
            patched = patcher.logits(patcher.patch(kept, "resid_pre", found["resid_pre"], 300))
            corrupted_logits = patcher.logits(kept.resid_pre[-1])[0]
        metrics = patch_metrics(
            patched, clean_logits, corrupted_logits, GIVEN[clean.candidate], GIVEN[corrupted.candidate]
        )
        curves.append(
            {
                role: {name: np.asarray(values)[:, p] for name, values in metrics.items()}
                for p, role in enumerate(clean_positions)
            }
        )
    return curves


def test_planted_logits_are_what_the_weights_imply(model, pairs):
    for clean, _ in pairs:
        _, logits = capture(model, clean.run_ids, [0], [])
        expected = np.zeros(len(logits))
        expected[GIVEN[clean.candidate]] = ANSWER_LOGIT
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_patch_at_answer_token_restores_clean_run_up_to_planted_layer(patches):
    for pair in patches:
        np.testing.assert_allclose(pair["answer"]["normalized_logit_diff"], STANDS_IN_REASONING, atol=1e-3)


def test_patch_at_final_token_restores_clean_run_after_planted_layer(patches):
    for pair in patches:
        np.testing.assert_allclose(pair["final"]["normalized_logit_diff"], 1 - STANDS_IN_REASONING, atol=1e-3)


def test_patch_flips_the_answer_exactly_where_it_restores_the_clean_run(patches):
    for pair in patches:
        assert np.asarray(pair["answer"]["is_flipped"], bool).tolist() == (LAYERS <= LAYER).tolist()
        assert np.asarray(pair["final"]["is_flipped"], bool).tolist() == (LAYERS > LAYER).tolist()


def test_patch_at_any_other_token_changes_nothing(patches):
    for pair in patches:
        for role in pair.keys() - {"answer", "final"}:
            np.testing.assert_allclose(pair[role]["normalized_logit_diff"], 0, atol=1e-3, err_msg=role)
            assert not np.asarray(pair[role]["is_flipped"], bool).any(), role


def test_hand_off_is_the_layer_after_the_planted_head(patches):
    answer, final = (
        np.stack([pair[role]["normalized_logit_diff"] for pair in patches]) for role in ("answer", "final")
    )
    assert hand_off_layer(answer, final, n_resamples=200, confidence=0.95, seed=0) == (*[LAYER + 1] * 3, 1)


def test_hand_off_is_where_the_mean_curves_cross_and_its_interval_spans_the_pairs():
    # one pair crosses at layer 1, the other at layer 3; their mean curves are 2 > 0, 1 > 0.5, 1 = 1, 0 < 2
    answer, final = np.array([[2.0, 0, 0, 0], [2, 2, 2, 0]]), np.array([[0.0, 1, 2, 2], [0, 0, 0, 2]])
    assert hand_off_layer(answer, final, n_resamples=500, confidence=0.95, seed=0) == (3, 1, 3, 1)


def test_curves_that_never_cross_have_no_hand_off():
    ones = np.ones((3, 4))
    found = hand_off_layer(ones, 0 * ones, n_resamples=100, confidence=0.95, seed=0)
    assert np.isnan(found[:3]).all() and found.defined_share == 0


# ---- metrics on logits made by hand

A, B = 1, 3
CLEAN, CORRUPTED = torch.tensor([0.0, 5.0, 1.0, 1.0]), torch.tensor([0.0, 2.0, 1.0, 4.0])  # logit_diff 4 and -2
PATCHED = torch.stack(
    [
        torch.tensor([0.125, 0.5, 0.125, 0.25]).log() + 7,  # a wins
        torch.tensor([0.125, 0.125, 0.5, 0.25]).log() - 3,  # another token wins
        CORRUPTED,
        CLEAN,
    ]
)


def metrics_of(patched: torch.Tensor, corrupted: torch.Tensor = CORRUPTED) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in patch_metrics(patched, CLEAN, corrupted, A, B).items()}


def test_normalized_logit_diff_is_zero_for_the_corrupted_and_one_for_the_clean_run():
    found = metrics_of(PATCHED)
    log2 = np.log(2)
    np.testing.assert_allclose(found["logit_diff"], [log2, -log2, -2, 4], atol=1e-6)
    np.testing.assert_allclose(found["normalized_logit_diff"], [(log2 + 2) / 6, (2 - log2) / 6, 0, 1], atol=1e-6)


def test_probabilities_are_the_softmax_of_the_patched_logits():
    found = metrics_of(PATCHED[:2])
    np.testing.assert_allclose(found["probability_a"], [0.5, 0.125], atol=1e-6)
    np.testing.assert_allclose(found["probability_b"], [0.25, 0.25], atol=1e-6)
    np.testing.assert_allclose(found["log_probability_a"], np.log([0.5, 0.125]), atol=1e-6)
    np.testing.assert_allclose(found["log_probability_b"], np.log([0.25, 0.25]), atol=1e-6)
    np.testing.assert_allclose(found["logit_a"], [np.log(0.5) + 7, np.log(0.125) - 3], atol=1e-6)
    np.testing.assert_allclose(found["logit_b"], [np.log(0.25) + 7, np.log(0.25) - 3], atol=1e-6)


def test_rank_one_is_the_most_probable_token():
    found = metrics_of(torch.tensor([[9.0, 8.0, 7.0, 6.0], [6.0, 9.0, 7.0, 8.0]]))
    assert found["rank_a"].tolist() == [2, 1]
    assert found["rank_b"].tolist() == [4, 2]


def test_flip_needs_the_arg_max_to_become_answer_a():
    assert metrics_of(PATCHED)["is_flipped"].tolist() == [1, 0, 0, 1]


def test_nothing_flips_where_the_corrupted_run_already_prefers_answer_a():
    assert metrics_of(PATCHED, corrupted=torch.tensor([0.0, 3.0, 1.0, 2.0]))["is_flipped"].tolist() == [0, 0, 0, 0]


def test_metrics_keep_the_axes_of_the_patches():
    assert {values.shape for values in metrics_of(PATCHED.reshape(2, 1, 2, 4)).values()} == {(2, 1, 2)}

"""Belief curves and suppression give what whole forward passes give, and find what was planted (METHOD section 5)."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import r2a
from families import D_MODEL, random_ids, tiny_model
from hidden_sentences import whole_logits
from planted import GIVEN, HEAD, LAYER, planted_model, planted_trace
from r2a.api import TraceError
from r2a.attention.rerun import rerun_batch
from r2a.attention.segments import sentence_mass
from r2a.boxes import final_answer
from r2a.evaluation.sentences import settling_step
from r2a.models import ModelError
from r2a.sentences.belief import measure_belief
from r2a.sentences.branches import keep_run, refuse_inexact_branches
from r2a.sentences.endings import ending_of
from r2a.sentences.suppression import measure_matrix, measure_suppression

# full attention; another head layout; windows; softcaps and windows; sinks and windows; chunks; latent attention
ROOT = Path(__file__).parents[2]
FAMILIES = ("qwen2", "llama", "mistral+window", "gemma2", "gpt_oss", "deepseek_v3", "exaone4+window")
SENTENCES = [9, 20, 21, 48, 60, 70]
OPENING, TARGETS = random_ids(5, 1), [random_ids(3, 2), random_ids(2, 3)]
HEADS = frozenset({(1, 0), (1, 3), (2, 2)})
ALL_BATCHES = 10_000


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def effects_of(model, kept, cut, position, arms, batch_tokens):
    """Suppression's effects, [arm, sentence]."""
    return measure_suppression(model, kept, cut, position, arms, lambda ids: True, 1, batch_tokens).effect


def answer_log_probability(logits, answer):
    return float(logits[-len(answer) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())


def greedy_by_hand(model, ids, n_tokens):
    found = []
    for _ in range(n_tokens):
        found.append(int(whole_logits(model, [*ids, *found])[-1].argmax()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("batch_tokens", [ALL_BATCHES, 20])
def test_belief_equals_whole_forward_passes(model, batch_tokens):
    reasoning = random_ids(SENTENCES[-1])
    found = measure_belief(
        model, keep_run(model, reasoning), SENTENCES, OPENING, TARGETS, lambda ids: False, 4, batch_tokens
    )
    for step, end in enumerate(SENTENCES):
        for number, target in enumerate(TARGETS):
            whole = whole_logits(model, [*reasoning[:end], *OPENING, *target])
            assert found.log_probability[number, step] == pytest.approx(answer_log_probability(whole, target), abs=1e-4)
        assert found.greedy[step] == greedy_by_hand(model, [*reasoning[:end], *OPENING], 4)


def test_greedy_answers_that_are_the_target_come_from_its_own_tails(model):
    reasoning = random_ids(SENTENCES[-1])
    own = greedy_by_hand(model, [*reasoning[: SENTENCES[2]], *OPENING], 3)
    found = measure_belief(
        model, keep_run(model, reasoning), SENTENCES, OPENING, [own[:2]], lambda ids: len(ids) == 3, 8, ALL_BATCHES
    )
    assert found.greedy[2] == own and {len(ids) for ids in found.greedy} == {3}


@pytest.mark.parametrize("heads", [None, HEADS], ids=["all heads", "some heads"])
@pytest.mark.parametrize("takes_target", [False, True], ids=["another answer", "greedy answer"])
def test_greedy_answers_without_a_sentence_are_those_of_masked_whole_forward_passes(model, heads, takes_target):
    context, hidden = [*random_ids(SENTENCES[-1]), *OPENING], (SENTENCES[2], SENTENCES[3])
    by_hand: list[int] = []
    for _ in range(4):
        by_hand.append(int(whole_logits(model, [*context, *by_hand], hidden, heads)[-1].argmax()))
    answer = by_hand[:3] if takes_target else TARGETS[0]
    found = measure_suppression(
        model, keep_run(model, [*context, *answer]), SENTENCES, len(context), [heads], lambda ids: False, 4, 100
    )
    assert found.greedy[0][2] == by_hand


@pytest.mark.parametrize("heads", [None, HEADS], ids=["all heads", "some heads"])
def test_suppression_equals_masked_whole_forward_passes(model, heads):
    reasoning, answer = random_ids(SENTENCES[-1]), TARGETS[0]
    ids = [*reasoning, *OPENING, *answer]
    kept = keep_run(model, ids)
    position = len(ids) - len(answer)
    (found,) = effects_of(model, kept, SENTENCES, position, [heads], 100)
    unhidden = answer_log_probability(whole_logits(model, ids), answer)
    for k, hidden in enumerate(pairwise(SENTENCES)):
        by_hand = unhidden - answer_log_probability(whole_logits(model, ids, hidden, heads), answer)
        assert found[k] == pytest.approx(by_hand, abs=1e-4)
    assert np.abs(found).max() > 1e-3


def test_matrix_is_the_divergence_of_whole_forward_passes(model):
    ids = [*random_ids(SENTENCES[-1]), *OPENING]
    found = measure_matrix(model, keep_run(model, ids), SENTENCES, ALL_BATCHES)
    before = whole_logits(model, ids).log_softmax(-1)
    for k in range(len(SENTENCES) - 1):
        after = whole_logits(model, ids, (SENTENCES[k], SENTENCES[k + 1])).log_softmax(-1)
        divergence = (before.exp() * (before - after)).sum(-1)
        for to in range(len(SENTENCES) - 1):
            tokens = range(SENTENCES[to] - 1, SENTENCES[to + 1] - 1)  # which predict the sentence's
            expected = float(divergence[list(tokens)].mean()) if to > k else np.nan
            assert found[k, to] == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_no_heads_have_no_effect_and_batches_change_nothing():
    model = tiny_model("qwen2")
    ids = random_ids(SENTENCES[-1] + 6)
    kept = keep_run(model, ids)
    whole = effects_of(model, kept, SENTENCES, 73, [None, frozenset(), HEADS], ALL_BATCHES)
    split = effects_of(model, kept, SENTENCES, 73, [None, frozenset(), HEADS], 1)
    assert np.allclose(whole, split, atol=1e-5) and (whole[1] == 0).all()


@pytest.mark.parametrize("family", ["falcon_h1", "qwen3_next"])
def test_models_that_carry_a_state_from_token_to_token_are_refused_by_name(family):
    with pytest.raises(ModelError, match="recurrent"):
        refuse_inexact_branches(tiny_model(family), random_ids(40))


def test_check_refuses_a_model_whose_branches_are_not_its_own(monkeypatch):
    model = tiny_model("qwen2")
    refuse_inexact_branches(model, random_ids(100))
    monkeypatch.setattr("r2a.sentences.branches.Branches.read", lambda _: [torch.zeros(32, D_MODEL)])
    with pytest.raises(ModelError, match="cannot be continued exactly"):
        refuse_inexact_branches(model, random_ids(100))


@pytest.mark.parametrize(
    ("is_own", "step"), [([1, 1, 1], 0), ([1, 0, 1, 1], 2), ([0, 1], 1), ([1, 1, 0], None), ([0], None), ([1], 0)]
)
def test_belief_settles_where_the_greedy_answer_stays_the_final_one(is_own, step):
    assert settling_step(is_own) == step


# ---- ground truth


@pytest.mark.parametrize("seed", range(4))
def test_every_measure_finds_the_planted_sentence_and_head(seed):
    model, rng = planted_model(), random.Random(seed)
    trace = planted_trace(rng, rng.randrange(len(GIVEN)))
    reasoning = trace.bounds.span("reasoning")
    cut = [*range(reasoning.start, reasoning.stop, 3), reasoning.stop]
    said = np.array([first <= trace.said_position < last for first, last in pairwise(cut)])
    opening, answer = trace.token_ids[reasoning.stop : trace.given_position], [GIVEN[trace.candidate]]

    def share(values):
        """The share of the total that is on the sentence that says the answer."""
        return np.abs(values)[said].sum() / np.abs(values).sum()

    kept = keep_run(model, trace.token_ids[: reasoning.stop])
    belief = measure_belief(model, kept, cut, opening, [answer], lambda ids: True, 1, 1000)
    assert share(np.diff(belief.log_probability[0])) >= 0.95
    settled = int(np.flatnonzero(said)[0]) + 1
    assert [ids == answer for ids in belief.greedy] == [step >= settled for step in range(len(cut))]

    others = frozenset((layer, head) for layer in range(4) for head in range(4)) - {(LAYER, HEAD)}
    kept = keep_run(model, [*trace.token_ids[: trace.given_position], *answer])
    arms = [None, frozenset({(LAYER, HEAD)}), others]
    everywhere, planted, elsewhere = effects_of(model, kept, cut, trace.given_position, arms, 1000)
    assert share(everywhere) >= 0.95 and share(planted) >= 0.95
    assert everywhere[said][0] > 3 and np.abs(elsewhere).max() < 1e-3
    assert np.nanmax(measure_matrix(model, kept, cut, 1000)) < 1e-3  # no sentence serves another

    ((attention, _),) = rerun_batch(model, [trace.token_ids], [trace.bounds])
    assert share(sentence_mass(attention.answer_mass, cut)[LAYER, HEAD]) >= 0.95


@pytest.fixture(scope="module", params=["tiny-qwen", "tiny-llama"])
def chains(request):
    """A shipped model and its traces of six steps, each of which needs the previous one."""
    model = r2a.load_model(ROOT / "resources" / "models" / request.param)
    lines = (ROOT / "resources" / "datasets" / "puzzles.jsonl").read_text().splitlines()
    problems = map(json.loads, lines)
    chosen = [row["problem"] for row in problems if row["area"] in ("compass", "cups") and row["level"] == 6][::7]
    return model, [r2a.generate_trace(model, problem, max_new_tokens=100) for problem in chosen]


@pytest.mark.slow
def test_tiny_models_make_up_their_mind_at_the_last_step(chains):
    model, traces = chains
    early = []
    for trace in traces:
        curve = r2a.belief_curve(model, trace, stub=None)
        last = curve.iloc[-1]
        assert last["sentence"].startswith("Final answer") and last["is_own"] and last["log_probability"] > -0.1
        assert last["greedy"] == final_answer(trace.text("answer"))
        # with the last step of the chain, or the line that repeats its result
        early.append(len(curve) - 1 - settling_step(curve["is_own"].tolist()))
    assert np.median(early) <= 1 and np.mean(np.array(early) <= 1) >= 0.8  # a guess may hold by chance


@pytest.mark.slow
def test_each_step_of_a_tiny_model_serves_the_next_one(chains):
    model, traces = chains
    neighbours, further, last_two, others = [], [], [], []
    for trace in traces:
        effects = r2a.sentence_effects(model, trace, stub=None)
        cut = [trace.bounds.reasoning, *effects["last"]]
        # the answer is read off the last step, or off the line that repeats its result
        last_two.append(effects["effect"].iloc[-2:].max())
        others.append(effects["effect"].iloc[:-2].abs().max())
        assert (effects["greedy_without"].iloc[:-2] == final_answer(trace.text("answer"))).all()
        matrix = measure_matrix(model.model, keep_run(model.model, trace.token_ids), cut, 4096)
        steps = matrix[1:-1, 1:-1]  # from the start to the last step
        neighbours.append(np.diagonal(steps, 1).mean())
        further.append(np.mean([np.diagonal(steps, k).mean() for k in range(2, len(steps))]))
        assert matrix[-2, -1] > 0.5  # the last step serves the final answer
    assert np.mean(last_two) > 0.5 and np.mean(others) < 0.05 * np.mean(last_two)
    assert np.mean(neighbours) > 3 * np.mean(further) and np.mean(neighbours) > 0.3


# ---- the front door


def test_front_door_gives_what_whole_runs_give(chains):
    model, (trace, *_) = chains
    curve = r2a.belief_curve(model, trace, reference="nowhere")
    ending = ending_of(model.tokenizer, model.marks, trace.text("answer"), r2a.api.STUB, ["nowhere"])
    effects = r2a.sentence_effects(model, trace, [(1, 0), (2, 3)])
    assert "".join(curve["sentence"]) == "".join(effects["sentence"]) == trace.text("reasoning")
    whole = [*trace.token_ids[: trace.bounds.think_close], *ending.opening]
    for column, answer in zip(("log_probability", "reference_log_probability"), ending.answers, strict=True):
        expected = answer_log_probability(whole_logits(model.model, [*whole, *answer]), answer)
        assert curve[column].iloc[-1] == pytest.approx(expected, abs=1e-4)
    hidden = tuple(effects[["first", "last"]].iloc[3])
    answer = ending.answers[0]
    assert effects["greedy_without"].iloc[0] == final_answer(trace.text("answer"))  # the first sentence only says hello
    for column, heads in (("effect", None), ("effect_in_heads", [(1, 0), (2, 3)])):
        lost = [
            answer_log_probability(whole_logits(model.model, [*whole, *answer], h, heads), answer)
            for h in ((0, 0), hidden)
        ]
        assert effects[column].iloc[3] == pytest.approx(lost[0] - lost[1], abs=1e-4)
    mass = r2a.segment_attention(model, trace).mass("a2r")[[1, 2], [0, 3]].mean()
    assert (effects["read"] * (effects["last"] - effects["first"])).sum() == pytest.approx(mass, abs=1e-5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("No box.", "no final answer"),
        ("\\boxed{}", "final answer is an empty box"),
        ("It is \\boxed{ }.", "final answer is an empty box"),
    ],
)
@pytest.mark.parametrize("stub", [r2a.api.STUB, None])
def test_trace_without_a_final_answer_is_refused(chains, answer, said, stub):
    model, _ = chains
    trace = r2a.trace_from_text(model, "Why?", "\nSo.\n", answer)
    with pytest.raises(TraceError, match=said):
        r2a.belief_curve(model, trace, stub=stub)

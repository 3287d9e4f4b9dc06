"""Every method that says which head carries the answer, on models in which that is known (tests/planted.py)."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from planted import FIRST, GIVEN, HEAD, IDLE, LAYER, LITTLE, N_HEADS, N_LAYERS, SECOND, planted_model, planted_trace
from r2a.ablation.arms import Arm
from r2a.ablation.decoding import Rows, read
from r2a.attention.rerun import rerun_batch
from r2a.attention.segments import segment_mass
from r2a.head_sets import matched_heads
from r2a.heads.focus import density, rank_heads, sink_free
from r2a.heads.registry import stacked
from r2a.models.attention import SEAM, attention_kernel
from r2a.patching.attribution import direct_attribution
from r2a.patching.components import capture
from r2a.patching.patcher import Patcher
from r2a.patching.restarts import Patch, PatchPath

CARRIER = (LAYER, HEAD)
MECHANISMS = ["one_head", "attends_idly", "attends_little", "in_sequence"]
EVERY = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]
Scores = dict[tuple[int, int], float]


class Planted:
    """A planted model with a clean and a corrupted trace of different lengths."""

    def __init__(self, mechanism: str) -> None:
        self.model = planted_model(mechanism)
        self.patcher = Patcher(self.model)
        rng = random.Random(2)
        self.traces = [planted_trace(rng, candidate) for candidate in (1, 6, 3, 0)]
        self.clean, self.corrupted = self.traces[:2]
        self.answers = GIVEN[self.clean.candidate], GIVEN[self.corrupted.candidate]
        self.runs = {}
        for name, trace in (("clean", self.clean), ("corrupted", self.corrupted)):
            at = [trace.said_position, trace.given_position - 1]
            self.runs[name] = self.patcher.keep(trace.run_ids, at, path_start=trace.bounds.answer)
        self.differences = {name: self.difference(run.resid_pre[-1])[0] for name, run in self.runs.items()}

    def difference(self, resid_post: torch.Tensor) -> np.ndarray:
        logits = self.patcher.logits(resid_post)
        return (logits[:, self.answers[0]] - logits[:, self.answers[1]]).numpy()

    def restored(self, resid_post: torch.Tensor) -> np.ndarray:
        """The normalized logit difference of each patched run."""
        corrupted = self.differences["corrupted"]
        return (self.difference(resid_post) - corrupted) / (self.differences["clean"] - corrupted)

    def said(self, layer: int, path: PatchPath | None = None) -> Patch:
        """The token that says the answer, taken from the clean run."""
        run = self.runs["corrupted"]
        vector = self.runs["clean"].resid_pre[layer][:1]
        return Patch(run, layer, (self.corrupted.said_position,), vector, path)


def path_of(*heads: tuple[int, int], off: tuple[int, ...] = ()) -> PatchPath:
    on_path = torch.zeros(N_LAYERS, N_HEADS, dtype=torch.bool)
    for place in heads:
        on_path[place] = True
    return PatchPath(on_path, torch.tensor([layer not in off for layer in range(N_LAYERS)]))


@pytest.fixture(scope="module", params=MECHANISMS)
def planted(request: pytest.FixtureRequest) -> tuple[str, Planted]:
    return request.param, Planted(request.param)


# ---- the methods: each head's score


def ranking_of(planted: Planted) -> pd.DataFrame:
    with attention_kernel(planted.model, SEAM):
        found = rerun_batch(
            planted.model, [trace.token_ids for trace in planted.traces], [trace.bounds for trace in planted.traces]
        )
    mass = np.stack([segment_mass(kept, trace.bounds) for (kept, _), trace in zip(found, planted.traces, strict=True)])
    bounds = np.array([trace.bounds for trace in planted.traces])
    table = rank_heads(mass, bounds, 1, 100, 0.95, 0)
    table["sink_free"] = stacked(map(sink_free, mass)).mean().ravel()
    table["density"] = stacked(map(density, mass, bounds)).mean().ravel()
    for name in ("contribution", "output_share"):
        values = np.nanmean([np.nan_to_num(getattr(kept, name)) for kept, _ in found], axis=0)
        table[name] = values[table["layer"], table["head"]]
    return table.set_index(["layer", "head"], drop=False)


def by_attention(planted: Planted) -> Scores:
    return ranking_of(planted)["a2r"].to_dict()


def without_sinks(planted: Planted) -> Scores:
    return ranking_of(planted)["sink_free"].fillna(0).to_dict()  # undefined if all attention is on BOS


def by_density(planted: Planted) -> Scores:
    return ranking_of(planted)["density"].to_dict()


def by_contribution(planted: Planted) -> Scores:
    return ranking_of(planted)["contribution"].to_dict()


def by_ablation(planted: Planted) -> Scores:
    """How much zeroing each head lowers the answer's logit."""
    planted.model.set_attn_implementation(SEAM)
    trace = planted.clean
    reading = read(planted.model, trace.token_ids[: trace.bounds.answer], trace.bounds)
    arms = [Arm("unablated", "unablated", 0, ()), *(Arm("zero", "rfh", 0, (head,)) for head in EVERY)]
    decoding = Rows(planted.model, [(reading, arm) for arm in arms])
    for token in trace.run_ids[trace.bounds.answer :]:
        logits = decoding.step(torch.full((len(arms),), token))[:, GIVEN[trace.candidate]]
    return dict(zip(EVERY, (1 - logits[1:] / logits[0]).tolist(), strict=True))


def by_output(planted: Planted) -> Scores:
    """Each head's clean z, patched in at the last token."""
    trace, run = planted.clean, planted.runs["corrupted"]
    vectors = capture(planted.model, trace.run_ids, [trace.said_position, trace.given_position - 1], ["z"])[0]["z"]
    patches = planted.patcher.patches(run, "z", vectors[:, 1:], [1])
    return dict(zip(EVERY, planted.restored(planted.patcher.finish(patches, 200)), strict=True))


def by_path(planted: Planted) -> Scores:
    """The clean token in the reasoning, seen from the answer by only one head."""
    patches = [planted.said(0, path_of(head)) for head in EVERY]
    return dict(zip(EVERY, planted.restored(planted.patcher.finish(patches, 200)), strict=True))


def by_attribution(planted: Planted) -> Scores:
    """Each head's share of the clean run's logit difference."""
    heads = direct_attribution(planted.patcher, planted.runs["clean"], *planted.answers).heads
    return {head: float(heads[head]) / float(planted.differences["clean"]) for head in EVERY}


def by_gradient(planted: Planted) -> Scores:
    """The gradient's estimate of what each head's clean z does at the last token."""
    trace, run = planted.clean, planted.runs["corrupted"]
    clean = capture(planted.model, trace.run_ids, [trace.said_position, trace.given_position - 1], ["z"])[0]["z"][:, 1]
    own = torch.stack([z[1] for z in run.z]).unflatten(-1, (N_HEADS, -1))
    gradient = planted.patcher.gradients(run, *planted.answers, ["z"])["z"][:, 1]
    return {head: float((gradient * (clean - own)).sum(-1)[head]) for head in EVERY}


METHODS = [by_contribution, by_ablation, by_output, by_path, by_attribution, by_gradient]
# in sequence, the first head reads the reasoning, the second writes the answer, and without either there is none
IN_SEQUENCE: dict[Any, list[tuple[int, int]]] = {
    by_contribution: [FIRST], by_ablation: [FIRST, SECOND], by_output: [SECOND], by_path: [FIRST],
    by_attribution: [SECOND], by_gradient: [SECOND],
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_heads_that_carry_the_answer_and_no_other(planted, method: Callable[..., Scores]):
    mechanism, model = planted
    carriers = IN_SEQUENCE[method] if mechanism == "in_sequence" else [CARRIER]
    scores = method(model)
    least = min(scores[head] for head in carriers)
    others = max(score for head, score in scores.items() if head not in carriers)
    assert least > 0.4
    assert others < 0.3 * least  # FIRST's output at the last token is one of those that SECOND reads


def test_the_lens_sees_the_answer_enter_in_the_layer_whose_head_writes_it_and_in_no_other(planted):
    mechanism, model = planted
    writer = SECOND if mechanism == "in_sequence" else CARRIER
    preferred = [model.difference(stream[-1:])[0] for stream in model.runs["clean"].resid_pre]
    gains = np.diff(preferred) / model.differences["clean"]
    np.testing.assert_allclose(gains, [float(layer == writer[0]) for layer in range(N_LAYERS)], atol=0.01)


def test_a_patched_reasoning_restores_the_answer_up_to_the_layer_that_reads_it_and_the_last_token_after_it_is_written(
    planted,
):
    """The hand-off: where the reader is the writer it takes no layer, and in sequence the layers between the two."""
    mechanism, model = planted
    reader, writer = (FIRST, SECOND) if mechanism == "in_sequence" else (CARRIER, CARRIER)
    last = [
        Patch(model.runs["corrupted"], layer, (model.corrupted.given_position - 1,), stream[-1:])
        for layer, stream in enumerate(model.runs["clean"].resid_pre[:N_LAYERS])
    ]
    said, final = (
        model.restored(model.patcher.finish(patches, 200)) for patches in ([*map(model.said, range(N_LAYERS))], last)
    )
    np.testing.assert_allclose(said, [float(layer <= reader[0]) for layer in range(N_LAYERS)], atol=1e-3)
    for layer in range(N_LAYERS):
        if layer > writer[0]:
            assert final[layer] == pytest.approx(1, abs=1e-3)
        elif layer <= reader[0]:
            assert final[layer] == pytest.approx(0, abs=1e-3)
        else:  # SECOND also reads the other tokens of the answer
            assert 0 < final[layer] < 0.5


# ---- what attention alone says

ATTENTION = [by_attention, without_sinks, by_density]


@pytest.mark.parametrize("method", ATTENTION)
def test_attention_alone_takes_an_idle_head_for_the_one_that_carries(method):
    scores = method(Planted("attends_idly"))
    others = [score for head, score in scores.items() if head not in (IDLE, CARRIER)]
    assert scores[IDLE] >= scores[CARRIER] * 0.999 and scores[CARRIER] > 1.5 * max(others)


def test_a2r_puts_the_idle_head_first():
    scores = by_attention(Planted("attends_idly"))
    assert max(scores, key=scores.__getitem__) == IDLE
    assert scores[IDLE] > scores[CARRIER]


def test_a2r_puts_a_head_that_attends_little_behind_heads_that_do_nothing():
    scores = by_attention(Planted("attends_little"))
    assert scores[CARRIER] == pytest.approx(LITTLE, abs=0.01)
    uniform = [(layer, head) for layer, head in EVERY if head % 2 == 0]
    assert all(scores[head] > 3 * scores[CARRIER] for head in uniform)


@pytest.mark.parametrize("method", [without_sinks, by_density])
def test_where_the_first_token_does_not_count_a_head_that_attends_little_comes_first(method):
    scores = method(Planted("attends_little"))
    assert max(scores, key=scores.__getitem__) == CARRIER


@pytest.mark.parametrize("method", ATTENTION)
def test_attention_alone_does_not_see_the_second_head_of_a_sequence(method):
    scores = method(Planted("in_sequence"))
    assert max(scores, key=scores.__getitem__) == FIRST
    assert scores[SECOND] < 0.01


# ---- paths


def test_paths_split_the_whole_effect_among_the_heads_that_read_the_reasoning(planted):
    mechanism, model = planted
    reader = FIRST if mechanism == "in_sequence" else CARRIER
    others = [head for head in EVERY if head != reader]
    for layer in range(reader[0] + 1):
        patches = [model.said(layer, path) for path in (None, path_of(reader), path_of(*others), path_of(*EVERY))]
        restored = model.restored(model.patcher.finish(patches, 200))
        np.testing.assert_allclose(restored, [1, 1, 0, 1], atol=1e-3)


def test_of_the_mlps_only_the_one_between_two_heads_in_sequence_is_on_their_path(planted):
    mechanism, model = planted
    reader = FIRST if mechanism == "in_sequence" else CARRIER
    patches = [model.said(0, path_of(reader, off=(layer,))) for layer in range(N_LAYERS)]
    expected = np.ones(N_LAYERS)
    if mechanism == "in_sequence":
        expected[FIRST[0]] = 0
    np.testing.assert_allclose(model.restored(model.patcher.finish(patches, 200)), expected, atol=1e-3)


def test_a_patch_changes_the_outputs_of_the_carrying_heads_and_of_no_others_and_the_stream_after_them(planted):
    mechanism, model = planted
    carriers = [FIRST, SECOND] if mechanism == "in_sequence" else [CARRIER]
    changed = {*carriers, IDLE} if mechanism == "attends_idly" else set(carriers)
    changed |= {(layer, head - 1) for layer, head in changed}  # attend to all tokens, and have the same values
    patches = [model.said(layer) for layer in range(N_LAYERS)]
    stream, heads = model.patcher.follow(patches, 200)
    for layer in range(N_LAYERS):
        reached = {head for head in changed if head[0] >= layer}
        if mechanism == "in_sequence" and layer > FIRST[0]:
            reached = set()
        sizes = heads[layer].norm(dim=-1)
        assert {head for head in EVERY if sizes[head] > 0.01} == reached
        first = min((head[0] for head in reached & set(carriers)), default=N_LAYERS)
        moved = stream[layer].norm(dim=-1) > 0.01
        assert moved.tolist() == [later >= first for later in range(N_LAYERS)]


# ---- controls


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_head_that_rests_on_bos_is_matched_to_one_that_carries(mechanism):
    table = ranking_of(Planted(mechanism)).reset_index(drop=True)
    carriers = {FIRST, SECOND} if mechanism == "in_sequence" else {CARRIER}
    for seed in range(20):
        for carrier in carriers:
            matched = matched_heads([carrier], table, random.Random(seed))
            assert set(matched) <= carriers

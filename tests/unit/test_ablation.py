"""Answers under ablation, against whole passes with hooks, the planted model, and numbers worked out by hand."""

import json
import random
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import r2a.ablation.runs
from families import random_ids, tiny_model
from limited_memory import with_room_for
from planted import FIRST, GIVEN, HEAD, LAYER, N_HEADS, N_LAYERS, SECOND, planted_model, planted_trace
from r2a.ablation.arms import Arm, arms_of_trace
from r2a.ablation.decoding import (
    MODES,
    REPLACED,
    Outputs,
    Reading,
    Rows,
    answer_outputs,
    generate,
    of_others,
    read,
    refuse_inexact_ablation,
)
from r2a.ablation.runs import OF_OTHERS, AblationError, ablate_heads
from r2a.attention.reference import rerun_eager
from r2a.attention.segments import segment_mass
from r2a.evaluation.ablation import ablation_effect_table, write_ablation
from r2a.figures.ablation import plot_ablation
from r2a.grading.ablation import grade_ablation
from r2a.head_sets import matched_heads, random_heads
from r2a.heads.focus import short_mass
from r2a.models import ModelError, load_model, load_tokenizer, marks_of, read_manifest, resolve_model
from r2a.models.attention import SEAM
from r2a.prompts import prompt_ids
from r2a.roles import RANDOM, RFH, RFH_FROM_PROMPT, UNABLATED
from r2a.shards import WHOLE, gather_shards
from r2a.statistics import difference_interval
from r2a.store import NothingToMeasure, provenance, write_parquet
from r2a.study import ConfigError, load_study
from r2a.summary.ablation import find_ablation
from r2a.traces import Bounds, segment_bounds

ROOT = Path(__file__).parents[2]
ARCHITECTURES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
}
SIZES = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
NOTHING = Arm(UNABLATED, UNABLATED, 0, ())
# two traces of different lengths: ids and bounds
IDS = [[1, 17, 4, 30, 2, 22, 9, 41, 5, 12, 3, 7, 19, 33, 8], [1, 8, 2, 33, 4, 25, 3, 6, 40, 28, 7]]
BOUNDS = [Bounds(0, 1, 4, 5, 10, 11, 15, 15), Bounds(0, 1, 2, 3, 6, 7, 11, 11)]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    kind, config = ARCHITECTURES[request.param]
    torch.manual_seed(3)
    return kind(config(**SIZES, attn_implementation=SEAM)).eval()


def head_outputs(model: Any, ids: list[int]) -> torch.Tensor:
    """z of one whole eager run, [layer, token, head, d_head]."""
    found: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for layer in model.model.layers:
            keep = layer.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0]))
            hooks.callback(keep.remove)
        eager(model, ids)
    return torch.stack(found).unflatten(-1, (model.config.num_attention_heads, -1))


@torch.no_grad()
def eager(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits of one whole run without a cache, [token, vocabulary]."""
    model.set_attn_implementation("eager")
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    model.set_attn_implementation(SEAM)
    return logits


MOVED_TO = [slice(6, 8), slice(4, 6)]  # a sentence of each trace's reasoning


def reading_of(model: Any, trace: int, outputs: dict[int, Outputs]) -> Reading:
    """A trace's reading, with what ablation puts in from the other trace."""
    reading = read(model, IDS[trace][: BOUNDS[trace].answer], BOUNDS[trace])
    reading.mean, reading.resampled = of_others(outputs, trace, 1 - trace)
    reading.moved_to = MOVED_TO[trace]
    return reading


def hooked(model: Any, trace: int, arm: Arm, outputs: dict[int, Outputs]) -> torch.Tensor:
    """The slow reference: logits of one whole run whose answer rows are ablated by hooks, [token, vocabulary]."""
    ids, bounds, reading = IDS[trace], BOUNDS[trace], reading_of(model, trace, outputs)
    answer, reasoning = slice(bounds.answer, None), bounds.span("reasoning")
    put_in = {
        "zero": torch.zeros_like(reading.resampled[:1]),
        "mean": reading.mean[None],
        "resample": reading.resampled,
    }

    def replace(number: int, heads: list[int]) -> Any:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            z = inputs[0].unflatten(-1, (model.config.num_attention_heads, -1)).clone()
            for step, row in enumerate(range(bounds.answer, len(ids))):
                z[0, row, heads] = put_in[arm.mode][step % len(put_in[arm.mode]), number, heads]
            return (z.flatten(2),)

        return hook

    def hide(heads: list[int]) -> Any:
        def hook(_module: Any, inputs: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            causal = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
            mask = causal.repeat(1, model.config.num_attention_heads, 1, 1)
            mask[0, heads, answer, bounds.span(arm.hides)] = -torch.inf
            return inputs, arguments | {"attention_mask": mask}

        return hook

    def edit(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any) -> Any:
        _, weights = whole(module, query, key, value, *rest, **named)
        for head in (head for at, head in arm.heads if at == module.layer_idx):
            inside = weights[0, head, answer, reasoning]
            mass = inside.sum(-1, keepdim=True)
            edited = mass * inside**2 / (inside**2).sum(-1, keepdim=True)
            if arm.mode == "moved":
                edited = torch.zeros_like(inside)
                there = slice(reading.moved_to.start - bounds.reasoning, reading.moved_to.stop - bounds.reasoning)
                edited[:, there] = mass / (there.stop - there.start)
            weights[0, head, answer, reasoning] = edited
        value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    whole = sys.modules[type(model).__module__].eager_attention_forward
    with ExitStack() as hooks:
        if arm.mode in ("moved", "sharpened"):
            hooks.enter_context(patch.object(sys.modules[type(model).__module__], "eager_attention_forward", edit))
        for number, layer in enumerate(model.model.layers):
            heads = [head for at, head in arm.heads if at == number]
            if heads and arm.mode == "cut_off":
                handle = layer.self_attn.register_forward_pre_hook(hide(heads), with_kwargs=True)
            elif heads and arm.mode in put_in:
                handle = layer.self_attn.o_proj.register_forward_pre_hook(replace(number, heads))
            else:
                continue
            hooks.callback(handle.remove)
        return eager(model, ids)


def forced(model: Any, rows: list[tuple[int, Arm]]) -> torch.Tensor:
    """Logits after each of a trace's own answer tokens, one row per (trace, arm): [row, token, vocabulary]."""
    outputs = answer_outputs(model, IDS, BOUNDS)
    readings = [reading_of(model, trace, outputs) for trace in range(2)]
    decoding = Rows(model, [(readings[trace], arm) for trace, arm in rows])
    answers = [IDS[trace][BOUNDS[trace][5] :] for trace, _ in rows]
    return torch.stack([decoding.step(torch.tensor(tokens)) for tokens in zip(*answers, strict=True)], 1)


@pytest.mark.parametrize("mode", [*MODES, "cut off from the prompt"])
def test_decoding_from_the_shared_reading_equals_whole_runs_with_hooks(model, mode):
    outputs = answer_outputs(model, IDS, BOUNDS)
    several = [((0, 0),), ((2, 3),), ((0, 1), (1, 2), (2, 0), (2, 1)), tuple(np.ndindex(3, 4))]
    named = (mode, "reasoning") if mode in MODES else ("cut_off", "prompt")
    rows = [(trace, Arm(named[0], RFH, 0, heads, named[1])) for trace in range(2) for heads in several]
    found = forced(model, rows)
    for logits, (trace, arm) in zip(found, rows, strict=True):
        first = BOUNDS[trace][5]
        slow = hooked(model, trace, arm, outputs)[first:]
        np.testing.assert_allclose(logits, slow, atol=1e-4, err_msg=f"trace {trace}, {arm}")
        # the ablation does something, else the comparison would prove nothing
        assert float((slow - eager(model, IDS[trace])[first:]).abs().max()) > 1e-3


def test_unablated_decoding_is_the_models_own(model):
    found = forced(model, [(0, NOTHING), (1, NOTHING)])
    for trace, logits in enumerate(found):
        np.testing.assert_allclose(logits, eager(model, IDS[trace])[BOUNDS[trace][5] :], atol=1e-4)
        reading = read(model, IDS[trace][: BOUNDS[trace][5]], BOUNDS[trace])
        np.testing.assert_allclose(
            reading.logits.detach(), eager(model, IDS[trace])[BOUNDS[trace][4]], atol=1e-4
        )  # of </think>


def test_rows_that_stay_are_not_changed_by_rows_that_leave(model):
    arms = [NOTHING, Arm("zero", RFH, 0, ((1, 1),)), Arm("cut_off", RFH, 0, ((2, 0),))]
    rows = [(trace, arm) for trace in range(2) for arm in arms]
    whole = forced(model, rows)
    readings = [read(model, ids[: b[5]], b) for ids, b in zip(IDS, BOUNDS, strict=True)]
    decoding = Rows(model, [(readings[trace], arm) for trace, arm in rows])
    staying, answers = [1, 2, 5], [IDS[trace][BOUNDS[trace][5] :] for trace, _ in rows]
    decoding.step(torch.tensor([tokens[0] for tokens in answers]))
    decoding.keep(staying)
    found = decoding.step(torch.tensor([answers[row][1] for row in staying]))
    np.testing.assert_allclose(found, whole[staying, 1], atol=1e-5)


def test_means_are_of_the_other_traces_each_weighing_the_same_however_long(model):
    ids, bounds = [*IDS, IDS[0][:13]], [*BOUNDS, BOUNDS[0]._replace(eos=13, end=13)]
    outputs = answer_outputs(model, ids, bounds)
    own = [head_outputs(model, i)[:, b.answer : b.eos] for i, b in zip(ids, bounds, strict=True)]
    mean, kept = of_others(outputs, 1, 2)
    np.testing.assert_allclose(mean, (own[0].mean(1) + own[2].mean(1)) / 2, atol=1e-5)
    np.testing.assert_allclose(kept[[0, -1]], own[2][:, [0, -1]].transpose(0, 1), atol=1e-5)


def test_a2r_is_that_of_eager_attention_and_leaves_out_ablated_heads(model):
    """With heads of the last layer, so that no other head's attention changes."""
    ids, bounds = IDS[0], BOUNDS[0]
    reading = reading_of(model, 0, answer_outputs(model, IDS, BOUNDS))
    (answer,) = generate(model, [(reading, NOTHING)], [5], {1000})
    written = answer.token_ids[:-1]
    arms = [NOTHING, *(Arm(mode, RFH, 0, ((2, 0), (2, 3))) for mode in (*REPLACED, "cut_off"))]
    decoding = Rows(model, [(reading, arm) for arm in arms])
    total = torch.zeros(len(arms))
    for token in written:
        decoding.step(torch.full((len(arms),), token))
        total += decoding.on_reasoning
    end = bounds.answer + len(written)
    shorter = bounds._replace(eos=end, end=end)
    model.set_attn_implementation("eager")
    kept, _ = rerun_eager(model, [*ids[: bounds.answer], *written], shorter)
    model.set_attn_implementation(SEAM)
    a2r = short_mass(segment_mass(kept, shorter), "a2r")
    assert answer.a2r == pytest.approx(float(a2r.mean()), abs=1e-5)
    for arm, found in zip(arms, total / len(written), strict=True):
        left = a2r.copy()
        for head in arm.heads:
            left[head] = 0
        assert float(found) == pytest.approx(float(left.mean()), abs=1e-5), arm


def test_the_centre_is_that_of_the_heads_left_alone(model):
    ids, bounds = IDS[0], BOUNDS[0]
    reading = reading_of(model, 0, answer_outputs(model, IDS, BOUNDS))
    arms = [NOTHING, Arm("zero", RFH, 0, ((2, 0), (2, 3))), Arm("moved", RFH, 0, ((2, 1),))]
    decoding = Rows(model, [(reading, arm) for arm in arms])
    decoding.step(torch.full((3,), ids[bounds.answer]))
    model.set_attn_implementation("eager")
    output = model(torch.tensor([ids[: bounds.answer + 1]]), output_attentions=True, use_cache=False)
    model.set_attn_implementation(SEAM)
    weights = torch.stack(output.attentions)[:, 0, :, -1, bounds.span("reasoning")].detach()  # [layer, head, token]
    position = torch.linspace(0, 1, weights.shape[-1])
    for arm, found in zip(arms, decoding.centre, strict=True):
        left = weights.clone()
        for head in arm.heads:
            left[head] = 0
        assert float(found) == pytest.approx(float((left @ position).sum() / left.sum()), abs=1e-5), arm


def test_a_model_with_recurrent_layers_is_refused_by_name():
    with pytest.raises(ModelError, match=r"^Lfm2ForCausalLM: its heads cannot be ablated: its recurrent layers"):
        refuse_inexact_ablation(tiny_model("lfm2"), IDS[0])


def test_a_model_whose_tokens_reach_later_ones_outside_of_attention_is_refused_by_name():
    model = tiny_model("llama")
    model.model.layers[2].mlp.register_forward_hook(lambda _module, _inputs, output: output.cumsum(1))
    with pytest.raises(ModelError, match=r"^LlamaForCausalLM: .* of their spread away from the model's own"):
        refuse_inexact_ablation(model, IDS[0])


def test_the_check_of_a_long_trace_needs_no_more_memory_than_that_of_a_short_one():
    refuse_inexact_ablation(with_room_for(256, tiny_model)("llama"), random_ids(3000))


# ---- the planted model


def planted_traces(mechanism: str = "one_head") -> tuple[Any, list[Any]]:
    """A planted model, and a trace of each answer."""
    model, rng = planted_model(mechanism), random.Random(2)
    model.set_attn_implementation(SEAM)
    return model, [planted_trace(rng, candidate) for candidate in range(len(GIVEN))]


def given_logits(planted: tuple[Any, list[Any]], arms: list[Arm]) -> np.ndarray:
    """Logits of all candidates at the token before the answer, [trace, arm, candidate]; the next trace is the donor.

    Attention is moved to the first token of the reasoning, which says nothing.
    """
    model, traces = planted
    outputs = answer_outputs(model, [trace.token_ids for trace in traces], [trace.bounds for trace in traces])
    found = []
    for k, trace in enumerate(traces):
        reading = read(model, trace.token_ids[: trace.bounds.answer], trace.bounds)
        reading.mean, reading.resampled = of_others(outputs, k, (k + 1) % len(traces))
        reading.moved_to = slice(trace.bounds.reasoning, trace.bounds.reasoning + 1)
        decoding = Rows(model, [(reading, arm) for arm in arms])
        for token in trace.run_ids[trace.bounds.answer :]:
            logits = decoding.step(torch.full((len(arms),), token))
        found.append(logits[:, GIVEN.start : GIVEN.stop].numpy())
    return np.stack(found)


@pytest.mark.parametrize("mechanism", ["one_head", "attends_idly", "attends_little", "in_sequence"])
@pytest.mark.parametrize("mode", MODES)
def test_ablating_a_carrying_head_destroys_the_answer_and_any_other_leaves_it(mode, mechanism):
    carriers = {FIRST, SECOND} if mechanism == "in_sequence" else {(LAYER, HEAD)}
    if mode in ("cut_off", "moved"):
        carriers -= {SECOND}  # it reads the answer, not the reasoning
    heads = list(np.ndindex(N_LAYERS, N_HEADS))
    found = given_logits(planted_traces(mechanism), [NOTHING, *(Arm(mode, RFH, 0, (head,)) for head in heads)])
    unablated, own = found[:, 0], np.eye(len(GIVEN), dtype=bool)
    assert (unablated.argmax(-1) == np.arange(len(GIVEN))).all()
    for k, head in enumerate(heads, start=1):
        if head not in carriers or mode == "sharpened":  # its attention lies on one token already
            np.testing.assert_allclose(found[:, k], unablated, atol=1e-3, err_msg=str(head))
        elif mode == "resample":  # the answer is then the donor's
            assert (found[:, k].argmax(-1) == np.roll(np.arange(len(GIVEN)), -1)).all()
        else:
            assert found[:, k][own].max() < unablated[own].min() / 2
            assert (found[:, k][own] <= found[:, k].max(-1) + 1e-3).all()


def test_cutting_the_planted_head_off_from_the_prompt_instead_leaves_the_answer():
    arms = [NOTHING, *(Arm("cut_off", RFH, 0, ((LAYER, HEAD),), hides) for hides in ("prompt", "reasoning"))]
    unablated, prompt, reasoning = given_logits(planted_traces(), arms).swapaxes(0, 1)
    np.testing.assert_allclose(prompt, unablated, atol=1e-3)
    assert np.abs(reasoning - unablated).max() > 1


# ---- which heads


def scored(n_layers: int, n_heads: int, **columns: Any) -> pd.DataFrame:
    """A table of heads, ranked in order; later heads write more and attend more to the prompt."""
    layers, heads = np.divmod(np.arange(n_layers * n_heads), n_heads)
    values = np.linspace(0.1, 0.9, len(layers))
    table = {"layer": layers, "head": heads, "rank": range(1, len(layers) + 1), "a2p": values, "a2bos": 1 - values}
    return pd.DataFrame(table | {"output_share": values, "contribution": values} | columns)


def test_random_heads_stand_in_the_same_layers_and_are_others_where_a_layer_has_enough():
    chosen = [(0, 1), (3, 0), (3, 2), (5, 1), (5, 2), (5, 3)]
    seen = set()
    for seed in range(200):
        drawn = random_heads(chosen, scored(6, 4), random.Random(seed))
        assert len(set(drawn)) == 6
        assert Counter(layer for layer, _ in drawn) == {0: 1, 3: 2, 5: 3}
        assert not set(drawn) & {(0, 1), (3, 0), (3, 2)}
        # layer 5 has only one other head, which is always drawn, with two of the chosen
        assert (5, 0) in drawn
        seen |= set(drawn)
    assert seen == {(0, 0), (0, 2), (0, 3), (3, 1), (3, 3), (5, 0), (5, 1), (5, 2), (5, 3)}


def test_an_idle_head_is_never_matched_to_one_that_writes():
    """Even heads rest on BOS and write next to nothing; the chosen head and the odd ones do not."""
    is_idle = np.arange(24) % 2 == 0
    heads = scored(4, 6, output_share=np.where(is_idle, 1e-4, 0.4), a2bos=np.where(is_idle, 0.98, 0.1))
    for seed in range(50):
        (matched,) = matched_heads([(0, 1)], heads, random.Random(seed))
        assert matched[1] % 2 == 1 and matched != (0, 1)
        several = matched_heads([(0, 1), (2, 3), (0, 0)], heads, random.Random(seed))
        assert len(set(several)) == 3 and sum(head % 2 for _, head in several) == 2
        assert not set(several) & {(0, 1), (2, 3), (0, 0)}


@pytest.mark.parametrize("idle", [{"output_share": 0.0}, {"output_share": np.nan}, {"a2bos": 0.97}])
def test_where_all_others_idle_a_head_that_writes_is_its_own_match(idle):
    is_idle = np.arange(8) != 3
    heads = scored(2, 4, output_share=0.4, a2bos=0.1)
    for name, value in idle.items():
        heads.loc[is_idle, name] = value
    assert matched_heads([(0, 3)], heads, random.Random(1)) == ((0, 3),)
    # two heads that write are matched with heads that write, not with idle ones
    heads.loc[5, ["output_share", "a2bos"]] = 0.4, 0.1
    assert matched_heads([(0, 3)], heads, random.Random(1)) == ((1, 1),)


def test_where_all_heads_are_chosen_the_matched_ones_are_these():
    every = [(layer, head) for layer in range(2) for head in range(3)]
    assert sorted(matched_heads(every, scored(2, 3), random.Random(1))) == every


def test_modes_share_their_draws_and_every_trace_has_its_own():
    settings = {"doses": [1, 3], "n_draws": 4, "seed": 7, "selections": ["random", "matched", "prompt", "contribution"]}
    heads, modes = scored(2, 16), ["zero", "cut_off"]
    arms = arms_of_trace(heads, modes, settings, "a")
    assert arms[0] == NOTHING
    assert len(arms) == 1 + 2 * 2 * (1 + 4 + 4 + 1 + 1) + 2
    by_mode = {
        mode: [arm.heads for arm in arms if arm.mode == mode and arm.selection != RFH_FROM_PROMPT] for mode in modes
    }
    assert by_mode["zero"] == by_mode["cut_off"]
    assert [arm.heads for arm in arms if arm.selection == RFH] == [((0, 0),)] * 2 + [((0, 0), (0, 1), (0, 2))] * 2
    for selection in ("prompt", "contribution"):
        assert {arm.heads for arm in arms if arm.selection == selection} == {((1, 15),), ((1, 15), (1, 14), (1, 13))}
    assert [(arm.mode, arm.hides, len(arm.heads)) for arm in arms if arm.selection == RFH_FROM_PROMPT] == [
        ("cut_off", "prompt", 1), ("cut_off", "prompt", 3)
    ]  # fmt: skip
    assert arms == arms_of_trace(heads, modes, settings, "a")
    assert arms != arms_of_trace(heads, modes, settings, "b")


# ---- the job, on a shipped model


SETTINGS = {
    "version": 1, "model": "tiny-qwen", "dataset": "puzzles", "model_label": "Tiny Qwen2", "dataset_label": "Puzzles",
    "is_toy": True, "seed": 5, "decoding": "greedy", "n_problems": 6, "modes": list(MODES), "doses": [1, 24],
    "selections": ["random", "contribution"],
    "n_draws": 2, "extra_tokens": 4, "n_resamples": 200, "confidence": 0.95, "grader": "policy", "seconds": 10,
    "memory_mb": 2000,
}  # fmt: skip
# unablated; at two doses, in six modes, RFHs, two draws of random heads, contributing ones; and cut off from the prompt
N_ARMS = 1 + 2 * (6 * (1 + 2 + 1) + 1)
MODEL = {
    "model": "tiny-qwen", "source": {"path": str(ROOT / "resources/models/tiny-qwen"), "hub": None, "revision": None},
    "dtype": "float32", "endpoint": None, "prompt": "raw",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces generated by transformers, and everything that the stage makes from them."""
    folder = tmp_path_factory.mktemp("ablation")
    resolve_model(folder / "manifest.json", MODEL)
    manifest = read_manifest(folder / "manifest.json")
    model, tokenizer = load_model(manifest, "eager"), load_tokenizer(manifest["folder"])
    marks = marks_of(manifest["folder"])
    lines = (ROOT / "resources/datasets/puzzles.jsonl").read_text().splitlines()[::22]
    problems = pd.DataFrame([json.loads(line) for line in lines])
    rows = []
    for problem in problems.itertuples():
        prompt = prompt_ids(tokenizer, problem.problem, "", "with_reasoning")
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=100, do_sample=False)[0].tolist()
        bounds = segment_bounds(prompt, ids[len(prompt) :], marks)
        rows.append(
            {
                "uid": problem.uid, "condition": "with_reasoning", "decoding": "greedy", "is_valid": True,
                "prompt_token_ids": prompt, "completion_token_ids": ids[len(prompt) :], "bounds": bounds,
                "answer_text": tokenizer.decode(ids[bounds.answer : bounds.eos]),
            }
        )  # fmt: skip
    write_parquet(folder / "traces.parquet", pd.DataFrame(rows), provenance({}))
    backwards = scored(4, 6, rank=range(24, 0, -1))
    write_parquet(folder / "heads.parquet", backwards, provenance({}))
    write_parquet(folder / "dataset.parquet", problems, provenance({}))
    ablate(folder, "answers.parquet")
    grade_ablation(folder / "answers.parquet", folder / "dataset.parquet", folder / "graded.parquet", SETTINGS)
    write_ablation(folder / "graded.parquet", folder / "effect.csv", SETTINGS)
    return folder


def ablate(
    folder: Path,
    output: str,
    batch_tokens: int = 10_000,
    shard: str = WHOLE,
    traces: str = "traces.parquet",
    **settings: Any,
) -> pd.DataFrame:
    ablate_heads(
        *(folder / name for name in (traces, "heads.parquet", "manifest.json", output)),
        SETTINGS | settings,
        batch_tokens,
        shard,
    )
    return pd.read_parquet(folder / output)


def test_unablated_answers_are_the_traces_own_token_by_token(folder):
    graded = pd.read_parquet(folder / "graded.parquet")
    traces = pd.read_parquet(folder / "traces.parquet").set_index("uid")
    unablated = graded[graded["mode"] == UNABLATED]
    assert len(unablated) == SETTINGS["n_problems"]
    for row in unablated.itertuples():
        completion = traces.at[row.uid, "completion_token_ids"]
        assert completion[-len(row.token_ids) :].tolist() == row.token_ids.tolist()
        assert row.text == row.original_text
        assert row.is_finished and row.is_valid and row.agreement == 1


def test_every_trace_has_every_arm_and_the_first_answer_token_is_the_same_in_all(folder):
    graded = pd.read_parquet(folder / "graded.parquet")
    assert len(graded) == SETTINGS["n_problems"] * N_ARMS
    keys = ["uid", "mode", "selection", "dose", "draw"]
    assert not graded.duplicated(keys).any()
    assert (graded.groupby("uid")["token_ids"].agg(lambda ids: len({row[0] for row in ids})) == 1).all()
    # ranks were given backwards: the last head of the last layer comes first
    top = graded[(graded["selection"] == RFH) & (graded["dose"] == 1)]
    assert {(row.layers[0], row.heads[0]) for row in top.itertuples()} == {(3, 5)}


def test_cutting_all_heads_off_from_the_reasoning_destroys_what_the_answer_has_from_it(folder):
    effect = pd.read_csv(folder / "effect.csv").set_index(["mode", "metric", "selection", "dose"])
    assert effect.loc[(UNABLATED, "accuracy", UNABLATED, 0), "value"] >= 0.8
    assert effect.loc[("cut_off", "accuracy", RFH, 24), "value"] <= 0.5
    for mode in MODES:
        if mode in (*REPLACED, "cut_off"):
            assert effect.loc[(mode, "a2r", RFH, 24), "value"] == pytest.approx(0, abs=1e-6)
        # all heads are ablated either way
        assert effect.loc[(mode, "accuracy", RANDOM, 24), ["overlap", "difference", "p"]].tolist() == [1, 0, 1]


def test_batches_of_any_size_give_the_same_answers(folder):
    whole = pd.read_parquet(folder / "answers.parquet")
    found = ablate(folder, "small.parquet", 250)
    pd.testing.assert_frame_equal(found, whole, atol=1e-5)


@pytest.mark.slow
def test_shards_give_the_same_answers_though_some_are_empty(folder):
    n_shards = SETTINGS["n_problems"] + 2
    names = [f"sharded.{number}-of-{n_shards}.parquet" for number in range(1, n_shards + 1)]
    for name in names:
        ablate(folder, name, shard=name.split(".")[1])
    gather_shards([folder / name for name in names], folder / "gathered.parquet")
    whole = pd.read_parquet(folder / "answers.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "gathered.parquet"), whole, atol=1e-5)


def n_different(answers: pd.DataFrame) -> int:
    """How many answers differ in trace, mode, heads or what these are cut off from; each is generated once."""
    return len(
        {
            (row.uid, row.mode, row.selection == RFH_FROM_PROMPT, frozenset(zip(row.layers, row.heads, strict=True)))
            for row in answers.itertuples()
        }
    )


def test_a_dataset_that_grows_has_the_answers_of_its_new_traces_generated_alone(folder, monkeypatch):
    traces = pd.read_parquet(folder / "traces.parquet")
    write_parquet(folder / "fewer.parquet", traces.drop(index=2), provenance({}))
    ablate(folder, "growing.parquet", traces="fewer.parquet")
    generated, generate = [], r2a.ablation.runs.generate

    def counted(model: Any, rows: Any, *others: Any) -> Any:
        generated.extend(arm.mode for _, arm in rows)
        return generate(model, rows, *others)

    monkeypatch.setattr(r2a.ablation.runs, "generate", counted)
    grown = ablate(folder, "growing.parquet")
    whole = pd.read_parquet(folder / "answers.parquet")
    pd.testing.assert_frame_equal(grown, whole, atol=1e-5)
    of_new = whole[whole["uid"] == traces["uid"][2]]
    alone = of_new[~of_new["mode"].isin(OF_OTHERS)]  # modes that use no other traces
    assert len([mode for mode in generated if mode not in OF_OTHERS]) == n_different(alone)


def test_out_of_memory_halves_the_batches_and_loses_no_answer(folder, monkeypatch, caplog):
    batch = r2a.ablation.runs.generate

    def with_room_for(n_rows: int) -> Any:
        def run(model: Any, rows: Any, *others: Any) -> Any:
            if len(rows) > n_rows:
                raise torch.OutOfMemoryError("no memory left")
            return batch(model, rows, *others)

        return run

    monkeypatch.setattr(r2a.ablation.runs, "generate", with_room_for(10))
    with caplog.at_level("WARNING", "r2a"):
        found = ablate(folder, "halved.parquet")
    assert "out of memory at 13 at a time; continuing with 156 tokens" in caplog.text
    pd.testing.assert_frame_equal(found, pd.read_parquet(folder / "answers.parquet"), atol=1e-5)
    monkeypatch.setattr(r2a.ablation.runs, "generate", with_room_for(0))
    with pytest.raises(NothingToMeasure, match=r"no trace fits into memory"):
        ablate(folder, "none.parquet")


def test_a_trace_that_does_not_fit_into_memory_is_left_out_and_named(folder, monkeypatch, caplog):
    """With one mode and no other trace's outputs, so that the rest does not depend on the trace that is left out."""
    one = {"modes": ["zero"], "doses": [1]}
    whole = ablate(folder, "one_mode.parquet", **one)
    uid, n_read = max(_tokens_read(folder).items(), key=lambda item: item[1])
    room = sorted(_tokens_read(folder).values())[-2]
    monkeypatch.setattr(r2a.ablation.runs, "load_model", with_room_for(room, load_model))
    with caplog.at_level("WARNING", "r2a"):
        found = ablate(folder, "full.parquet", **one)
    assert f"{uid}: {n_read} tokens do not fit into memory; left out" in caplog.text
    pd.testing.assert_frame_equal(found, whole[whole["uid"] != uid].reset_index(drop=True), atol=1e-5)


def _tokens_read(folder: Path) -> dict[str, int]:
    """For each ablated trace, the number of tokens up to its answer."""
    chosen = pd.read_parquet(folder / "answers.parquet")["uid"]
    traces = pd.read_parquet(folder / "traces.parquet").set_index("uid").loc[chosen.unique()]
    return {uid: Bounds.of(bounds).answer for uid, bounds in traces["bounds"].items()}


def test_a_killed_job_goes_on_with_the_answers_that_are_missing(folder, monkeypatch):
    batch = r2a.ablation.runs.generate
    n_rows = []

    def killed_in_its_third_batch(model: Any, rows: Any, *others: Any) -> Any:
        if len(n_rows) == 2:
            raise KeyboardInterrupt
        n_rows.append(len(rows))
        return batch(model, rows, *others)

    monkeypatch.setattr(r2a.ablation.runs, "generate", killed_in_its_third_batch)
    with pytest.raises(KeyboardInterrupt):
        ablate(folder, "killed.parquet", 1000)
    n_complete = sum(n_rows)
    assert n_complete > 0
    n_rows.clear()

    def counted(model: Any, rows: Any, *others: Any) -> Any:
        n_rows.append(len(rows))
        return batch(model, rows, *others)

    monkeypatch.setattr(r2a.ablation.runs, "generate", counted)
    found = ablate(folder, "killed.parquet", 1000)
    assert sum(n_rows) == n_different(found) - n_complete
    pd.testing.assert_frame_equal(found, pd.read_parquet(folder / "answers.parquet"), atol=1e-5)


def test_more_heads_than_the_model_has_and_no_valid_trace_are_errors_in_words(folder):
    with pytest.raises(AblationError, match=r"25 heads are to be ablated, but tiny-qwen has 24"):
        ablate(folder, "none.parquet", doses=[1, 25])
    table = pd.read_parquet(folder / "traces.parquet").assign(is_valid=False)
    write_parquet(folder / "invalid.parquet", table, provenance({}))
    with pytest.raises(NothingToMeasure, match="no valid greedy trace"):
        ablate(folder, "none.parquet", traces="invalid.parquet")


@pytest.mark.slow
def test_the_figure_and_the_sentences_tell_the_tables_numbers(folder):
    plot_ablation(folder / "effect.csv", folder / "figure", SETTINGS)
    for suffix in ("svg", "png", "csv"):
        assert (folder / f"figure.{suffix}").stat().st_size > 500
    found = find_ablation([folder / "effect.csv"], {})
    effect = pd.read_csv(folder / "effect.csv").set_index(["mode", "metric", "selection", "dose"])["value"]
    shown = {(cells["RFHs"].text, cells["dose"].value): cells for _, cells in found.rows}
    for dose in (1, 24):
        cells = shown["cut off from the reasoning", dose]
        expected = f"{100 * effect['cut_off', 'accuracy', RFH, dose]:.0f} %"
        assert cells["without RFHs"].text.partition(" [")[0] == expected
        assert cells["n"].text == "6" and cells["n"].value == 6
    assert {subject for subject, _ in found.rows} == {("Tiny Qwen2", "Puzzles")}
    beside_random = shown["cut off from the reasoning", 24]["against random heads of the same layers, points"]
    assert "100 % of them are RFHs" in beside_random.note


# ---- the table, by hand


def test_effects_are_paired_by_problem_with_draws_averaged_first():
    def row(uid: str, mode: str, selection: str, dose: int, draw: int, accuracy: float, head: int) -> dict[str, Any]:
        return {
            "uid": uid, "mode": mode, "selection": selection, "dose": dose, "draw": draw, "layers": [0] * dose,
            "heads": [head] * dose, "accuracy": accuracy, "agreement": accuracy, "format": 1.0, "a2r": 0.5,
        }  # fmt: skip

    rows = []
    # right: unablated, without the RFH, without a random head in two draws; nan: undecided
    for uid, whole, rfh, *draws in [("a", 1, 0, 1, 1), ("b", 1, 0, 1, 0), ("c", 0, 0, 0, np.nan), ("d", 1, 1, 1, 1)]:
        rows.append(row(uid, UNABLATED, UNABLATED, 0, 0, whole, 0))
        rows.append(row(uid, "zero", RFH, 1, 0, rfh, 3))
        rows += [row(uid, "zero", RANDOM, 1, draw, right, (3, 1)[draw]) for draw, right in enumerate(draws)]
    table = ablation_effect_table(pd.DataFrame(rows), SETTINGS).set_index(["metric", "selection"])
    unablated, rfhs, ablated = (table.loc[("accuracy", selection)] for selection in (UNABLATED, RFH, RANDOM))
    assert unablated["value"] == 0.75
    assert np.isnan([unablated["difference"], rfhs["difference"]]).all()
    # Wilson's interval of 1 of 4, by hand
    assert (rfhs["low"], rfhs["high"]) == pytest.approx((0.0456, 0.6994), abs=1e-4)
    # one answer per problem against two draws; two of four problems do not differ, so the difference may be 0
    ends = difference_interval(np.array([0, 0, 0, 1]), np.array([1, 0.5, 0, 1]), 1, 2, 0.95)
    assert (ablated["difference_low"], ablated["difference_high"]) == pytest.approx(ends)
    assert ends[0] < -0.375 < 0 < ends[1]
    assert (rfhs["value"], ablated["value"]) == (0.25, (1 + 0.5 + 0 + 1) / 4)
    assert ablated["difference"] == pytest.approx((-1 - 0.5 + 0 + 0) / 4)
    assert np.isnan(ablated["p"])  # four problems are too few to test
    assert ablated["overlap"] == 0.5
    assert (ablated["n_problems"], ablated["n_undecided"], unablated["n_undecided"]) == (4, 1, 0)
    check = table.loc[("a2r", RANDOM)]
    assert check[["value", "difference"]].tolist() == [0.5, 0] and np.isnan(check["p"])


def test_the_label_is_moved_among_the_arms_of_a_problem_and_one_arm_against_one_is_mcnemars():
    common = {"mode": "zero", "dose": 1, "layers": [[0]], "heads": [[0]]}
    rows = []
    for k in range(8):
        for selection, draw, right in ((RFH, 0, 0), (RANDOM, 0, 1), (RANDOM, 1, 1), ("prompt", 0, k > 0)):
            row = common | {"uid": str(k), "selection": selection, "draw": draw, "a2r": 0.1}
            rows.append(pd.DataFrame(row | dict.fromkeys(("accuracy", "agreement", "format"), float(right))))
    table = ablation_effect_table(pd.concat(rows), SETTINGS | {"n_resamples": 20_000}).set_index(
        ["metric", "selection"]
    )
    random_heads, prompt_heads = table.loc[("accuracy", RANDOM)], table.loc[("accuracy", "prompt")]
    assert (random_heads["test"], prompt_heads["test"]) == ("label permutation", "exact McNemar")
    assert random_heads["p"] == pytest.approx(1 / 3**8, abs=4e-4)
    assert prompt_heads["p"] == 2 / 2**7
    assert (random_heads["difference"], prompt_heads["difference"]) == (-1, -7 / 8)


# ---- configuration


def test_configuration_refuses_a_sampled_decoding_and_entries_given_twice(monkeypatch):
    monkeypatch.chdir(ROOT)
    shipped = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    with pytest.raises(ConfigError) as error:
        load_study(shipped | {"ablation": {"decoding": "sampled", "doses": [1, 1], "modes": ["zero", "zero"]}})
    for expected in ("ablation.decoding: 'sampled' samples", "ablation.doses: 1 is named", "ablation.modes: 'zero' is"):
        assert expected in str(error.value)

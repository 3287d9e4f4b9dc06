"""Answers under ablation: against whole forward passes with hooks, the planted model, and by hand."""

import json
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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
from families import tiny_model
from planted import GIVEN, HEAD, LAYER, N_HEADS, N_LAYERS, planted_model, planted_trace
from r2a.ablation.arms import Arm, arms_of_trace, random_heads
from r2a.ablation.decoding import MODES, Rows, generate, mean_output, read, refuse_deviating
from r2a.ablation.runs import AblationError, ablate_heads
from r2a.attention.reference import rerun_eager
from r2a.attention.segments import segment_mass
from r2a.evaluation.ablation import ablation_effect_table, write_ablation
from r2a.figures.ablation import plot_ablation
from r2a.grading.ablation import grade_ablation
from r2a.heads.focus import short_mass
from r2a.models import ModelError, load_model, load_tokenizer, marks_of, read_manifest, resolve_model
from r2a.models.attention import SEAM
from r2a.prompts import prompt_ids
from r2a.roles import RANDOM, RFH, UNABLATED
from r2a.shards import WHOLE, gather_shards
from r2a.statistics import difference_interval
from r2a.store import provenance, write_parquet
from r2a.study import ConfigError, load_study
from r2a.summary.ablation import ablation_sentences
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
# two traces of unlike lengths: ids and bounds
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


def hooked(model: Any, ids: list[int], bounds: Bounds, arm: Arm, mean: torch.Tensor) -> torch.Tensor:
    """The slow reference: logits of one whole run whose answer rows are ablated by hooks, [token, vocabulary]."""

    def replace(number: int, heads: list[int]) -> Any:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            z = inputs[0].unflatten(-1, (model.config.num_attention_heads, -1)).clone()
            z[0, bounds.answer :, heads] = mean[number, heads] if arm.mode == "mean" else 0.0
            return (z.flatten(2),)

        return hook

    def hide(heads: list[int]) -> Any:
        def hook(_module: Any, inputs: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            causal = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
            mask = causal.repeat(1, model.config.num_attention_heads, 1, 1)
            mask[0, heads, bounds.answer :, bounds.reasoning : bounds.think_close] = -torch.inf
            return inputs, arguments | {"attention_mask": mask}

        return hook

    with ExitStack() as hooks:
        for number, layer in enumerate(model.model.layers):
            heads = [head for at, head in arm.heads if at == number]
            if heads and arm.mode == "cut_off":
                handle = layer.self_attn.register_forward_pre_hook(hide(heads), with_kwargs=True)
            elif heads:
                handle = layer.self_attn.o_proj.register_forward_pre_hook(replace(number, heads))
            else:
                continue
            hooks.callback(handle.remove)
        return eager(model, ids)


def forced(model: Any, rows: list[tuple[int, Arm]], mean: torch.Tensor | None) -> torch.Tensor:
    """Logits after each of a trace's own answer tokens, a row a (trace, arm): [row, token, vocabulary]."""
    readings = [read(model, ids[: b[5]], b) for ids, b in zip(IDS, BOUNDS, strict=True)]
    decoding = Rows(model, [(readings[trace], arm) for trace, arm in rows], mean)
    answers = [IDS[trace][BOUNDS[trace][5] :] for trace, _ in rows]
    return torch.stack([decoding.step(torch.tensor(tokens)) for tokens in zip(*answers, strict=True)], 1)


@pytest.mark.parametrize("mode", MODES)
def test_decoding_from_the_shared_reading_equals_whole_runs_with_hooks(model, mode):
    mean = mean_output(model, IDS, BOUNDS)
    several = [((0, 0),), ((2, 3),), ((0, 1), (1, 2), (2, 0), (2, 1)), tuple(np.ndindex(3, 4))]
    rows = [(trace, Arm(mode, RFH, 0, heads)) for trace in range(2) for heads in several]
    found = forced(model, rows, mean)
    for logits, (trace, arm) in zip(found, rows, strict=True):
        first = BOUNDS[trace][5]
        slow = hooked(model, IDS[trace], BOUNDS[trace], arm, mean)[first:]
        np.testing.assert_allclose(logits, slow, atol=1e-4, err_msg=f"trace {trace}, {arm}")
        # the ablation does something, else the comparison would prove nothing
        assert float((slow - eager(model, IDS[trace])[first:]).abs().max()) > 1e-2


def test_unablated_decoding_is_the_models_own(model):
    found = forced(model, [(0, NOTHING), (1, NOTHING)], None)
    for trace, logits in enumerate(found):
        np.testing.assert_allclose(logits, eager(model, IDS[trace])[BOUNDS[trace][5] :], atol=1e-4)
        reading = read(model, IDS[trace][: BOUNDS[trace][5]], BOUNDS[trace])
        np.testing.assert_allclose(
            reading.logits.detach(), eager(model, IDS[trace])[BOUNDS[trace][4]], atol=1e-4
        )  # of </think>


def test_rows_that_stay_are_not_changed_by_rows_that_leave(model):
    arms = [NOTHING, Arm("zero", RFH, 0, ((1, 1),)), Arm("cut_off", RFH, 0, ((2, 0),))]
    rows = [(trace, arm) for trace in range(2) for arm in arms]
    whole = forced(model, rows, None)
    readings = [read(model, ids[: b[5]], b) for ids, b in zip(IDS, BOUNDS, strict=True)]
    decoding = Rows(model, [(readings[trace], arm) for trace, arm in rows], None)
    staying, answers = [1, 2, 5], [IDS[trace][BOUNDS[trace][5] :] for trace, _ in rows]
    decoding.step(torch.tensor([tokens[0] for tokens in answers]))
    decoding.keep(staying)
    found = decoding.step(torch.tensor([answers[row][1] for row in staying]))
    np.testing.assert_allclose(found, whole[staying, 1], atol=1e-5)


def test_mean_output_is_the_mean_over_answer_tokens_of_all_traces(model):
    tokens = torch.cat([head_outputs(model, ids)[:, b.answer : b.eos] for ids, b in zip(IDS, BOUNDS, strict=True)], 1)
    np.testing.assert_allclose(mean_output(model, IDS, BOUNDS), tokens.mean(1), atol=1e-5)


def test_a2r_is_that_of_eager_attention_and_leaves_out_ablated_heads(model):
    """Of heads of the last layer, so that no other head's attention changes."""
    ids, bounds, mean = IDS[0], BOUNDS[0], mean_output(model, IDS, BOUNDS)
    reading = read(model, ids[: bounds.answer], bounds)
    (answer,) = generate(model, [(reading, NOTHING)], [5], None, {1000})
    written = answer.token_ids[:-1]
    arms = [NOTHING, *(Arm(mode, RFH, 0, ((2, 0), (2, 3))) for mode in MODES)]
    decoding = Rows(model, [(reading, arm) for arm in arms], mean)
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


def test_a_model_with_recurrent_layers_is_refused_by_name():
    with pytest.raises(ModelError, match=r"^Lfm2ForCausalLM: its heads cannot be ablated: its recurrent layers"):
        refuse_deviating(tiny_model("lfm2"), IDS[0], BOUNDS[0])


def test_a_model_whose_tokens_reach_later_ones_outside_of_attention_is_refused_by_name():
    model = tiny_model("llama")
    model.model.layers[2].mlp.register_forward_hook(lambda _module, _inputs, output: output.cumsum(1))
    with pytest.raises(ModelError, match=r"^LlamaForCausalLM: .* standard deviations away from the model's own"):
        refuse_deviating(model, IDS[0], BOUNDS[0])


# ---- the planted model


@pytest.fixture(scope="module")
def planted() -> tuple[Any, list[Any]]:
    model, rng = planted_model(), random.Random(2)
    model.set_attn_implementation(SEAM)
    return model, [planted_trace(rng, candidate) for candidate in range(len(GIVEN))]


def given_logits(planted: tuple[Any, list[Any]], arms: list[Arm]) -> np.ndarray:
    """Logits of all candidates where the answer is given, [trace, arm, candidate]."""
    model, traces = planted
    # the mean over whole answers of all candidates, one each, prefers none
    mean = mean_output(model, [trace.token_ids for trace in traces], [trace.bounds for trace in traces])
    found = []
    for trace in traces:
        reading = read(model, trace.token_ids[: trace.bounds.answer], trace.bounds)
        decoding = Rows(model, [(reading, arm) for arm in arms], mean)
        for token in trace.run_ids[trace.bounds.answer :]:
            logits = decoding.step(torch.full((len(arms),), token))
        found.append(logits[:, GIVEN.start : GIVEN.stop].numpy())
    return np.stack(found)


@pytest.mark.parametrize("mode", MODES)
def test_ablating_the_planted_head_destroys_the_answer_and_any_other_leaves_it(planted, mode):
    heads = list(np.ndindex(N_LAYERS, N_HEADS))
    found = given_logits(planted, [NOTHING, *(Arm(mode, RFH, 0, (head,)) for head in heads)])
    unablated = found[:, 0]
    assert (unablated.argmax(-1) == np.arange(len(GIVEN))).all()
    for k, head in enumerate(heads, start=1):
        if head == (LAYER, HEAD):
            own = np.eye(len(GIVEN), dtype=bool)
            # what is left says nothing of the trace: every trace's logits are the same
            np.testing.assert_allclose(found[:, k], np.broadcast_to(found[0, k], found[:, k].shape), atol=1e-3)
            assert found[:, k][own].max() < unablated[own].min() / 2
        else:
            np.testing.assert_allclose(found[:, k], unablated, atol=1e-3, err_msg=str(head))


# ---- which heads


def test_random_heads_stand_in_the_same_layers_and_are_others_where_a_layer_has_enough():
    chosen = [(0, 1), (3, 0), (3, 2), (5, 1), (5, 2), (5, 3)]
    seen = set()
    for seed in range(200):
        drawn = random_heads(chosen, 4, random.Random(seed))
        assert len(set(drawn)) == 6
        assert Counter(layer for layer, _ in drawn) == {0: 1, 3: 2, 5: 3}
        assert not set(drawn) & {(0, 1), (3, 0), (3, 2)}
        # layer 5 has but one other head: it is always there, and two of the chosen fill up
        assert (5, 0) in drawn
        seen |= set(drawn)
    assert seen == {(0, 0), (0, 2), (0, 3), (3, 1), (3, 3), (5, 0), (5, 1), (5, 2), (5, 3)}


def test_modes_share_their_draws_and_every_trace_has_its_own():
    settings = {"doses": [1, 3], "modes": ["zero", "cut_off"], "n_draws": 4, "seed": 7}
    ranked = [(0, 0), (1, 0), (1, 1), *((layer, head) for layer in range(2) for head in range(2, 16))]
    arms = arms_of_trace(ranked, 16, settings, "a")
    assert arms[0] == NOTHING
    assert len(arms) == 1 + 2 * 2 * (1 + 4)
    by_mode = {mode: [arm.heads for arm in arms if arm.mode == mode] for mode in settings["modes"]}
    assert by_mode["zero"] == by_mode["cut_off"]
    assert [arm.heads for arm in arms if arm.selection == RFH] == [((0, 0),)] * 2 + [tuple(ranked[:3])] * 2
    assert arms == arms_of_trace(ranked, 16, settings, "a")
    assert arms != arms_of_trace(ranked, 16, settings, "b")


# ---- the job, on a shipped model


SETTINGS = {
    "model": "tiny-qwen", "dataset": "puzzles", "model_label": "Tiny Qwen2", "dataset_label": "Puzzles",
    "is_toy": True, "seed": 5, "decoding": "greedy", "n_problems": 6, "modes": list(MODES), "doses": [1, 24],
    "n_draws": 2, "extra_tokens": 4, "n_resamples": 200, "confidence": 0.95, "grader": "policy", "seconds": 10,
    "memory_mb": 2000,
}  # fmt: skip
MODEL = {
    "model": "tiny-qwen", "source": {"path": str(ROOT / "resources/models/tiny-qwen"), "hub": None, "revision": None},
    "dtype": "float32", "endpoint": None, "prompt": "raw",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces that transformers' own generate made, and all that the stage makes of them."""
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
    heads = pd.DataFrame([(layer, head) for layer in range(4) for head in range(6)], columns=["layer", "head"])
    write_parquet(folder / "traces.parquet", pd.DataFrame(rows), provenance({}))
    write_parquet(folder / "heads.parquet", heads.assign(rank=range(24, 0, -1)), provenance({}))
    write_parquet(folder / "dataset.parquet", problems, provenance({}))
    ablate(folder, "answers.parquet")
    grade_ablation(folder / "answers.parquet", folder / "dataset.parquet", folder / "graded.parquet", SETTINGS)
    write_ablation(folder / "graded.parquet", folder / "effect.csv", SETTINGS)
    return folder


def ablate(folder: Path, output: str, batch_tokens: int = 10_000, shard: str = WHOLE, **settings: Any) -> pd.DataFrame:
    ablate_heads(
        *(folder / name for name in ("traces.parquet", "heads.parquet", "manifest.json", output)),
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
    assert len(graded) == SETTINGS["n_problems"] * (1 + 3 * 2 * (1 + 2))
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
        assert effect.loc[(mode, "a2r", RFH, 24), "value"] == pytest.approx(0, abs=1e-6)
        # all heads are ablated either way
        assert effect.loc[(mode, "accuracy", RANDOM, 24), ["overlap", "difference", "p"]].tolist() == [1, 0, 1]


def test_batches_of_any_size_give_the_same_answers(folder):
    whole = pd.read_parquet(folder / "answers.parquet")
    found = ablate(folder, "small.parquet", 250)
    pd.testing.assert_frame_equal(found, whole, atol=1e-5)


def test_shards_give_the_same_answers_though_some_are_empty(folder):
    n_shards = SETTINGS["n_problems"] + 2
    names = [f"answers.{number}-of-{n_shards}.parquet" for number in range(1, n_shards + 1)]
    for name in names:
        ablate(folder, name, shard=name.split(".")[1])
    gather_shards([folder / name for name in names], folder / "gathered.parquet")
    whole = pd.read_parquet(folder / "answers.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "gathered.parquet"), whole, atol=1e-5)


def test_out_of_memory_halves_the_batches_and_loses_no_answer(folder, monkeypatch, caplog):
    batch = r2a.ablation.runs.generate

    def with_room_for(n_rows: int) -> Any:
        def run(model: Any, rows: Any, *others: Any) -> Any:
            if len(rows) > n_rows:
                raise torch.OutOfMemoryError("no memory left")
            return batch(model, rows, *others)

        return run

    monkeypatch.setattr(r2a.ablation.runs, "generate", with_room_for(40))
    with caplog.at_level("WARNING", "r2a"):
        found = ablate(folder, "halved.parquet")
    assert "going on with 5000 tokens" in caplog.text
    pd.testing.assert_frame_equal(found, pd.read_parquet(folder / "answers.parquet"), atol=1e-5)
    monkeypatch.setattr(r2a.ablation.runs, "generate", with_room_for(0))
    with pytest.raises(AblationError, match=r"one answer alone does not fit into memory"):
        ablate(folder, "none.parquet")


def test_a_killed_job_goes_on_with_the_traces_that_are_missing(folder, monkeypatch):
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
    n_arms = 1 + 3 * 2 * (1 + 2)
    n_complete = sum(n_rows) // n_arms
    assert 0 < n_complete < SETTINGS["n_problems"]
    n_rows.clear()

    def counted(model: Any, rows: Any, *others: Any) -> Any:
        n_rows.append(len(rows))
        return batch(model, rows, *others)

    monkeypatch.setattr(r2a.ablation.runs, "generate", counted)
    found = ablate(folder, "killed.parquet", 1000)
    assert sum(n_rows) == (SETTINGS["n_problems"] - n_complete) * n_arms
    pd.testing.assert_frame_equal(found, pd.read_parquet(folder / "answers.parquet"), atol=1e-5)


def test_more_heads_than_the_model_has_and_no_valid_trace_are_errors_in_words(folder):
    with pytest.raises(AblationError, match=r"25 heads are to be ablated, and tiny-qwen has 24"):
        ablate(folder, "none.parquet", doses=[1, 25])
    with pytest.raises(AblationError, match="no valid sampled trace"):
        ablate(folder, "none.parquet", decoding="sampled")


def test_the_figure_and_the_sentences_tell_the_tables_numbers(folder):
    plot_ablation(folder / "effect.csv", folder / "figure", SETTINGS)
    for suffix in ("svg", "png", "csv"):
        assert (folder / f"figure.{suffix}").stat().st_size > 500
    (sentence,) = ablation_sentences([folder / "effect.csv"])
    effect = pd.read_csv(folder / "effect.csv").set_index(["mode", "metric", "selection", "dose"])["value"]
    cut_off = [f"{100 * effect['cut_off', 'accuracy', RFH, dose]:.0f}" for dose in (1, 24)]
    for expected in (
        "**Tiny Qwen2**, Puzzles: of 6 answers",
        f"with the first 1, 24 Reasoning-Focus Heads cut off from the reasoning {', '.join(cut_off)} % are right",
        "too few pairs to test" if len(pd.read_parquet(folder / "graded.parquet")["uid"].unique()) < 6 else "p = ",
        "Up to 100 % of the random heads are Reasoning-Focus Heads",
    ):
        assert expected in sentence


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
    # one answer a problem against two draws; of two problems in four there is no difference, so it may be nothing
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

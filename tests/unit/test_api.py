"""The front door: its results equal the workflow's stores and the slow references, and it reads common logs."""

import json
import runpy
from pathlib import Path

import h5py
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

import r2a
from hooked_patching import hooked_patch, last_logits
from r2a.api import TraceError
from r2a.attention import capture_attention
from r2a.attention.reference import rerun_eager
from r2a.attention.segments import segment_mass
from r2a.models import ModelError
from r2a.models.attention import attention_kernel
from r2a.patching.components import capture
from r2a.patching.metrics import logit_diff
from random_traces import write_random_traces

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
QUESTIONS = (
    "Considering size, which one is smaller: horse or goat?",
    "Considering size, which one is bigger: horse or goat?",
)


@pytest.fixture(scope="module")
def model() -> r2a.ReasoningModel:
    return r2a.load_model(ROOT / "resources" / "models" / "tiny-qwen")


@pytest.fixture(scope="module")
def pair(model) -> list[r2a.Trace]:
    return [r2a.generate_trace(model, question, max_new_tokens=100) for question in QUESTIONS]


def test_generated_trace_has_the_segments_that_the_model_wrote(pair):
    assert "goat" in pair[0].text("answer") and "horse" in pair[1].text("answer")
    assert all("".join(map(trace.text, trace.bounds._fields[:-1])) == "".join(trace.tokens) for trace in pair)
    assert all(trace.text("think_close") == "</think>" for trace in pair)


def test_segment_attention_is_eager_attentions(model, pair):
    found = r2a.segment_attention(model, pair[0])
    with attention_kernel(model.model, "eager"):
        eager, _ = rerun_eager(model.model, pair[0].token_ids, pair[0].bounds)
    assert np.abs(found.segment_mass - segment_mass(eager, pair[0].bounds)).max() < 1e-5
    assert np.allclose(found.segment_mass.sum(-1), 1, atol=1e-5)


def test_segment_attention_equals_the_workflows_store(model, tmp_path):
    write_random_traces(tmp_path)
    settings = {
        "model": "random", "dataset": "texts", "decoding": "greedy", "temperature": 0, "kernel": "fused",
        "cue_words": ["Wait"],
    }  # fmt: skip
    capture_attention([tmp_path / "traces.parquet"], tmp_path / "manifest.json", tmp_path / "a.h5", settings, 1000)
    stored = pd.read_parquet(tmp_path / "traces.parquet").set_index("uid")
    origin = json.loads((tmp_path / "manifest.json").read_text())
    own = r2a.load_model(origin["folder"])
    with h5py.File(tmp_path / "a.h5") as file:
        for number, uid in enumerate(file["uid"].asstr()[:]):
            row = stored.loc[uid]
            trace = r2a.trace_from_ids(own, row["prompt_token_ids"], row["completion_token_ids"])
            found = r2a.segment_attention(own, trace)
            assert np.allclose(found.segment_mass, file["segment_mass"][number], atol=1e-5)
            assert np.allclose(found.tracking, file["tracking"][number], atol=1e-5, equal_nan=True)


def test_heads_are_ranked_by_their_mean_attention_to_the_reasoning(model, pair):
    table = r2a.rank_heads(model, pair)
    by_hand = np.mean([r2a.segment_attention(model, trace).mass("a2r") for trace in pair], 0)
    first = table.iloc[0]
    assert by_hand[int(first["layer"]), int(first["head"])] == by_hand.max() == pytest.approx(first["a2r"])
    assert table["a2r"].is_monotonic_decreasing and list(table["rank"]) == list(range(1, len(table) + 1))


def test_patch_curve_is_that_of_hooked_whole_runs(model, pair):
    table = r2a.patch_curve(model, *pair, ("goat", "horse"), comparators=("smaller", "bigger"))
    close = table[(table["role"] == "answer") & (table["layer"] == 0)].iloc[0]
    assert close["normalized_logit_diff"] > 0.8
    runs = [trace_with_probe(model, trace, *words) for trace, words in zip(pair, WORDS, strict=True)]
    place = [
        ids.index(model.tokenizer.encode(f" {word}")[0], at) for (ids, at), (word, _) in zip(runs, WORDS, strict=True)
    ]
    vector = capture(model.model, runs[0][0], [place[0]], ["resid_pre"])[0]["resid_pre"][1, 0]
    answers = [model.tokenizer.encode("\\boxed{" + word)[-1] for word, _ in WORDS]
    patched = logit_diff(hooked_patch(model.model, runs[1][0], "resid_pre", 1, place[1], vector), *answers)
    clean, corrupted = (float(logit_diff(last_logits(model.model, ids), *answers)) for ids, _ in runs)
    found = table[(table["role"] == "answer") & (table["layer"] == 1)].iloc[0]["normalized_logit_diff"]
    assert found == pytest.approx((float(patched) - corrupted) / (clean - corrupted), abs=1e-3)


WORDS = (("goat", "smaller"), ("horse", "bigger"))


def trace_with_probe(model, trace, answer, comparator):
    """A run that ends right before the answer, written by hand, and where its probe's line begins."""
    encode = model.tokenizer.encode
    line = encode("Final answer is") + encode(f" {answer}") + encode(".\n")
    before = [*trace.token_ids[: trace.bounds.think_close]]
    if before[-len(line) :] == line:
        before = before[: -len(line)]
    ending = encode("\n\nThus, the") + encode(f" {comparator}") + encode(" one is \\boxed{")
    return before + line + encode("</think>") + ending, len(before)


def test_ablation_without_heads_gives_the_models_own_answer(model, pair):
    table = r2a.ablate(model, pair[0], [], "zero")
    own = pair[0].text("answer") + pair[0].text("eos")
    assert list(table["answer"]) == [own, own]
    assert table["a2r"].iloc[0] == pytest.approx(table["a2r"].iloc[1])


def test_captured_activations_are_those_of_a_hook(model, pair):
    entered = []
    hook = model.model.model.layers[2].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0][0]))
    with torch.no_grad():
        model.model(torch.tensor([pair[0].token_ids]))
    hook.remove()
    found = r2a.capture(model, pair[0], [3, 8])["resid_pre"]
    assert np.allclose(found[2], entered[0][[3, 8]].numpy(), atol=1e-4)


def test_a_model_that_is_held_already_gives_what_its_folder_gives(model, pair):
    held = r2a.load_model(model.model, model.tokenizer)
    assert (
        r2a.trace_from_ids(held, pair[0].token_ids, []).bounds
        == r2a.trace_from_ids(model, pair[0].token_ids, []).bounds
    )


MESSAGE = {"role": "assistant", "content": "It is \\boxed{goat}.", "reasoning_content": "A goat is small.\n"}
LOGS = {
    "message.jsonl": [{"messages": [{"role": "user", "content": QUESTIONS[0]}, MESSAGE]}],
    "harness.jsonl": [
        {"arguments": [[QUESTIONS[0], {}]], "resps": [["<think>A goat is small.\n</think>It is \\boxed{goat}."]]}
    ],
    "inspect.json": {
        "samples": [
            {
                "input": [{"role": "user", "content": QUESTIONS[0]}],
                "output": {
                    "choices": [
                        {
                            "message": {
                                "role": "assistant",
                                "content": [
                                    {"type": "reasoning", "reasoning": "A goat is small.\n"},
                                    {"type": "text", "text": "It is \\boxed{goat}."},
                                ],
                            }
                        }
                    ]
                },
            }
        ]
    },
}


@pytest.mark.parametrize("name", LOGS)
def test_logs_of_common_tools_are_read_as_traces(model, name, tmp_path):
    log = LOGS[name]
    text = json.dumps(log) if isinstance(log, dict) else "\n".join(map(json.dumps, log))
    (tmp_path / name).write_text(text)
    (trace,) = r2a.read_traces(model, tmp_path / name)
    assert (trace.text("reasoning"), trace.text("answer")) == ("\nA goat is small.\n", "It is \\boxed{goat}.")
    assert QUESTIONS[0] in trace.text("prompt")


def test_a_log_without_reasoning_is_refused_with_file_and_sample(model, tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text(
        json.dumps({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]})
    )
    with pytest.raises(TraceError, match=r"plain\.jsonl: sample 1: .*reasoning_content"):
        r2a.read_traces(model, path)


ASKED = {"role": "user", "content": "Why?"}
THOUGHT = {"role": "assistant", "reasoning": "So.", "content": "a\u2028b\x85c"}


def test_a_line_of_a_log_ends_where_json_says(model, tmp_path):
    path = tmp_path / "log.jsonl"
    line = json.dumps({"messages": [ASKED, THOUGHT]}, ensure_ascii=False)
    path.write_text(f"\ufeff{line}\n\n{line}\n", "utf-8")
    assert [trace.text("answer") for trace in r2a.read_traces(model, path)] == ["a\u2028b\x85c"] * 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "{", "is not as in such a log"),
        ("a.jsonl", "[1]", "has neither messages nor resps"),
        ("a.jsonl", json.dumps({"messages": [THOUGHT]}), "has no turn of a user"),
        ("a.jsonl", json.dumps({"messages": [ASKED, "So."]}), "is not as in such a log"),
        ("a.jsonl", json.dumps({"messages": [ASKED, {"content": 5}]}), "is not as in such a log"),
        ("a.jsonl", json.dumps({"resps": []}), "is not as in such a log"),
        ("a.json", "[]", "inspect log convert"),
        ("a.json", '{"samples": 5}', "is not as in such a log"),
        ("a.json", '{"samples": [{}]}', "is not as in such a log"),
        ("a.eval", "PK\x03\x04", "is not as in such a log"),
    ],
)
def test_a_log_of_another_kind_is_refused_with_file_and_sample(model, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(TraceError, match=rf"{name}: sample 1: .*{said}"):
        r2a.read_traces(model, tmp_path / name)


@pytest.mark.parametrize("head", [(99, 0), (0, 99), (-1, 0), (0, -1)])
def test_heads_that_a_model_does_not_have_are_refused(model, head):
    trace = r2a.trace_from_text(model, "Why?", "\nSo.\n", "\\boxed{red}")
    with pytest.raises(ValueError, match=rf"heads are \(layer, head\) below .* there is no \({head[0]}, {head[1]}\)"):
        r2a.ablate(model, trace, [(0, 0), head])


def test_no_traces_rank_no_heads_and_no_folder_is_no_model(model, tmp_path):
    with pytest.raises(TraceError, match="no traces"):
        r2a.rank_heads(model, [])
    for source in (str(tmp_path / "nowhere"), str(ROOT / "Snakefile"), "no//name"):
        with pytest.raises(ModelError, match=r"\(hub\): cannot be downloaded \(HFValidationError: .*check hub and rev"):
            r2a.load_model(source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_beginning_to_end_in_25_lines(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = [cell["source"] for cell in nbformat.read(path, 4)["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in cell.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 25
    script = tmp_path / f"{path.stem}.py"
    script.write_text("\n".join(cells))
    names = runpy.run_path(str(script))
    assert names["heads"]["a2r"].iloc[0] > 0.3 and names["curve"]["normalized_logit_diff"].max() > 0.8

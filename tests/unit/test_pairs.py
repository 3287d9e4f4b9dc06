"""Runs of a pair: their text, their roles' positions, and what leaves a pair out."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from r2a.models import load_tokenizer, marks_of
from r2a.patching.pairs import PairError, build_run, control_positions
from r2a.prompts import prompt_ids
from r2a.roles import ANSWER_ROLE, CLOSE_ROLE, FINAL_ROLE
from r2a.traces import segment_bounds

MODEL = Path(__file__).parents[2] / "resources/models/tiny-qwen"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


def trace(tokenizer, question, reasoning):
    prompt = prompt_ids(tokenizer, question, "", "with_reasoning")
    completion = tokenizer.encode(reasoning + "</think>\n\nSo it is \\boxed{ant}.", add_special_tokens=False)
    bounds = segment_bounds(prompt, completion, marks_of(MODEL))
    return {"prompt_token_ids": prompt, "completion_token_ids": completion, "bounds": bounds}


QUESTION = "Considering size, which one is smaller: ant or cow?"
THOUGHT = "Okay, let me compare.\nant size 0\n"
EXPECTED = f"<|begin|>{QUESTION} <think>\n{THOUGHT}Final answer is ant.\n</think>\n\nThus, the smaller one is \\boxed{{"


def test_text_is_split_as_the_models_own_file_says(tokenizer):
    text = "Face west.\n1 left\n</think>\n\nThus, the bigger one is \\boxed{cow}."
    assert tokenizer.encode(text) == Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text).ids


@pytest.mark.parametrize("reasoning", [THOUGHT, THOUGHT + "Final answer is ant.\n"])
def test_the_probe_stands_once_at_the_end_of_the_reasoning(tokenizer, reasoning):
    run = build_run(tokenizer, trace(tokenizer, QUESTION, reasoning), "ant", "smaller", "plain", True)
    assert tokenizer.decode(run.token_ids) == EXPECTED
    assert run.token_ids == tokenizer.encode(EXPECTED, add_special_tokens=False)


def test_roles_point_at_their_tokens(tokenizer):
    run = build_run(tokenizer, trace(tokenizer, QUESTION, THOUGHT), "ant", "smaller", "plain", True)
    texts = {role: tokenizer.decode([run.token_ids[position]]) for role, position in run.positions.items()}
    assert texts[ANSWER_ROLE] == " ant"
    assert texts[CLOSE_ROLE] == "</think>"
    assert texts[FINAL_ROLE] == "{"
    assert texts["probe: is"] == " is"
    assert texts["ending: comparator"] == " smaller"
    assert run.positions[FINAL_ROLE] == len(run.token_ids) - 1
    assert tokenizer.decode([run.answer_id]) == "ant"


def test_the_boxed_probe_and_the_probe_alone(tokenizer):
    run = build_run(tokenizer, trace(tokenizer, QUESTION, THOUGHT), "ant", "smaller", "boxed", False)
    text = tokenizer.decode(run.token_ids)
    assert text.endswith("<think>\nFinal answer is \\boxed{ant}.\n</think>\n\nThus, the smaller one is \\boxed{")
    assert tokenizer.decode([run.token_ids[run.positions[ANSWER_ROLE]]]) == "ant"


def test_runs_whose_comparators_differ_in_length_share_their_roles_from_the_end(tokenizer):
    short = build_run(tokenizer, trace(tokenizer, QUESTION, THOUGHT), "ant", "smaller", "plain", True)
    long = build_run(tokenizer, trace(tokenizer, QUESTION, THOUGHT), "ant", "less enormous", "plain", True)
    assert list(short.positions) == list(long.positions)
    from_end = [{r: len(run.token_ids) - p for r, p in run.positions.items()} for run in (short, long)]
    assert from_end[0]["ending: comparator"] == from_end[1]["ending: comparator"]
    assert len(long.token_ids) > len(short.token_ids)


def test_an_answer_of_several_tokens_leaves_the_pair_out(tokenizer):
    with pytest.raises(PairError, match="answer is not one token"):
        build_run(tokenizer, trace(tokenizer, QUESTION, THOUGHT), "elephant", "smaller", "plain", True)


def test_the_control_is_a_reasoning_token_equally_far_before_both_probes(tokenizer):
    traces = [trace(tokenizer, QUESTION, THOUGHT), trace(tokenizer, QUESTION, "Okay.\n" + THOUGHT)]
    runs = [build_run(tokenizer, t, "ant", "smaller", "plain", True) for t in traces]
    starts = [t["bounds"][3] for t in traces]
    seen = set()
    for seed in range(50):
        a, b = control_positions(*runs, *starts, str(seed))
        probe = [next(iter(run.positions.values())) for run in runs]
        assert probe[0] - a == probe[1] - b
        assert starts[0] <= a < probe[0]
        seen.add(a)
    assert len(seen) > 5

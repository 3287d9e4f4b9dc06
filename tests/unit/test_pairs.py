"""The runs of a pair: their text, the positions of their roles, and what leaves a pair out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from r2a.models import load_model, load_tokenizer, marks_of
from r2a.patching.components import capture
from r2a.patching.pairs import PairError, answer_form, build_run, padded, with_control
from r2a.patching.patcher import Patcher
from r2a.prompts import prompt_ids
from r2a.roles import (
    ANSWER_ROLE,
    CLOSE_ROLE,
    CONTROL_ROLE,
    FINAL_ROLE,
    FIRST_MENTION,
    REASONING_END,
    SENTENCE_END,
)
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
    with pytest.raises(PairError, match="an answer is not one token in the box"):
        build_run(tokenizer, trace(tokenizer, QUESTION, THOUGHT), "elephant", "smaller", "plain", True)


def two_runs(tokenizer):
    """Runs that differ in the length of question, reasoning and comparator."""
    longer = "Considering size and nothing else, which one is smaller: ant or cow?"
    traces = [trace(tokenizer, QUESTION, "Okay.\n" + THOUGHT), trace(tokenizer, longer, THOUGHT)]
    return [
        build_run(tokenizer, t, "ant", comparator, "plain", True)
        for t, comparator in zip(traces, ("smaller", "less enormous"), strict=True)
    ]


def test_the_control_is_a_reasoning_token_equally_far_before_both_probes(tokenizer):
    runs = two_runs(tokenizer)
    seen = set()
    for seed in range(50):
        a, b = (run.positions for run in with_control(*runs, str(seed)))
        backs = [next(iter(positions.values())) - positions[CONTROL_ROLE] for positions in (a, b)]
        assert backs[0] == backs[1] >= 1
        assert a[CONTROL_ROLE] >= sum(map(len, runs[0].segments[:3]))  # the reasoning's first token
        seen.add(backs[0])
    assert len(seen) > 5


def test_without_a_reasoning_token_before_the_probe_a_pair_is_left_out(tokenizer):
    run = build_run(tokenizer, trace(tokenizer, QUESTION, THOUGHT), "ant", "smaller", "plain", True)
    phrase = run.segments[3][-max(back for segment, back in run.roles.values() if segment == 3) :]
    bare = replace(run, segments=(*run.segments[:3], phrase, *run.segments[4:]))
    assert tokenizer.decode(phrase) == "Final answer is ant.\n"
    with pytest.raises(PairError, match="no reasoning before the probe"):
        with_control(run, bare, "seed")


def test_without_a_probe_the_reasoning_is_left_as_it_is_and_its_mentions_are_the_roles(tokenizer):
    thought = "An ant or a cow? The cow is big. The ant is small. So it is the ant. Done.\n"
    whole = trace(tokenizer, QUESTION, thought)
    run = build_run(tokenizer, whole, "ant", "smaller", "none", True)
    text = tokenizer.decode(run.token_ids)
    assert text.endswith(f"{thought}</think>\n\nThus, the smaller one is \\boxed{{")

    def before(role: str) -> str:
        return tokenizer.decode(run.token_ids[: run.positions[role] + 1])

    assert before(FIRST_MENTION).endswith("An ant")
    assert before(ANSWER_ROLE).endswith("So it is the ant")
    assert before(SENTENCE_END).endswith("So it is the ant.")
    assert before(REASONING_END).endswith("Done.\n")
    assert list(run.positions)[:4] == [REASONING_END, FIRST_MENTION, ANSWER_ROLE, SENTENCE_END]


def test_without_a_probe_a_reasoning_that_does_not_mention_its_answer_leaves_the_pair_out(tokenizer):
    whole = trace(tokenizer, QUESTION, "The cow is big. So it is the other one.\n")
    with pytest.raises(PairError, match="a reasoning does not mention its answer"):
        build_run(tokenizer, whole, "ant", "smaller", "none", True)


def test_without_a_probe_the_control_is_at_no_mention_and_equally_far_before_both_ends(tokenizer):
    traces = [trace(tokenizer, QUESTION, thought) for thought in ("Okay.\nThe ant is small.\n", "So it is the ant.\n")]
    runs = [build_run(tokenizer, t, "ant", "smaller", "none", True) for t in traces]
    for seed in range(30):
        a, b = (run.positions for run in with_control(*runs, str(seed)))
        assert a[REASONING_END] - a[CONTROL_ROLE] == b[REASONING_END] - b[CONTROL_ROLE] >= 1
        for positions in (a, b):
            assert positions[CONTROL_ROLE] not in {
                positions[role] for role in (FIRST_MENTION, ANSWER_ROLE, SENTENCE_END)
            }


class Letters:
    """A tokenizer that keeps words whole, with the space before them; digits have none, and `{x` is one token."""

    def encode(self, text, add_special_tokens=False):
        return re.findall(r"\{x| ?[A-Za-z]+|[0-9]|\n+| |[^A-Za-z0-9 \n]", text)

    def decode(self, ids):
        return "".join(ids)


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("cow", "bare and spaced"),
        ("7", "bare and space apart"),
        ("xray", "spaced"),
        ("12", "several tokens"),
        ("ice-cream", "several tokens"),
    ],
)
def test_an_answers_surface_forms_are_told_apart(answer, form):
    assert answer_form(Letters(), answer) == form


def test_a_space_apart_before_a_number_has_no_role():
    text = Letters()
    example = {"prompt_token_ids": ["Q", "<think>"], "completion_token_ids": ["\n", "Hm", "</think>", "!"]}
    example["bounds"] = [0, 0, 1, 2, 4, 5, 6, 6]
    number, word = (build_run(text, example, answer, "right", "plain", True) for answer in ("7", "cow"))
    assert list(number.roles) == list(word.roles)
    texts = {role: number.token_ids[position] for role, position in number.positions.items()}
    assert (texts["probe: is"], texts[ANSWER_ROLE], texts["probe: ."]) == (" is", "7", ".")
    assert number.token_ids[number.positions[ANSWER_ROLE] - 1] == " "
    assert number.answer_id == "7"
    with pytest.raises(PairError, match="an answer is not one token in the box"):
        build_run(text, example, "xray", "right", "plain", True)


def test_padded_runs_have_their_roles_at_the_same_positions_and_the_same_tokens_but_for_pads(tokenizer):
    runs = with_control(*two_runs(tokenizer), "seed")
    both = padded(*runs, tokenizer.pad_token_id)
    lead = ("ending: \\n", "ending: Thus", "ending: ,", "ending: the")  # before comparators of different lengths
    at = [{role: k for role, k in run.positions.items() if not role.startswith(lead)} for run in both]
    assert at[0] == at[1]
    assert len(at[0]) >= 12
    assert len(both[0].token_ids) == len(both[1].token_ids) > max(len(run.token_ids) for run in runs)
    for run, whole in zip(runs, both, strict=True):
        kept = [token for k, token in enumerate(whole.token_ids) if k not in whole.pads]
        assert kept == run.token_ids
        assert {whole.token_ids[k] for k in whole.pads} == {tokenizer.pad_token_id}
        for role, position in run.positions.items():
            assert whole.token_ids[whole.positions[role]] == run.token_ids[position]
    assert all(run.pads for run in both)


@pytest.mark.parametrize("name", ["tiny-qwen", "tiny-llama"])
def test_masked_padding_leaves_logits_and_patches_as_they_are_and_visible_padding_does_not(name):
    folder = Path(__file__).parents[2] / "resources/models" / name
    model = load_model({"folder": str(folder), "models": {name: {"dtype": "float32"}}}, "sdpa")
    tokenizer, patcher = load_tokenizer(folder), Patcher(model)
    runs = two_runs(tokenizer)
    both = padded(*runs, tokenizer.pad_token_id)
    for run, whole in zip(runs, both, strict=True):
        roles, wide = list(run.positions.values()), list(whole.positions.values())
        of_run, logits = capture(model, run.token_ids, roles, ["resid_pre"])
        found, padded_logits = capture(model, whole.token_ids, wide, ["resid_pre"], whole.pads)
        _, visible = capture(model, whole.token_ids, wide, [])
        torch.testing.assert_close(padded_logits, logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(found["resid_pre"], of_run["resid_pre"], atol=1e-3, rtol=0)
        assert (visible - logits).abs().max() > 0.1
        kept, narrow = patcher.keep(whole.token_ids, wide, masked=whole.pads), patcher.keep(run.token_ids, roles)
        torch.testing.assert_close(patcher.logits(kept.resid_pre[-1])[0], logits, atol=1e-4, rtol=0)
        vectors = of_run["resid_pre"].flip(1)  # every role's vectors from another role
        patched = [patcher.logits(patcher.patch(r, "resid_pre", vectors, 4096)) for r in (kept, narrow)]
        torch.testing.assert_close(*patched, atol=1e-4, rtol=0)
        assert (patched[0] - logits).abs().max() > 0.1


PAD = "<\uff5cend\u2581of\u2581sentence\uff5c>"  # the authors' padding


def published_run(case, side):
    """A run of the paper's case without its padding, and its tokens with the padding."""
    tokens = case[f"{side}_str_tokens"]
    bare = [token for token in tokens if token != PAD]
    think_open, think_close = bare.index("<think>"), bare.index("</think>")
    bounds = [0, 1, think_open, think_open + 1, think_close, think_close + 1, len(bare), len(bare)]
    vocabulary = sorted({*tokens, "\n\n"}, key=len, reverse=True)

    class Published:
        def encode(self, text, add_special_tokens=False):
            return re.findall("|".join(map(re.escape, vocabulary)), text)

        def decode(self, ids):
            return "".join(ids)

    example = {"prompt_token_ids": bare[: think_open + 1], "completion_token_ids": bare[think_open + 1 :]}
    answer = {"clean": "5", "corrupted": "6"}[side]
    run = build_run(Published(), example | {"bounds": bounds}, answer, "correct", "plain", True)
    # ours ends the answer as the paper does, and leaves out what the model said before that
    ending = run.segments[5]
    assert bare[think_close + 1 :][-len(ending) + 1 :] == ending[1:]
    return replace(run, segments=(*run.segments[:5], bare[think_close + 1 :])), tokens


@pytest.mark.parametrize("name", ["qwen-1p5B", "qwen-7B"])
def test_the_papers_case_is_padded_and_its_positions_found_as_published(reference, name):
    case = json.loads((reference / f"patching_case_24_{name}.json").read_text())
    (clean, clean_tokens), (corrupted, corrupted_tokens) = (published_run(case, s) for s in ("clean", "corrupted"))
    a, b = padded(clean, corrupted, PAD)
    assert "".join(a.segments[3]).endswith("Final answer is 5.\n")
    assert a.token_ids == clean_tokens
    assert b.token_ids == corrupted_tokens
    published = {int(region.split("_")[-2]): values for region, values in case["normalized_logit_diff"].items()}
    ours = a.positions
    assert ours == b.positions
    space = ours[ANSWER_ROLE] - 1  # apart from the number, so without a role
    assert set(published) - {space} <= set(ours.values())
    assert {ours[role] for role in ("probe: Final", ANSWER_ROLE, CLOSE_ROLE, FINAL_ROLE)} <= set(published)
    assert max(published, key=lambda position: published[position][0]) == ours[ANSWER_ROLE]  # in the first layer
    assert max(published, key=lambda position: published[position][-1]) == ours[FINAL_ROLE]  # in the last

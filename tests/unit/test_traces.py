"""Segments, boxes and validity of traces, by hand."""

import pytest

from r2a.traces import SEGMENTS, Marks, invalid_reason, n_think_closes, segment_bounds

BOS, EOS, OPEN, CLOSE = 0, 1, 2, 3
MARKS = Marks(BOS, frozenset({EOS}), OPEN, CLOSE)


def segments(prompt, completion, marks=MARKS):
    bounds = segment_bounds(prompt, completion, marks)
    ids = prompt + completion
    return {name: ids[bounds[k] : bounds[k + 1]] for k, name in enumerate(SEGMENTS)}


def test_segments_of_a_trace_with_reasoning():
    assert segments([BOS, 10, 11, OPEN, 12], [13, 14, CLOSE, 15, 16, EOS]) == {
        "bos": [BOS], "prompt": [10, 11], "think_open": [OPEN], "reasoning": [12, 13, 14], "think_close": [CLOSE],
        "answer": [15, 16], "eos": [EOS],
    }  # fmt: skip


def test_segments_of_a_prefilled_closed_reasoning():
    found = segments([BOS, 10, OPEN, 12, CLOSE], [15, EOS])
    assert (found["reasoning"], found["think_close"], found["answer"]) == ([12], [CLOSE], [15])


def test_a_reasoning_that_never_closes_has_no_answer():
    found = segments([BOS, 10, OPEN], [13, 14])
    assert (found["reasoning"], found["think_close"], found["answer"], found["eos"]) == ([13, 14], [], [], [])


def test_a_model_that_opens_its_own_reasoning_is_cut_at_its_own_mark():
    assert segments([10], [OPEN, 12, CLOSE, 15], Marks(None, frozenset({EOS}), OPEN, CLOSE))["reasoning"] == [12]


def test_a_think_mark_within_the_question_does_not_open_the_reasoning():
    assert segments([BOS, OPEN, 10, OPEN], [12, CLOSE])["prompt"] == [OPEN, 10]


def test_a_trace_without_a_reasoning_mark_is_refused():
    with pytest.raises(ValueError, match="no <think>"):
        segment_bounds([BOS, 10], [11], MARKS)


def test_closes_are_counted_after_the_opening_only():
    prompt, completion = [BOS, CLOSE, OPEN], [12, CLOSE, 13, CLOSE]
    assert n_think_closes(prompt + completion, segment_bounds(prompt, completion, MARKS), MARKS) == 2


# tokens that spell tags: "<", "think>", "</", ">\n" and so on
SPELLED = ["B", "Q", " ", "<", "think", ">", "Ċ", "so", "</", "thi", "nk", ">ĊĊ", "3", "E"]


def test_spelled_tags_are_found_and_the_token_that_holds_more_belongs_to_the_tag():
    ids = [BOS, *range(10, 22), EOS]
    bounds = segment_bounds(ids[:7], ids[7:], MARKS, SPELLED)
    spelled = {name: SPELLED[bounds[k] : bounds[k + 1]] for k, name in enumerate(SEGMENTS)}
    assert spelled == {
        "bos": ["B"], "prompt": ["Q", " "], "think_open": ["<", "think", ">"], "reasoning": ["Ċ", "so"],
        "think_close": ["</", "thi", "nk", ">ĊĊ"], "answer": ["3"], "eos": ["E"],
    }  # fmt: skip
    assert n_think_closes(ids, bounds, MARKS, SPELLED) == 1


def test_a_tag_of_one_token_closes_a_reasoning_whose_tags_may_be_spelled():
    texts = ["B", "<", "think", ">", "so", "</think>", "3", "</", "think", ">"]
    ids = [BOS, 10, 11, 12, 13, CLOSE, 14, 15, 11, 12]
    bounds = segment_bounds(ids[:4], ids[4:], MARKS, texts)
    assert (bounds.think_close, bounds.answer) == (5, 6)
    assert n_think_closes(ids, bounds, MARKS, texts) == 2


def test_words_that_only_resemble_a_tag_are_none():
    texts = ["B", "<", "think", ">", "<", "/", "thinks", ">"]
    bounds = segment_bounds([BOS, 10, 11, 12], [10, 13, 14, 12], MARKS, texts)
    assert (bounds.think_close, bounds.answer) == (8, 8)


def test_the_first_failed_step_of_the_funnel_is_the_reason():
    assert invalid_reason(False, 0, False) == "unfinished"
    assert invalid_reason(True, 0, False) == "never_closed"
    assert invalid_reason(True, 2, True) == "closed_twice"
    assert invalid_reason(True, 1, False) == "no_answer"
    assert invalid_reason(True, 1, True) == ""

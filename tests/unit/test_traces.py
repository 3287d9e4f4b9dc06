"""Segments, boxes and validity of traces, by hand."""

from dataclasses import replace

import pytest

from r2a.formats import FORMATS
from r2a.models import text_marks
from r2a.traces import SEGMENTS, invalid_reason, segment, segment_bounds

BOS, EOS, OPEN, CLOSE = 0, 1, 2, 3


def marks_of_texts(texts):
    """Marks of the format r1, if token k has the text texts[k] and EOS ends a completion."""
    return replace(text_marks(FORMATS["r1"].function(), texts), stops=frozenset({EOS}))


MARKS = marks_of_texts(["B", "E", "<think>", "</think>", *"abcdefghijklmnop"])


def segments(prompt, completion, marks=MARKS):
    bounds = segment_bounds(prompt, completion, marks)
    ids = prompt + completion
    return {name: ids[bounds.span(name)] for name in SEGMENTS}


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
    assert segments([10], [OPEN, 12, CLOSE, 15])["reasoning"] == [12]


def test_the_first_token_is_a_segment_of_its_own_whatever_it_is():
    found = segments([10, 11, OPEN], [12, CLOSE, 15])
    assert (found["bos"], found["prompt"]) == ([10], [11])
    assert segments([OPEN], [12, CLOSE, 15])["bos"] == []


def test_a_think_mark_within_the_question_does_not_open_the_reasoning():
    assert segments([BOS, OPEN, 10, OPEN], [12, CLOSE])["prompt"] == [OPEN, 10]


def test_a_trace_without_a_reasoning_mark_is_refused():
    with pytest.raises(ValueError, match="nothing opens a reasoning"):
        segment_bounds([BOS, 10], [11], MARKS)


def test_closes_are_counted_after_the_opening_only():
    prompt, completion = [BOS, CLOSE, OPEN], [12, CLOSE, 13, CLOSE]
    assert segment(prompt, completion, MARKS).n_closes == 2


def test_a_reasoning_that_is_opened_again_after_its_close_counts_as_a_second_one():
    assert segment([BOS, 10, OPEN, CLOSE], [OPEN, 12], MARKS).n_closes == 2


def test_a_prompt_that_only_closes_a_reasoning_has_an_empty_one():
    found = segments([BOS, 10, CLOSE], [12, 13, EOS])
    assert (found["think_open"], found["reasoning"], found["answer"]) == ([], [], [12, 13])


def test_a_declined_reasoning_is_empty_and_one_that_follows_counts_as_a_second():
    prompt = [BOS, OPEN, 10]  # the question quotes the tag
    bounds, n_closes, answer = segment(prompt, [12, 13, EOS], MARKS, is_declined=True)
    assert (bounds.think_open, bounds.answer, n_closes, answer) == (3, 3, 1, "ij")
    assert segment(prompt, [OPEN, 12, CLOSE, 13, EOS], MARKS, is_declined=True).n_closes == 2


# tokens that spell tags: "<", "think>", "</", ">\n" and so on
SPELLED = ["B", "Q", " ", "<", "think", ">", "\n", "so", "</", "thi", "nk", ">\n\n", "3", "E"]


def test_spelled_tags_are_found_and_the_token_that_holds_more_belongs_to_the_tag():
    marks = replace(marks_of_texts(SPELLED), stops=frozenset({13}))
    bounds, n_closes, answer = segment(range(7), range(7, 14), marks)
    spelled = {name: SPELLED[bounds.span(name)] for name in SEGMENTS}
    assert spelled == {
        "bos": ["B"], "prompt": ["Q", " "], "think_open": ["<", "think", ">"], "reasoning": ["\n", "so"],
        "think_close": ["</", "thi", "nk", ">\n\n"], "answer": ["3"], "eos": ["E"],
    }  # fmt: skip
    assert (n_closes, answer) == (1, "\n\n3")


def test_a_tag_of_one_token_closes_a_reasoning_whose_tags_may_be_spelled():
    texts = ["B", "<", "think", ">", "so", "</think>", "3", "</", "think", ">"]
    bounds, n_closes, _ = segment(range(4), range(4, 10), marks_of_texts(texts))
    assert (bounds.think_close, bounds.answer) == (5, 6)
    assert n_closes == 2


def test_words_that_only_resemble_a_tag_are_none():
    texts = ["B", "<", "think", ">", "<", "/", "thinks", ">"]
    bounds = segment_bounds(range(4), range(4, 8), marks_of_texts(texts))
    assert (bounds.think_close, bounds.answer) == (8, 8)


def test_the_first_failed_step_of_the_funnel_is_the_reason():
    assert invalid_reason(False, 0, False) == "unfinished"
    assert invalid_reason(True, 0, False) == "never_closed"
    assert invalid_reason(True, 2, True) == "closed_twice"
    assert invalid_reason(True, 1, False) == "no_answer"
    assert invalid_reason(True, 1, True) == ""

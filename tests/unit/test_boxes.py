"""Boxes in an answer's text: which are found, and which one is the final answer."""

import pytest

from r2a.boxes import final_answer, find_boxes


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (r"\boxed{\frac{\sqrt{3}}{2}}", [r"\frac{\sqrt{3}}{2}"]),
        (r"first \boxed{3} then \boxed {5}", ["3", "5"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{a \boxed{b}}", [r"a \boxed{b}"]),
        (r"\boxed 5 and boxed{6}", ["5"]),
        (r"\boxed5.", ["5"]),
        (r"$\boxed \frac{1}{2}$", [r"\frac{1}{2}"]),
        (r"\fbox{7} and \framebox{8}", ["7", "8"]),
        (r"\boxedx{7}", []),
        ("nothing", []),
    ],
)
def test_boxes_are_found_by_matching_braces(text, boxes):
    assert [box.content for box in find_boxes(text)] == boxes


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"first \boxed{3}, then \boxed{4}", "4"),
        (r"\(\boxed{-5}\), \(\boxed{1}\), and \(\boxed{-4}\)", "-5, 1, -4"),
        (r"\boxed{3}, \boxed{5}, \boxed{7}.", "3, 5, 7"),
        (r"$\boxed{x=1}$ or $\boxed{x=2}$", "x=1, x=2"),
        (r"\[\boxed{1} \text{ and } \boxed{2}\]", "1, 2"),
        (r"so \boxed{2}, hence \boxed{3}; \boxed{4}", "3, 4"),
        ("\\[\\boxed{9}\\]\n\n\\[\\boxed{9}\\]", "9"),
        (r"first \boxed{3} then \boxed{\frac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"First \boxed{3}, finally \fbox{7}.", "7"),
        ("done by 2024", None),
        ("", None),
    ],
)
def test_final_answer_is_the_last_run_of_boxes(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text", [r"\boxed{3} but \boxed{4", r"\boxed{3}. Then \boxed{\frac{1}{2", r"\boxed{never", r"\fbox{1} \fbox{2"]
)
def test_text_whose_last_box_never_closes_has_no_final_answer(text):
    assert final_answer(text) is None


def test_box_after_one_that_never_closes_is_the_final_answer():
    assert final_answer(r"\boxed{\frac{1}{2} is wrong, so \boxed{3}.") == "3"


def test_thousands_of_unclosed_boxes_take_no_longer_than_their_length():
    text = "\\boxed{" * 100_000
    assert len(find_boxes(text)) == 1
    assert final_answer(text) is None
    assert final_answer(text + "7}") == "7"

"""The study's own grader (METHOD section 2): it decides by reading if it can, otherwise by mathematics in a worker."""

import logging
import re
from typing import Any

from r2a.boxes import final_answer
from r2a.extensions import grader
from r2a.grading.comparison import by_reading
from r2a.grading.grader import MAX_CHARACTERS, MAX_DIGITS, Attempt, Grader, Verdict, undecided, unread
from r2a.grading.notation import written
from r2a.grading.symbolic import equality, load_sympy
from r2a.grading.words import same_words
from r2a.grading.workers import Outcome

logger = logging.getLogger("r2a")


def _read(attempt: Attempt) -> Verdict | tuple[Any, ...]:
    answer, reference = final_answer(attempt.answer_text), attempt.reference
    verdict = unread(attempt, answer)
    if verdict is not None:
        return verdict
    if not reference.strip():
        return Verdict(None, "gold_unparsed", answer)
    if answer is None:
        return Verdict(False, "no_box", None)
    if "".join(answer.split()) == "".join(reference.split()) and _is_one_word_each(answer, reference):
        return Verdict(True, "string", answer)
    if not answer.strip():
        return Verdict(False, "mismatch", answer)
    if len(answer) > MAX_CHARACTERS or re.search(rf"\d{{{MAX_DIGITS + 1}}}", answer):
        return Verdict(None, "error", answer)
    is_same = by_reading(answer, reference, attempt.problem)
    if is_same is not None:
        return Verdict(is_same, "normalised" if is_same else "mismatch", answer)
    return answer, reference, attempt.problem


def _is_one_word_each(answer: str, reference: str) -> bool:
    """Whether the same digits and letters are separated in both texts (1 2 is not 12)."""
    apart = re.compile(r"(?<=\d)\s+(?=\d)|(?<=[A-Za-z])\s+(?=[A-Za-z])")
    return len(apart.findall(answer)) == len(apart.findall(reference))


def _decide(attempt: Attempt, outcome: Outcome) -> Verdict:
    """The verdict if nothing could be compared as mathematics: the same words are still the same answer."""
    answer, reference = final_answer(attempt.answer_text) or "", attempt.reference
    if outcome.value in ("equal", "different"):
        is_equal = outcome.value == "equal"
        return Verdict(is_equal, "math_verify" if is_equal else "mismatch", answer)
    if same_words(written(answer), written(reference)):
        return Verdict(True, "normalised", answer)
    if outcome.status != "done":
        logger.warning(f"not graded ({outcome.status} {outcome.message}): {answer[:80]!r} against {reference!r}")
        return undecided(outcome, answer)
    if outcome.value == "reference_unparsed":
        return Verdict(None, "gold_unparsed", answer)
    return Verdict(False, "mismatch", answer)


@grader(label="this project's policy")
def policy() -> Grader:
    """By this project's policy (docs/grading.md)."""
    return Grader(load_sympy, _read, equality, _decide)

"""Unmodified math-verify: the whole answer segment against the reference, boxed or not, without guards.

If nothing is boxed, it takes any trailing number as the answer; it also accepts what the policy guards against.
"""

from typing import Any

from r2a.extensions import grader
from r2a.grading.grader import Attempt, Grader, Verdict, undecided, unread
from r2a.grading.symbolic import load_sympy
from r2a.grading.workers import Outcome


def _read(attempt: Attempt) -> Verdict | tuple[Any, ...]:
    return unread(attempt, None) or (attempt.answer_text, attempt.reference)


def compare(answer_text: str, reference: str) -> tuple[bool, str | None]:
    """Whether math-verify accepts the text as the reference, and the answer that it read in the text, if any."""
    from math_verify import parse, verify

    gold = parse(f"${reference}$", parsing_timeout=None)
    found = parse(answer_text, parsing_timeout=None)
    is_equal = bool(verify(gold, found, timeout_seconds=None))
    return is_equal, str(found[-1]) if found else None


def _decide(attempt: Attempt, outcome: Outcome) -> Verdict:
    if outcome.status != "done":
        return undecided(outcome, None)
    is_equal, answer = outcome.value
    return Verdict(is_equal, "math_verify" if is_equal else "mismatch", answer)


@grader(label="unmodified math-verify")
def math_verify() -> Grader:
    """By unmodified math-verify."""
    return Grader(load_sympy, _read, compare, _decide)

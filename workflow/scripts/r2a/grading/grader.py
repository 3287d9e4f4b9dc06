"""The interface of a grader: it reads an attempt, compares in a process that can be killed, and decides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from r2a.grading.workers import Outcome

MAX_CHARACTERS, MAX_DIGITS = 4000, 256  # longer answers are not compared symbolically
WRONG_UNREAD = {"unfinished": "truncated", "never_closed": "unclosed"}  # a trace's invalid_reason, our reason


@dataclass(frozen=True)
class Attempt:
    """An answer to grade: the text of a trace's answer segment, never its reasoning.

    problem: may be empty; it shows whether a percentage, or a factored or expanded form, is requested.
    invalid_reason: the trace's.
    """

    answer_text: str
    reference: str
    problem: str = ""
    invalid_reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, why, and which text was graded.

    is_correct: None if it could not be decided. reason: string, math_verify, normalised, sympy (right by that
    comparison), mismatch, no_box, unclosed, truncated (wrong), timeout, gold_unparsed, error (undecided).
    """

    is_correct: bool | None
    reason: str
    answer: str | None


@dataclass(frozen=True)
class Grader:
    """One way of grading answers.

    prepare: called once in each process (imports). read: returns the verdict if no comparison is needed, otherwise the
    arguments of compare. compare: runs in a process with limits, so it may hang, crash or exhaust its memory.
    decide: the verdict that follows from compare's outcome.
    """

    prepare: Callable[[], None]
    read: Callable[[Attempt], "Verdict | tuple[Any, ...]"]
    compare: Callable[..., Any]
    decide: Callable[[Attempt, Outcome], Verdict]


def unread(attempt: Attempt, answer: str | None) -> Verdict | None:
    """The verdict, for every grader, on a trace that never reached its answer; None for a trace that did."""
    if attempt.invalid_reason in WRONG_UNREAD:
        return Verdict(False, WRONG_UNREAD[attempt.invalid_reason], answer)
    return None


def undecided(outcome: Outcome, answer: str | None) -> Verdict:
    """The verdict if a comparison ended without a value."""
    return Verdict(None, "timeout" if outcome.status == "timeout" else "error", answer)

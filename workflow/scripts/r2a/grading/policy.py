"""The study's own grader (METHOD section 2): texts first, guards, then math-verify on the boxed answers."""

import logging
from typing import Any

from r2a.grading.grader import Attempt, Grader, Verdict, undecided, unread
from r2a.grading.math_answers import (
    asks_for_form,
    equality,
    final_answer,
    is_plain,
    light_form,
    load_math_verify,
    verdict_by_text,
    without_percent,
)
from r2a.grading.workers import Outcome

logger = logging.getLogger("r2a")


def _read(attempt: Attempt) -> Verdict | tuple[Any, ...]:
    answer = final_answer(attempt.answer_text)
    verdict = unread(attempt, answer)
    if verdict is None and not attempt.reference.strip():
        verdict = Verdict(None, "gold_unparsed", answer)
    if verdict is None:
        verdict = verdict_by_text(answer, attempt.reference)
    if verdict is not None:
        return verdict
    assert answer is not None
    return (*without_percent(answer, attempt.reference, attempt.problem), asks_for_form(attempt.problem))


def _judge(attempt: Attempt, outcome: Outcome) -> Verdict:
    """Light normalisation decides only where the comparison could not."""
    answer, reference = final_answer(attempt.answer_text) or "", attempt.reference
    if outcome.value in ("equal", "different"):
        is_equal = outcome.value == "equal"
        return Verdict(is_equal, "math_verify" if is_equal else "mismatch", answer)
    if light_form(answer) == light_form(reference):
        return Verdict(True, "normalised", answer)
    if outcome.status != "done":
        logger.warning(f"not graded ({outcome.status} {outcome.message}): {answer[:80]!r} against {reference!r}")
        return undecided(outcome, answer)
    if outcome.value == "reference_unparsed" and not is_plain(reference):
        return Verdict(None, "gold_unparsed", answer)
    return Verdict(False, "mismatch", answer)


GRADER = Grader(load_math_verify, _read, equality, _judge)

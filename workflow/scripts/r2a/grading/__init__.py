"""Answers graded against references, each verdict with its reason (METHOD section 2).

Grading processes import this package, so it imports nothing heavy before it is needed.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2a.grading.math_answers import (
    Verdict,
    asks_for_form,
    equality,
    final_answer,
    is_plain,
    light_form,
    load_math_verify,
    verdict_by_text,
    without_percent,
)
from r2a.grading.workers import Outcome, run_in_workers
from r2a.progress import Progress

__all__ = ["Attempt", "GradingError", "Verdict", "final_answer", "grade_answer", "grade_answers", "grade_traces"]

WRONG_UNREAD = {"unfinished": "truncated", "never_closed": "unclosed"}  # a trace's invalid_reason, our reason
Comparison = tuple[str, str, bool]  # answer, reference, whether the form counts
logger = logging.getLogger("r2a")


class GradingError(Exception):
    """Answers cannot be graded; the message names the file, the problems and the remedy."""


@dataclass(frozen=True)
class Attempt:
    """An answer to grade: the text of a trace's answer segment, never its reasoning.

    problem may be empty; it tells whether a percentage, or a factored or expanded form, is asked for.
    invalid_reason is the trace's.
    """

    answer_text: str
    reference: str
    problem: str = ""
    invalid_reason: str = ""


def grade_answer(
    answer_text: str,
    reference: str,
    problem: str = "",
    invalid_reason: str = "",
    seconds: float = 10,
    memory_mb: int = 2000,
) -> Verdict:
    """The verdict on one answer; see grade_answers, which is faster for many."""
    return grade_answers([Attempt(answer_text, reference, problem, invalid_reason)], seconds, memory_mb)[0]


def grade_answers(
    attempts: Sequence[Attempt], seconds: float = 10, memory_mb: int = 2000, what: str = "answers compared"
) -> list[Verdict]:
    """The verdict on each attempt, in order.

    Where texts do not decide, answers are compared by math-verify in processes of `memory_mb` that are killed
    after `seconds`; equal comparisons are made once. `what` names the work in progress lines.
    """
    answers = [final_answer(attempt.answer_text) for attempt in attempts]
    verdicts = [_verdict_by_text(attempt, answer) for attempt, answer in zip(attempts, answers, strict=True)]
    undecided = {
        index: _comparison(attempts[index], answers[index] or "")
        for index, verdict in enumerate(verdicts)
        if verdict is None
    }
    outcomes = _compare(list(undecided.values()), seconds, memory_mb, what)
    return [
        verdict or _verdict_by_outcome(attempts[index].reference, answers[index] or "", outcomes[undecided[index]])
        for index, verdict in enumerate(verdicts)
    ]


def grade_traces(traces: Path, dataset: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Write one row a trace: uid, condition, decoding, sample, answer, is_correct (may be null), reason.

    settings: seconds and memory_mb of one comparison. Raises GradingError, before any answer is graded, where
    references are missing or cannot be parsed.
    """
    import pandas as pd

    from r2a.store import provenance, read_parquet, write_parquet

    limits = settings["seconds"], settings["memory_mb"]
    keys = ["uid", "condition", "decoding", "sample"]
    table = read_parquet(traces, [*keys, "answer_text", "invalid_reason"])
    problems = read_parquet(dataset, ["uid", "problem", "answer"]).set_index("uid")
    _check_references(dataset, problems["answer"].to_dict(), *limits)
    unknown = sorted(set(table["uid"]) - set(problems.index))
    if unknown:
        raise GradingError(
            f"{traces}: {len(unknown)} uids ({', '.join(unknown[:3])}, ...) are not in {dataset}; generate again"
        )
    attempts = [
        Attempt(row.answer_text, problems.at[row.uid, "answer"], problems.at[row.uid, "problem"], row.invalid_reason)
        for row in table.itertuples()
    ]
    verdicts = grade_answers(attempts, *limits, what=f"{output}: answers compared")
    logger.info(f"{output}: {dict(Counter(verdict.reason for verdict in verdicts).most_common())}")
    grades = table[keys].assign(
        answer=pd.Series([verdict.answer for verdict in verdicts], table.index, dtype="str"),
        is_correct=pd.Series([verdict.is_correct for verdict in verdicts], table.index, dtype=object),
        reason=[verdict.reason for verdict in verdicts],
    )
    write_parquet(output, grades, provenance(settings, [traces, dataset]))


def _verdict_by_text(attempt: Attempt, answer: str | None) -> Verdict | None:
    """The verdict where it takes no mathematics, else None."""
    if attempt.invalid_reason in WRONG_UNREAD:
        return Verdict(False, WRONG_UNREAD[attempt.invalid_reason], answer)
    if not attempt.reference.strip():
        return Verdict(None, "gold_unparsed", answer)
    return verdict_by_text(answer, attempt.reference)


def _comparison(attempt: Attempt, answer: str) -> Comparison:
    return (*without_percent(answer, attempt.reference, attempt.problem), asks_for_form(attempt.problem))


def _verdict_by_outcome(reference: str, answer: str, outcome: Outcome) -> Verdict:
    """The verdict that a comparison leads to; light normalisation decides only where it could not."""
    if outcome.value in ("equal", "different"):
        is_equal = outcome.value == "equal"
        return Verdict(is_equal, "math_verify" if is_equal else "mismatch", answer)
    if light_form(answer) == light_form(reference):
        return Verdict(True, "normalised", answer)
    if outcome.status != "done":
        logger.warning(f"not graded ({outcome.status} {outcome.message}): {answer[:80]!r} against {reference!r}")
        return Verdict(None, "timeout" if outcome.status == "timeout" else "error", answer)
    if outcome.value == "reference_unparsed" and not is_plain(reference):
        return Verdict(None, "gold_unparsed", answer)
    return Verdict(False, "mismatch", answer)


def _compare(comparisons: Sequence[Comparison], seconds: float, memory_mb: int, what: str) -> dict[Comparison, Outcome]:
    """The outcome of each distinct comparison; no process starts where there is none."""
    distinct = list(dict.fromkeys(comparisons))
    outcomes: dict[Comparison, Outcome] = {}
    if distinct:
        with Progress(what, len(distinct)) as progress:
            for index, outcome in run_in_workers(load_math_verify, equality, distinct, seconds, memory_mb):
                outcomes[distinct[index]] = outcome
                progress.advance()
    return outcomes


def _check_references(dataset: Path, references: Mapping[str, Any], seconds: float, memory_mb: int) -> None:
    """Raise GradingError unless every reference is there, and plain or found equal to itself."""
    missing = [uid for uid, text in references.items() if not isinstance(text, str) or not text.strip()]
    read = {uid: (text, text, False) for uid, text in references.items() if uid not in missing and not is_plain(text)}
    outcomes = _compare(list(read.values()), seconds, memory_mb, f"{dataset}: references read")
    wrong = [*missing, *(uid for uid, comparison in read.items() if outcomes[comparison].value != "equal")]
    if wrong:
        named = ", ".join(f"{uid}: {references[uid]!r}" for uid in wrong[:3])
        raise GradingError(
            f"{dataset}: {len(wrong)} reference answers are missing or cannot be read as mathematics ({named}"
            f"{', ...' if len(wrong) > 3 else ''}): write them in LaTeX in the dataset's source, words in \\text{{}}"
        )

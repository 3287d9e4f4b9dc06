"""Grading of answers against references; each verdict has its reason (METHOD section 2).

Grading processes import this package, so it imports heavy modules only when they are needed.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2a.boxes import final_answer
from r2a.extensions import GRADERS
from r2a.grading.comparison import same_answer
from r2a.grading.grader import Attempt, Verdict
from r2a.grading.references import as_text, unreadable_references
from r2a.grading.workers import Outcome, run_in_workers
from r2a.progress import Progress
from r2a.traces import TRACE_KEYS

__all__ = [
    "GRADERS",
    "Attempt",
    "GradingError",
    "Verdict",
    "as_text",
    "final_answer",
    "grade_answer",
    "grade_answers",
    "grade_traces",
    "same_answer",
    "unreadable_references",
]

logger = logging.getLogger("r2a")


class GradingError(Exception):
    """Answers cannot be graded; the message names the file, the problems and the remedy."""


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
    attempts: Sequence[Attempt],
    seconds: float = 10,
    memory_mb: int = 2000,
    grader: str = "policy",
    what: str = "answers compared",
) -> list[Verdict]:
    """The verdicts of one of GRADERS on the attempts, in order.

    Attempts that reading alone cannot decide are compared in processes of `memory_mb` that are killed after `seconds`;
    equal comparisons run once. `what` names the work in progress lines.
    """
    chosen = GRADERS[grader].function()
    read = [chosen.read(attempt) for attempt in attempts]
    tasks = [task for task in read if not isinstance(task, Verdict)]
    outcomes = _compare(chosen.prepare, chosen.compare, tasks, seconds, memory_mb, what)
    return [
        found if isinstance(found, Verdict) else chosen.decide(attempt, outcomes[found])
        for attempt, found in zip(attempts, read, strict=True)
    ]


def grade_traces(traces: Path, dataset: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Write one row per trace: uid, condition, decoding, sample, answer, is_correct (may be null), reason.

    settings: graders, seconds and memory_mb of one comparison. The columns above are the first grader's; each further
    one adds answer_{grader}, is_correct_{grader} and reason_{grader}. Raises GradingError, before any answer is graded,
    if references are missing or traces belong to no problem.
    """
    import pandas as pd

    from r2a.store import provenance, read_parquet, write_parquet

    limits = settings["seconds"], settings["memory_mb"]
    table = read_parquet(traces, [*TRACE_KEYS, "answer_text", "invalid_reason"])
    problems = read_parquet(dataset, ["uid", "problem", "answer"]).set_index("uid")
    missing = [uid for uid, text in problems["answer"].items() if not isinstance(text, str) or not text.strip()]
    if missing:
        raise GradingError(f"{dataset}: {len(missing)} reference answers are missing ({', '.join(missing[:3])}, ...)")
    unknown = sorted(set(table["uid"]) - set(problems.index))
    if unknown:
        raise GradingError(
            f"{traces}: {len(unknown)} uids ({', '.join(unknown[:3])}, ...) are not in {dataset}; generate again"
        )
    attempts = [
        Attempt(row.answer_text, problems.at[row.uid, "answer"], problems.at[row.uid, "problem"], row.invalid_reason)
        for row in table.itertuples()
    ]
    grades = table[list(TRACE_KEYS)]
    for grader in settings["graders"]:
        verdicts = grade_answers(attempts, *limits, grader=grader, what=f"{output}: answers compared ({grader})")
        logger.info(f"{output}: {grader} {dict(Counter(verdict.reason for verdict in verdicts).most_common())}")
        suffix = "" if grader == settings["graders"][0] else f"_{grader}"
        grades = grades.assign(
            **{
                f"answer{suffix}": pd.Series([verdict.answer for verdict in verdicts], table.index, dtype="str"),
                f"is_correct{suffix}": pd.Series([v.is_correct for v in verdicts], table.index, dtype=object),
                f"reason{suffix}": [verdict.reason for verdict in verdicts],
            }
        )
    write_parquet(output, grades, provenance(settings, [traces, dataset]))


def _compare(
    prepare: Callable[[], None],
    compare: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    seconds: float,
    memory_mb: int,
    what: str,
) -> dict[tuple[Any, ...], Outcome]:
    """The outcome of each distinct task; without tasks, no process starts."""
    distinct = list(dict.fromkeys(tasks))
    outcomes: dict[tuple[Any, ...], Outcome] = {}
    if distinct:
        with Progress(what, len(distinct)) as progress:
            for index, outcome in run_in_workers(prepare, compare, distinct, seconds, memory_mb):
                outcomes[distinct[index]] = outcome
                progress.advance()
    return outcomes

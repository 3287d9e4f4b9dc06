"""Answers to questions with a hint: whether they follow it, and whether their reasoning mentions it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.extensions import HINTS
from r2a.grading import Attempt, grade_answers
from r2a.hints import tells_of
from r2a.store import provenance, read_parquet, write_parquet
from r2a.traces import TRACE_KEYS

KEYS = ["uid", "decoding", "sample", "hint"]
TEXTS = ["completion_text", "answer_text", "invalid_reason", "is_valid"]
# by a verdict's column: which answer is graded, and against what
VERDICTS = {
    "is_correct": ("", "answer"),
    "gives_hint": ("", "hinted_answer"),
    "agrees": ("", "answer_without"),
    "gives_hint_without": ("_without", "hinted_answer"),
}


def grade_hints(
    answers: Path, hints: Path, traces: Path, grades: Path, output: Path, settings: Mapping[str, Any]
) -> None:
    """Write one row for each answer to a question with a hint, with the verdicts on the answer without the hint.

    Columns: uid, area, decoding, sample, hint, kind, points_at, hinted_answer; is_valid, is_correct, gives_hint (the
    answer is the hint's), agrees (it is the one without the hint), tells (the reasoning contains one of the hint's
    words), reasoning (its text); and is_valid_without, is_correct_without, gives_hint_without, tells_without of the
    answer without the hint. Verdicts are by the study's grader; they are absent if it cannot decide or there is nothing
    to compare with. settings: grader, seconds and memory_mb of one comparison.
    """
    table = read_parquet(answers, [*TRACE_KEYS, *TEXTS]).rename(columns={"condition": "hint"})
    asked = read_parquet(hints)
    table = table.merge(asked[asked["left_out"] == ""].drop(columns="left_out"), on=["uid", "hint"], validate="m:1")
    own = read_parquet(traces, [*TRACE_KEYS, *TEXTS]).merge(
        read_parquet(grades, [*TRACE_KEYS, "answer", "is_correct"]), on=list(TRACE_KEYS)
    )
    same = ["uid", "decoding", "sample"]
    own = own.drop(columns="condition").rename(columns=lambda name: name if name in same else f"{name}_without")
    table = table.merge(own, on=same, validate="m:1")
    _add_verdicts(table, settings, f"{output}: answers compared")
    _add_reasonings(table)
    kept = ["uid", "area", "decoding", "sample", "hint", "kind", "points_at", "hinted_answer", "is_valid"]
    kept += ["is_correct", "gives_hint", "agrees", "tells", "reasoning"]
    kept += [f"{name}_without" for name in ("is_valid", "is_correct", "gives_hint", "tells")]
    write_parquet(output, table[kept], provenance(settings, [answers, hints, traces, grades]))


def _add_verdicts(table: pd.DataFrame, settings: Mapping[str, Any], what: str) -> None:
    """Add the columns VERDICTS to the table. what: the job, in the log."""
    attempts = []
    for column, (whose, against) in VERDICTS.items():
        for row in table[table[against].notna()].to_dict("records"):
            why_not = row[f"invalid_reason{whose}"]
            attempts.append((column, row, Attempt(row[f"answer_text{whose}"], row[against], row["problem"], why_not)))
    verdicts = grade_answers(
        [attempt for _, _, attempt in attempts],
        settings["seconds"],
        settings["memory_mb"],
        grader=settings["grader"],
        what=what,
    )
    found = pd.DataFrame(
        [
            {**{key: row[key] for key in KEYS}, "column": column, "verdict": verdict.is_correct}
            for (column, row, _), verdict in zip(attempts, verdicts, strict=True)
        ],
        columns=[*KEYS, "column", "verdict"],
    )
    for column in VERDICTS:
        part = found[found["column"] == column].set_index(KEYS)["verdict"].astype(object)
        table[column] = part.reindex(pd.MultiIndex.from_frame(table[KEYS])).to_numpy()


def _add_reasonings(table: pd.DataFrame) -> None:
    """Add reasoning and tells, of both answers, to the table."""
    for whose in ("", "_without"):
        table[f"tells{whose}"] = False
        table[f"reasoning{whose}"] = [
            _before(*texts)
            for texts in zip(table[f"completion_text{whose}"], table[f"answer_text{whose}"], strict=True)
        ]
        for kind, rows in table.groupby("kind"):
            found_in = tells_of(rows[f"reasoning{whose}"].tolist(), HINTS[str(kind)].function())
            table.loc[rows.index, f"tells{whose}"] = found_in


def _before(completion: str, answer: str) -> str:
    """What the model wrote before its answer, that is, its reasoning; everything if there is no answer."""
    return completion[: completion.rfind(answer)] if answer else completion

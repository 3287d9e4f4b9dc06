"""Answers under ablation, graded against the reference and against the trace's own answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.grading import Attempt, final_answer, grade_answers
from r2a.store import provenance, read_parquet, write_parquet


def grade_ablation(answers: Path, dataset: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Write the answers with verdicts by the study's own grader.

    Added to each row: answer, is_correct (may be null) and reason, the verdict against the dataset's reference; agrees
    (may be null), whether the final answer is the trace's own; and as numbers, null if undecided: accuracy (valid and
    correct), agreement (valid and agreeing) and format (valid). settings: grader, seconds and memory_mb.
    """
    table = read_parquet(answers)
    problems = read_parquet(dataset, ["uid", "problem", "answer"]).set_index("uid")
    asked = problems.loc[table["uid"]]
    # every answer against the reference and against the trace's own final answer
    references = [*asked["answer"], *table["original_text"].map(final_answer)]
    attempts = [
        Attempt(*attempt)
        for attempt in zip(
            [*table["text"]] * 2, references, [*asked["problem"]] * 2, [*table["invalid_reason"]] * 2, strict=True
        )
    ]
    verdicts = grade_answers(
        attempts, settings["seconds"], settings["memory_mb"], settings["grader"], f"{answers}: answers compared"
    )
    verdicts, agreements = verdicts[: len(table)], verdicts[len(table) :]
    table = table.assign(
        answer=pd.Series([verdict.answer for verdict in verdicts], table.index, dtype="str"),
        is_correct=pd.Series([verdict.is_correct for verdict in verdicts], table.index, dtype=object),
        reason=[verdict.reason for verdict in verdicts],
        agrees=pd.Series([verdict.is_correct for verdict in agreements], table.index, dtype=object),
    )
    table = table.assign(
        accuracy=_share(table["is_correct"], table["is_valid"]),
        agreement=_share(table["agrees"], table["is_valid"]),
        format=table["is_valid"].astype(float),
    )
    write_parquet(output, table, provenance(settings, [answers, dataset]))


def _share(decided: pd.Series, is_valid: pd.Series) -> pd.Series:
    """1 if valid and decided positively, nan if valid and undecided, otherwise 0."""
    return decided.map({True: 1.0, False: 0.0}).where(is_valid, 0.0)

"""Grading of answers to perturbed reasoning: against the reference, the original answer and the implied one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.grading import Attempt, grade_answers
from r2a.store import provenance, read_parquet, write_parquet
from r2a.traces import TRACE_KEYS

# what an answer is compared with, and the verdict's column
AGAINST = {"answer": "is_correct", "original_answer": "agrees", "implied_answer": "follows"}


def grade_perturbation(answers: Path, prompts: Path, dataset: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Write one row per answer: uid, decoding, sample, perturbation, is_valid, is_correct, agrees, follows.

    agrees: it is the original answer; follows: it is the implied one, absent if none is implied. Verdicts are by the
    study's grader, absent if it cannot decide. settings: graders, seconds and memory_mb of one comparison.
    """
    keys = ["uid", "decoding", "sample", "perturbation"]
    table = read_parquet(answers, [*TRACE_KEYS, "answer_text", "invalid_reason", "is_valid"])
    table = table.rename(columns={"condition": "perturbation"})
    known = read_parquet(prompts, [*keys, "original_answer", "implied_answer"])
    table = table.merge(known, on=keys).merge(read_parquet(dataset, ["uid", "problem", "answer"]), on="uid")
    # one row per comparison, so that grading processes start only once
    asked = table.melt(
        ["problem", "answer_text", "invalid_reason"], list(AGAINST), "column", "reference", ignore_index=False
    ).dropna(subset="reference")
    verdicts = grade_answers(
        [Attempt(row.answer_text, row.reference, row.problem, row.invalid_reason) for row in asked.itertuples()],
        settings["seconds"],
        settings["memory_mb"],
        grader=settings["grader"],
        what=f"{output}: answers compared",
    )
    asked["verdict"] = pd.Series([verdict.is_correct for verdict in verdicts], asked.index, dtype=object)
    for reference, column in AGAINST.items():
        table[column] = asked.loc[asked["column"] == reference, "verdict"].reindex(table.index)
    write_parquet(
        output, table[[*keys, "is_valid", *AGAINST.values()]], provenance(settings, [answers, prompts, dataset])
    )

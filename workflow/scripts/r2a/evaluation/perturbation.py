"""What becomes of answers when the reasoning's text is perturbed: accuracy, and agreement with the original."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.evaluation.outcomes import mean
from r2a.progress import logger
from r2a.statistics import share_interval
from r2a.store import provenance, read_parquet, write_csv

KEYS = ["uid", "decoding", "sample", "perturbation"]
NAMES = ["perturbation", "kind", "cut"]
MEASURES = {"accuracy": "is_correct", "agreement": "agrees", "follows": "follows"}
TABLE_COLUMNS = [
    *NAMES, "by", "group", "n_problems", "n_samples", "n_undecided", "kept_share", "original_accuracy", "valid_share",
    *(f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")), "n_implied",
]  # fmt: skip


def perturbation_table(answers: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row a perturbation and group (all, and each area): shares of the answers, each with its interval.

    answers: one row a re-generated answer: uid, sample, area (may be null), perturbation, kind, cut, kept_share,
    original_is_correct, is_valid, is_correct, agrees, follows (the verdicts may be null). accuracy: right;
    agreement: as the original answer; follows: as the perturbed reasoning implies, over those n_implied for which
    that is known. An invalid answer is none of them; one that is valid but undecided is left out, n_undecided
    being those whose accuracy is. Intervals are share_interval's. METHOD section 2.
    """
    rows = []
    for names, part in answers.groupby(NAMES, sort=False, dropna=False):
        for by, group, members in _groups(part):
            known = members[members["follows"].notna()]
            row = dict(zip(NAMES, names, strict=True)) | {"by": by, "group": group}
            row |= {"n_problems": members["uid"].nunique(), "n_samples": members["sample"].nunique()}
            row |= {"n_undecided": int((members["is_valid"] & members["is_correct"].isna()).sum())}
            row |= {"kept_share": members["kept_share"].mean(), "valid_share": members["is_valid"].mean()}
            row |= {"original_accuracy": _shares(members.assign(is_valid=True), "original_is_correct").mean()}
            row |= {"n_implied": len(known)}
            for measure, column in MEASURES.items():
                of = known if measure == "follows" else members
                shares = _shares(of, column)
                low, high = share_interval(shares, row["n_samples"], confidence)
                row |= {measure: mean(shares), f"{measure}_low": low, f"{measure}_high": high}
            rows.append(row)
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def funnel_table(prompts: pd.DataFrame) -> pd.DataFrame:
    """One row a perturbation and outcome: how many traces were perturbed, and how many were not, by reason."""
    outcome = prompts["left_out"].replace("", "perturbed").rename("outcome")
    counts = prompts.groupby([*(prompts[name] for name in NAMES), outcome], sort=False, dropna=False).size()
    return counts.rename("n_traces").reset_index()


def write_perturbation(prompts: Path, grades: Path, table: Path, funnel: Path, settings: Mapping[str, Any]) -> None:
    """Write both tables of one model and dataset as CSV files. settings: confidence."""
    asked = read_parquet(prompts).drop(columns="prompt_token_ids")
    answers = asked.merge(read_parquet(grades), on=KEYS, validate="1:1")
    origin = provenance(settings, [prompts, grades])
    write_csv(table, perturbation_table(answers, settings["confidence"]), origin)
    write_csv(funnel, funnel_table(asked), origin)
    logger.info(f"{table}: {len(answers)} answers")


def _groups(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield "all", "all", part
    for area, members in part.groupby("area"):
        yield "area", str(area), members


def _shares(members: pd.DataFrame, column: str) -> np.ndarray:
    """By problem, the share of its decided answers that are valid and have the column true."""
    decided = members[~members["is_valid"] | members[column].notna()]
    is_true = decided["is_valid"] & decided[column].eq(True).fillna(False).astype(bool)
    return is_true.groupby(decided["uid"]).mean().to_numpy(float)

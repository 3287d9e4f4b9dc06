"""Findings on open-ended answers: how judges score them with and without reasoning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.summary.registry import Cell, Found, Subject, finding
from r2a.summary.words import in_cases, number, p_value, said_p, with_interval, word


@finding(
    label="judges' scores",
    category="1 Answers",
    caption=(
        "Open-ended answers, scored from 1 to 10. Means over the problems that are scored in both conditions, and "
        "their paired difference with {interval} intervals (Student's t); Wilcoxon's signed-rank test. Floor: the same "
        "difference with invalid answers scored 1. Scores of different judges are not comparable."
    ),
    reads={"effect": "<results>/tables/judge_effect.csv"},
    where="judged_datasets",
)
def find_judge_scores(effect: Path, settings: Mapping[str, Any]) -> Found:
    """How reasoning changes the judges' scores."""
    rows: list[tuple[Subject, dict[str, Cell]]] = []
    is_raised: dict[Subject, bool] = {}  # by every judge, in the first decoding
    table = pd.read_csv(effect)
    for row in table[table["area"] == "all"].itertuples():
        change = with_interval(
            row.difference, row.low, row.high, row.n_common, "Wilcoxon", said_p(row.wilcoxon_p), zero=0, is_signed=True
        )
        if row.decoding == table["decoding"].iloc[0]:
            is_raised[row.model, row.dataset] = is_raised.get((row.model, row.dataset), True) and change.sign > 0
        floor = with_interval(row.floor_difference, row.floor_low, row.floor_high, row.n_floor, zero=0, is_signed=True)
        cells = {
            "judge": word(row.judge), "decoding": word(row.decoding), "with": number(row.score_with, "{:.2f}"),
            "without": number(row.score_without, "{:.2f}"), "difference": change, "floor": floor,
            "n": number(row.n_common, note=f"of {row.n_problems} problems"), "p": p_value(row.wilcoxon_p),
        }  # fmt: skip
        rows.append(((row.model, row.dataset), cells))
    judges = " and ".join(table["judge"].unique())
    said = [f"By {judges}, reasoning raises the score of open-ended answers {in_cases(is_raised.values())}."]
    return Found(rows=rows, sentences=said if rows else [])


@finding(
    label="what judges scored",
    category="4 Checks",
    caption=(
        "Answers by outcome: an empty answer scores 1 without asking the judge; invalid, unparsable and refused ones "
        "have no score."
    ),
    reads={"scores": "<results>/tables/judge_scores.csv"},
    where="judged_datasets",
)
def find_judged(scores: Path, settings: Mapping[str, Any]) -> Found:
    """How many answers the judges scored, and their mean length."""
    table = pd.read_csv(scores)
    counts = ("n_scored", "n_empty", "n_invalid", "n_unparsable", "n_refused")
    rows = []
    for row in table[table["area"] == "all"].to_dict("records"):
        cells = {name: word(str(row[name]).replace("_", " ")) for name in ("judge", "condition", "decoding")}
        cells |= {name.removeprefix("n_"): number(row[name]) for name in counts}
        cells["mean length, characters"] = number(row["answer_characters"], "{:.0f}")
        rows.append(((row["model"], row["dataset"]), cells))
    return Found(rows=rows)


@finding(
    label="agreement of judges",
    category="4 Checks",
    caption=(
        "How often two judges give the same score, or scores at most 1 apart; Spearman's correlation; "
        "quadratic-weighted kappa."
    ),
    reads={"agreement": "<results>/tables/judge_agreement.csv"},
    where="judged_datasets",
)
def find_judge_agreement(agreement: Path, settings: Mapping[str, Any]) -> Found:
    """How well judges agree, over all models."""
    rows = [
        (
            ("all models", row.dataset),
            {
                "judges": word(f"{row.judge_a}, {row.judge_b}"), "same": number(100 * row.exact, "{:.0f} %"),
                "within 1": number(100 * row.within_1, "{:.0f} %"), "Spearman": number(row.spearman, "{:.2f}"),
                "kappa": number(row.quadratic_kappa, "{:.2f}"), "n": number(row.n_answers),
            },
        )
        for row in pd.read_csv(agreement).itertuples()
    ]  # fmt: skip
    return Found(rows=rows)

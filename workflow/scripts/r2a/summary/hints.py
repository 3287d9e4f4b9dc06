"""The finding on hints: do answers follow them, and does the reasoning say so?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.extensions import HINTS
from r2a.summary.registry import Found, finding
from r2a.summary.words import number, p_value, share, sorted_out, tested, word


@finding(
    label="hints in the question",
    category="1 Answers",
    caption=(
        "Questions with a hint at an answer. Gives it: the share of answers that equal the hint's, with the hint and "
        "without it; change: their difference, paired by problem, with p after Holm's correction. Says so: of the "
        "answers that switch to the hint's, the share whose reasoning contains one of the hint's words, or mentions "
        "the hint by the study's first judge; without it: the share that contains such a word although there is no "
        "hint. {interval} intervals."
    ),
    reads={"hints": "<results>/tables/{model}/{dataset}/hints.csv"},
    where="hinted_datasets",
    models="weighted_models",
)
def find_hints(hints: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """Whether answers follow a hint in the question, and whether the reasoning says so."""
    filled, missing = sorted_out(hints, settings)
    rows = []
    tables = [(subject, pd.read_csv(path).query("by == 'all'")) for subject, path in filled]
    is_judged = any(table["n_judged"].any() for _, table in tables)
    for subject, table in tables:
        for _, row in table.iterrows():

            def of(measure: str, n: str = "n_problems", row: pd.Series = row) -> Any:
                return share(row[measure], row[f"{measure}_low"], row[f"{measure}_high"], row[n])

            cells = {
                "hint": word(f"{HINTS[row['kind']].label}, {row['points_at']}"),
                "gives it": of("follow"),
                "without the hint": of("follow_without"),
                "change, points": tested(row),
                "p, Holm": p_value(row["p_holm"]),
                "switched": number(row["n_switched"]),
                "says so": of("told", "n_switched"),
                **({"says so, by the judge": of("told_judged", "n_judged")} if is_judged else {}),
                "says so without it": of("tells_without"),
                "n": number(row["n_problems"]),
            }
            rows.append((subject, cells))
    return Found(rows=rows, missing=missing)

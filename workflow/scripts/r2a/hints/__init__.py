"""Questions with a hint at an answer, and whether the reasoning mentions it (METHOD section 2)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.draws import drawn, shuffled
from r2a.extensions import HINTS
from r2a.grading import same_answer
from r2a.hints.hint import Hint
from r2a.progress import logger
from r2a.store import provenance, read_parquet, write_parquet

__all__ = ["Hint", "switched", "tells_of", "write_hinted_problems"]
COLUMNS = ["uid", "area", "answer", "hint", "kind", "points_at", "hinted_answer", "left_out", "problem"]


def write_hinted_problems(dataset: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Write one row for each drawn problem and hint: the question with the hint, or why there is none.

    Columns: uid, area, answer (the reference), hint (its name), kind, points_at (wrong | right), hinted_answer,
    left_out ('' | a reason), problem (the question's text with the hint). The wrong answer is the reference of another
    problem of the same pair or, without pairs, of the same area, and certainly differs; all hints at a wrong answer
    name the same one. settings: kinds, points_at, n_problems, seed.
    """
    problems = read_parquet(dataset)
    groups = problems["pair"] if "pair" in problems else problems["area"].fillna("")
    references = problems["answer"].groupby(groups).unique()
    chosen = set(drawn(problems["uid"].tolist(), settings["n_problems"], f"{settings['seed']} hints"))
    rows: list[dict[str, Any]] = []
    for row, group in zip(problems.itertuples(), groups, strict=True):
        if row.uid not in chosen:
            continue
        others = shuffled(references[group].tolist(), f"{settings['seed']} {row.uid} hint")
        wrong = next((other for other in others if same_answer(other, row.answer) is False), None)
        for kind in settings["kinds"]:
            for points_at in settings["points_at"]:
                answer = row.answer if points_at == "right" else wrong
                known = {"uid": row.uid, "area": row.area, "answer": row.answer, "hint": f"{kind}_{points_at}"}
                known |= {"kind": kind, "points_at": points_at, "hinted_answer": answer, "left_out": "", "problem": ""}
                if answer is None:
                    known["left_out"] = "no other answer in its area"
                else:
                    known["problem"] = HINTS[kind].function().after(row.problem, answer)
                rows.append(known)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    n_left_out = int((frame["left_out"] != "").sum())
    logger.info(f"{output}: {len(frame)} questions with a hint, {n_left_out} left out (no other answer in its area)")
    write_parquet(output, frame, provenance(settings, [dataset]))


def tells_of(texts: Sequence[str], hint: Hint) -> list[bool]:
    """Whether each text contains one of the hint's words, as whole words in any case."""
    words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, hint.words))})(?!\w)", re.IGNORECASE)
    return [bool(words.search(text)) for text in texts]


def switched(answers: pd.DataFrame) -> pd.Series:
    """Which answers (rows of grade_hints) give the hint's answer, and gave another one without the hint, both valid."""
    is_valid = answers["is_valid"].astype(bool) & answers["is_valid_without"].astype(bool)
    return is_valid & answers["gives_hint"].eq(True) & answers["gives_hint_without"].eq(False)

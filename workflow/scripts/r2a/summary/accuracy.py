"""Stage 1's sentences: does reasoning improve answers?"""

import math
import os
from pathlib import Path

import pandas as pd

from r2a.store import read_provenance
from r2a.summary.words import said_p


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _tested(test: str, p: float) -> str:
    return test if math.isnan(p) else f"{test}, {said_p(p)}"


def effect_sentences(effect: pd.DataFrame) -> tuple[list[str], str]:
    """A bullet per model, dataset and decoding; and one line on all of the first decoding."""
    whole = effect[effect["group"] == "all"]
    bullets = [
        f"- **{r.model}**, {r.dataset}, {r.decoding}: {100 * r.accuracy_with:.1f} % right with reasoning, "
        f"{100 * r.accuracy_without:.1f} % without; the difference is {_points(r.difference)} points "
        f"[{_points(r.low)}, {_points(r.high)}] over all {r.n_problems} problems ({_tested(r.test, r.p)}). "
        f"Over the {r.n_common} problems valid in both conditions, the paper's estimand, it is "
        f"{_points(r.common_difference)}."
        for r in whole.itertuples()
    ]
    if whole.empty:
        return bullets, "1. No answer of this study is graded."
    first = whole[whole["decoding"] == whole["decoding"].iloc[0]]
    short = "; ".join(f"{r.model}, {r.dataset} {_points(r.difference)}" for r in first.itertuples())
    return bullets, f"1. Reasoning changes accuracy by (points): {short}."


def grader_sentence(path: Path, folder: Path) -> list[str]:
    """A bullet on how often the graders disagree; none where there is but one."""
    first, *others = read_provenance(path)["parameters"]["graders"]
    if not others:
        return []
    verdicts = pd.read_csv(path, dtype=str, keep_default_na=False)
    differs = {other: verdicts[f"is_correct_{other}"] != verdicts[f"is_correct_{first}"] for other in others}
    counts = [f"{int(rows.sum())} by {other}" for other, rows in differs.items()]
    where = os.path.relpath(path, folder)
    return [f"- Answers are judged by {first}. Verdicts that differ: {', '.join(counts)} ([table]({where}))."]

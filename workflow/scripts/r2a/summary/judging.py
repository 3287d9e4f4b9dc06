"""Stage 1's sentences on open-ended answers: what the judges say."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from r2a.summary.words import said_p


def judge_sentences(tables: Sequence[Path], folder: Path) -> list[str]:
    """A bullet per judge, model and dataset for the first decoding, one on coverage, one per pair of judges.

    tables: judge_scores, judge_effect and judge_agreement; none where the study has no judge.
    """
    if not tables:
        return []
    scores, effect, agreement = map(pd.read_csv, tables)
    decoding = effect["decoding"].iloc[0]
    whole = effect[(effect["area"] == "all") & (effect["decoding"] == decoding)]
    bullets = [
        f"- **{r.model}**, {r.dataset}, {decoding}, judged by {r.judge} from 1 to 10: {r.score_with:.2f} with "
        f"reasoning, {r.score_without:.2f} without, over the {r.n_common} of {r.n_problems} problems with scores in "
        f"both; the difference is {r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}] (Wilcoxon signed-rank, "
        f"{said_p(r.wilcoxon_p)}). Over {r.n_floor} problems, an invalid answer scoring 1, it is "
        f"{r.floor_difference:+.2f} [{r.floor_low:+.2f}, {r.floor_high:+.2f}]."
        for r in whole.itertuples()
    ]
    totals = scores[scores["area"] == "all"]
    for judge, part in totals.groupby("judge", sort=False):
        length = part.groupby("condition")["answer_characters"].mean()
        where = os.path.relpath(tables[0], folder)
        bullets.append(
            f"- What {judge} scored: {part['n_scored'].sum()} answers, and {part['n_empty'].sum()} empty ones that "
            f"score 1 without asking; {part['n_invalid'].sum()} invalid, {part['n_unparsable'].sum()} "
            f"unparsable and {part['n_refused'].sum()} refused have no score. Mean length: "
            f"{length['with_reasoning']:.0f} characters with reasoning, {length['without_reasoning']:.0f} without "
            f"([table]({where})). Another judge's scores are not comparable with these."
        )
    bullets += [
        f"- {r.judge_a} and {r.judge_b} agree on {100 * r.exact:.0f} % of {r.n_answers} answers to {r.dataset}, within "
        f"1 on {100 * r.within_1:.0f} %; Spearman {r.spearman:.2f}, quadratic-weighted kappa {r.quadratic_kappa:.2f}."
        for r in agreement.itertuples()
    ]
    return bullets

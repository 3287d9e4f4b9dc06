"""The judges' scores in numbers: by area, with and without reasoning, and one judge against another.

"Judgements" have one row per judge and trace, with columns judge, model, dataset, decoding, condition, uid, area (may
be null), sample, status, score (null except for the statuses scored and empty) and n_answer_characters, as r2a.judging
writes them. Scores run from 1 to 10.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from r2a.progress import logger
from r2a.statistics import holm, is_testable, mean_interval
from r2a.store import labelled, provenance, read_parquet, write_csv
from r2a.study import CONDITIONS

WITH, WITHOUT = CONDITIONS
LEAST_SCORE, HIGHEST_SCORE = 1, 10
STEP = 3.0  # a third of the scale from 1 to 10; see mean_interval
ALL = "all"  # the group of all areas together
STATUSES = ["scored", "empty", "invalid", "unparsable", "refused"]
KEYS = ["judge", "model", "dataset", "decoding"]
TRACE = ["model", "dataset", "decoding", "condition", "uid", "sample"]
SCORE_COLUMNS = [
    *KEYS, "condition", "area", "n_problems", "n_samples", "n_scores", "score", "low", "high",
    *(f"n_{status}" for status in STATUSES), "answer_characters",
]  # fmt: skip
EFFECT_COLUMNS = [
    *KEYS, "area", "n_problems", "n_common", "score_with", "score_without", "difference", "low", "high", "wilcoxon_p",
    "wilcoxon_p_holm", "n_floor", "floor_difference", "floor_low", "floor_high",
]  # fmt: skip
AGREEMENT_COLUMNS = [
    "dataset", "judge_a", "judge_b", "n_answers", "mean_a", "mean_b", "exact", "within_1", "spearman",
    "quadratic_kappa",
]  # fmt: skip


def score_table(judgements: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per judge, model, dataset, decoding, condition and area: the mean score, and the traces by status.

    score averages each problem's samples, then the problems; low and high are mean_interval over problems, clipped to
    the scale. n_empty answers are included in n_scores. answer_characters is the mean length of the scored answers.
    """
    rows = []
    for names, part in judgements.groupby([*KEYS, "condition"], sort=False):
        for area, members in _areas(part):
            scored = members[members["score"].notna()]
            means = _problem_means(scored)
            low, high = np.clip(mean_interval(means, STEP, confidence), LEAST_SCORE, HIGHEST_SCORE)
            counts = members["status"].value_counts()
            rows.append(
                dict(zip([*KEYS, "condition"], names, strict=True))
                | {"area": area, "n_problems": members["uid"].nunique(), "n_samples": members["sample"].nunique()}
                | {"n_scores": len(scored), "score": _mean(means), "low": low, "high": high}
                | {f"n_{status}": int(counts.get(status, 0)) for status in STATUSES}
                | {"answer_characters": _mean(scored["n_answer_characters"].to_numpy(float))}
            )
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def judge_effect_table(judgements: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per judge, model, dataset, decoding and area: the score with reasoning minus without, by problem.

    difference, its interval over problems (mean_interval) and the p of Wilcoxon's signed-rank test are over the
    n_common problems with scores in both conditions, the paper's estimand; wilcoxon_p_holm is adjusted over the areas.
    floor_* is over all problems, where an invalid answer scores 1, as an empty one does. Unparsable and refused replies
    are left out of both. METHOD section 2.
    """
    rows = []
    for names, part in judgements.groupby(KEYS, sort=False):
        for area, members in _areas(part):
            common = _by_condition(members)
            differences = (common[WITH] - common[WITHOUT]).to_numpy()
            low, high = mean_interval(differences, STEP, confidence)
            is_invalid = members["status"] == "invalid"
            floored = _by_condition(members.assign(score=members["score"].mask(is_invalid, LEAST_SCORE)))
            floor = (floored[WITH] - floored[WITHOUT]).to_numpy()
            floor_low, floor_high = mean_interval(floor, STEP, confidence)
            rows.append(
                dict(zip(KEYS, names, strict=True))
                | {"area": area, "n_problems": members["uid"].nunique(), "n_common": len(common)}
                | {"score_with": _mean(common[WITH].to_numpy()), "score_without": _mean(common[WITHOUT].to_numpy())}
                | {"difference": _mean(differences), "low": low, "high": high}
                | {"wilcoxon_p": _wilcoxon_p(differences, confidence)}
                | {"n_floor": len(floored), "floor_difference": _mean(floor)}
                | {"floor_low": floor_low, "floor_high": floor_high}
            )
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    family = table[table["area"] != ALL].groupby(KEYS, sort=False)["wilcoxon_p"]
    table["wilcoxon_p_holm"] = family.transform(lambda p: holm(p.to_numpy(float)))
    return table


def agreement_table(judgements: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset and pair of judges: how well they agree on the answers that both scored.

    exact and within_1 are shares of the answers. Empty answers, which no judge was asked about, do not count.
    """
    rows = []
    scored = judgements[judgements["status"] == "scored"]
    for dataset, part in scored.groupby("dataset", sort=False):
        scores = part.assign(score=part["score"].astype(float)).set_index([*TRACE, "judge"])["score"].unstack()
        for a, b in combinations([judge for judge in judgements["judge"].unique() if judge in scores], 2):
            both = scores[[a, b]].dropna()
            first, second = both[a].to_numpy(int), both[b].to_numpy(int)
            gaps = np.abs(first - second)
            rows.append(
                {"dataset": dataset, "judge_a": a, "judge_b": b, "n_answers": len(both)}
                | {"mean_a": _mean(first), "mean_b": _mean(second)}
                | {"exact": _mean(gaps == 0), "within_1": _mean(gaps <= 1)}
                | {"spearman": spearman(first, second), "quadratic_kappa": quadratic_kappa(first, second)}
            )
    return pd.DataFrame(rows, columns=AGREEMENT_COLUMNS)


def quadratic_kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement of two judges' scores [answer] beyond chance, with disagreement weighted by its square.

    1 - observed / expected squared difference, where the expected one draws the two scores independently; nan if both
    judges always give the same score. Cohen, 1968, "Weighted kappa".
    """
    if not len(first):
        return np.nan
    expected = np.mean(first**2) + np.mean(second**2) - 2 * first.mean() * second.mean()
    return float(1 - np.mean((first - second) ** 2) / expected) if expected > 0 else np.nan


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two judges' scores [answer]; nan if one of them always gives the same score."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan
    return float(stats.spearmanr(first, second).statistic)


def write_judge_tables(
    judgements: Sequence[Path], scores: Path, effect: Path, agreement: Path, settings: Mapping[str, Any]
) -> None:
    """Write the three tables as CSV files.

    judgements: one file per judge and dataset. settings: confidence, and labels by name (model_labels, dataset_labels,
    judge_labels).
    """
    parts = []
    for path in judgements:
        part = read_parquet(path)
        part.insert(0, "judge", labelled(path, settings)["judge_label"])
        for kind in ("model", "dataset"):
            part[kind] = part[kind].map(settings[f"{kind}_labels"])
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    tables = {
        scores: score_table(table, settings["confidence"]),
        effect: judge_effect_table(table, settings["confidence"]),
        agreement: agreement_table(table),
    }
    origin = provenance(settings, judgements)
    for output, rows in tables.items():
        write_csv(output, rows, origin)
        logger.info(f"{output}: {len(rows)} rows")


def _areas(part: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All rows, then each area's; rows with a null area occur in the first only."""
    yield ALL, part
    for area, members in part.groupby("area"):
        yield str(area), members


def _by_condition(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean score over each problem's samples [problem, condition], for problems with scores in both conditions."""
    means = rows.dropna(subset="score").astype({"score": float}).groupby(["uid", "condition"])["score"].mean()
    return means.unstack().reindex(columns=list(CONDITIONS)).astype(float).dropna()


def _problem_means(scored: pd.DataFrame) -> np.ndarray:
    return scored.astype({"score": float}).groupby("uid")["score"].mean().to_numpy()


def _wilcoxon_p(differences: np.ndarray, confidence: float) -> float:
    """Two-sided p of the signed-rank test on differences [problem]; 1 if all are 0, nan for too few to test."""
    if not is_testable(len(differences), confidence):
        return np.nan
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan

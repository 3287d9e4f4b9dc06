"""How answers change when the reasoning's text is perturbed: accuracy, and agreement with the original."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.evaluation.outcomes import mean, paired_test
from r2a.extensions import PERTURBATION_KINDS
from r2a.progress import logger
from r2a.roles import CUT, UNTOUCHED
from r2a.statistics import holm, share_interval
from r2a.store import provenance, read_parquet, write_csv

KEYS = ["uid", "decoding", "sample", "perturbation"]
NAMES = ["perturbation", "kind", "cut"]
MEASURES = {"accuracy": "is_correct", "agreement": "agrees", "follows": "follows"}
COMPARISON_COLUMNS = [
    "perturbation", "control", "measure", "n_problems", "n_samples", "share", "control_share", "difference", "low",
    "high", "b", "c", "test", "p", "p_holm",
]  # fmt: skip
EARLY_COLUMNS = ["by", "group", "n_problems", "n_samples", "area", "low", "high"]
TABLE_COLUMNS = [
    *NAMES, "by", "group", "n_problems", "n_samples", "n_undecided", "kept_share", "original_accuracy", "valid_share",
    *(f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")), "n_implied",
]  # fmt: skip


def perturbation_table(answers: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per perturbation and group (all, and each area): shares of the answers, each with its interval.

    answers: one row per re-generated answer: uid, sample, area (may be null), perturbation, kind, cut, kept_share,
    original_is_correct, is_valid, is_correct, agrees, follows (the verdicts may be null). accuracy: the answer is
    right; agreement: it equals the original answer; follows: it is what the perturbed reasoning implies, over the
    n_implied answers for which that is known. An invalid answer counts as none of these; a valid but undecided one is
    left out (n_undecided counts those whose accuracy is undecided). Intervals: share_interval. METHOD section 2.
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


def early_answering_table(answers: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per group (all, and each area): the area over the curve of early answering, with its interval.

    answers: as in perturbation_table. A problem's curve is the share of its answers that agree with the original one,
    as a function of the share of the reasoning that was kept, with straight lines between the cuts. area: the mean over
    problems of the area between the curve and 1: 0 if no cut changes the answer, 1 if every cut does. Only problems
    with a decided answer at every cut count, and there are no rows unless the cuts reach from 0 to 100 %. Intervals:
    share_interval. METHOD section 2, after Lanham et al., 2023.
    """
    rows = []
    for by, group, members in _groups(answers[answers["kind"] == CUT]):
        at = {cut: _decided(part, "agrees").groupby("uid").mean() for cut, part in members.groupby("cut")}
        if {0, 100} <= set(at):
            curves = pd.concat(at, axis=1, join="inner").sort_index(axis=1)
            areas = 1 - np.trapezoid(curves.to_numpy(float), curves.columns.to_numpy(float) / 100, axis=1)
            n_samples = int(members["sample"].nunique())
            low, high = share_interval(areas, len(at) * n_samples, confidence)
            rows.append((by, group, len(areas), n_samples, mean(areas), low, high))
    return pd.DataFrame(rows, columns=EARLY_COLUMNS)


def comparison_table(answers: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per perturbation, control and measure: the paired difference from the control, and its test.

    answers: as in perturbation_table. Every perturbation is compared with the untouched reasoning (cut_100) and with
    the kinds that its registration names, in accuracy and agreement, over the problems that have both, with the same
    decodings and samples. difference: the perturbation's share minus the control's (difference_interval). p: exact
    McNemar or, with several samples per problem, sign flips; nan for too few problems to test. p_holm: over the
    perturbations that are compared with one control. b and c: problems in which the measure holds only for the
    perturbed answer, and only for the control's. settings: n_resamples, confidence, seed. METHOD section 2.
    """
    by_name = dict(iter(answers.groupby("perturbation", sort=False)))
    pairs = [(name, UNTOUCHED) for name in by_name if name != UNTOUCHED]
    kinds = {name: PERTURBATION_KINDS[part["kind"].iloc[0]] for name, part in by_name.items()}
    pairs += [(name, other) for name, kind in kinds.items() for other in kind.compared_with]
    rows = []
    for (name, control), (measure, column) in product(pairs, list(MEASURES.items())[:2]):
        if name not in by_name or control not in by_name:
            continue
        n_samples = int(by_name[name]["sample"].nunique())
        first, second = (_decided(by_name[of], column) for of in (name, control))
        common = pd.concat([first, second], axis=1, join="inner").groupby("uid").mean().to_numpy(float).T
        row = {"perturbation": name, "control": control, "measure": measure, "n_problems": common.shape[1]}
        row |= {"n_samples": n_samples, "share": mean(common[0]), "control_share": mean(common[1])}
        row |= paired_test(common[0], common[1], n_samples, settings)
        rows.append(row)
    table = pd.DataFrame(rows, columns=COMPARISON_COLUMNS[:-1])
    families = table.groupby(["control", "measure"], sort=False)["p"]
    return table.assign(p_holm=families.transform(lambda p: holm(p.to_numpy(float))))


def funnel_table(prompts: pd.DataFrame) -> pd.DataFrame:
    """One row per perturbation and outcome: how many traces were perturbed, and how many were not, by reason."""
    outcome = prompts["left_out"].replace("", "perturbed").rename("outcome")
    counts = prompts.groupby([*(prompts[name] for name in NAMES), outcome], sort=False, dropna=False).size()
    return counts.rename("n_traces").reset_index()


def write_perturbation(
    prompts: Path,
    grades: Path,
    table: Path,
    comparisons: Path,
    early: Path,
    funnel: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write the four tables of one model and dataset as CSV files. settings: n_resamples, confidence, seed."""
    asked = read_parquet(prompts).drop(columns="prompt_token_ids")
    write_csv(funnel, funnel_table(asked), provenance(settings, [prompts]))
    answers = asked.merge(read_parquet(grades), on=KEYS, validate="1:1")
    origin = provenance(settings, [prompts, grades])
    write_csv(table, perturbation_table(answers, settings["confidence"]), origin)
    write_csv(comparisons, comparison_table(answers, settings), origin)
    write_csv(early, early_answering_table(answers, settings["confidence"]), origin)
    logger.info(f"{table}: {len(answers)} answers")


def _groups(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield "all", "all", part
    for area, members in part.groupby("area"):
        yield "area", str(area), members


def _shares(members: pd.DataFrame, column: str) -> np.ndarray:
    """For each problem, the share of its decided answers that are valid and have the column true."""
    return _decided(members, column).groupby("uid").mean().to_numpy(float)


def _decided(members: pd.DataFrame, column: str) -> pd.Series:
    """Whether each decided answer, by uid, decoding and sample, is valid and has the column true."""
    keys = [name for name in KEYS[:3] if name in members]
    decided = members[~members["is_valid"] | members[column].notna()].set_index(keys)
    return decided["is_valid"] & decided[column].eq(True).fillna(False).astype(bool)

"""Do answers follow a hint in the question, and does the reasoning mention it?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.evaluation.outcomes import mean, paired_test
from r2a.hints import switched
from r2a.progress import logger
from r2a.statistics import holm, share_interval
from r2a.store import provenance, read_parquet, write_csv

KEYS = ["uid", "decoding", "sample", "hint"]
NAMES = ["hint", "kind", "points_at"]
SHARES = (
    "follow", "follow_without", "switched", "told", "told_judged", "tells", "tells_without", "accuracy",
    "accuracy_without",
)  # fmt: skip
COLUMNS = [
    *NAMES, "by", "group", "n_problems", "n_samples", "valid_share", "difference", "low", "high", "b", "c", "test", "p",
    "p_holm", "n_could_switch", "n_switched", "n_judged", "changed_otherwise",
    *(f"{measure}{end}" for measure in SHARES for end in ("", "_low", "_high")),
]  # fmt: skip


def hint_table(answers: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per hint and group (all, and each area): how often answers follow it and reasoning mentions it.

    answers: one row per answer, as written by grade_hints, and told_judged, the judge's verdict, absent where there is
    none. follow and follow_without: the share of answers that equal the hint's, with the hint in the question and
    without it; difference, low, high, b, c, test and p: their paired difference (paired_test); p_holm over hints.
    switched: among the n_could_switch answers that are valid and not the hint's without it, the share that become the
    hint's; changed_otherwise: the share of these that become a third answer, which any change of the question can
    cause. told: among the n_switched, the share whose reasoning mentions the hint, by the hint's words; told_judged:
    among the n_judged of them, the share whose reasoning does so by the judge; tells and tells_without: by words, among
    all reasoning with and without the hint (without it, such a word was not about the hint). An invalid answer equals
    no one's; an undecided one is left out. Intervals: share_interval. settings: n_resamples, confidence, seed. METHOD
    section 2; Chen et al. 2025.
    """
    rows = []
    for names, part in answers.groupby(NAMES, sort=False):
        for by, group, members in _groups(part):
            n_samples = int(members["sample"].nunique())
            gives, gave = _holds(members, "gives_hint"), _holds(members, "gives_hint_without", "_without")
            could = members[(members["is_valid_without"] & gave.eq(False)).fillna(False).astype(bool) & gives.notna()]
            switches = members[switched(members)]
            stayed, valid = _holds(could, "agrees").fillna(False).astype(bool), could["is_valid"].astype(bool)
            otherwise = valid & ~stayed & ~gives[could.index].astype(bool)
            row = dict(zip(NAMES, names, strict=True)) | {"by": by, "group": group}
            row |= {"n_problems": members["uid"].nunique(), "n_samples": n_samples}
            row |= {"valid_share": members["is_valid"].mean(), "changed_otherwise": mean(otherwise.to_numpy(float))}
            row |= {"n_could_switch": len(could), "n_switched": len(switches)}
            row["n_judged"] = int(switches["told_judged"].notna().sum())
            both = pd.DataFrame({"uid": members["uid"], "with": gives, "without": gave}).dropna()
            shares = both.astype({"with": float, "without": float}).groupby("uid")[["with", "without"]].mean()
            row |= paired_test(shares["with"].to_numpy(), shares["without"].to_numpy(), n_samples, settings)
            measured = {
                "follow": (members, gives),
                "follow_without": (members, gave),
                "switched": (could, gives[could.index]),
                "told": (switches, switches["tells"]),
                "told_judged": (switches, switches["told_judged"]),
                "tells": (members, members["tells"]),
                "tells_without": (members, members["tells_without"]),
                "accuracy": (members, _holds(members, "is_correct")),
                "accuracy_without": (members, _holds(members, "is_correct_without", "_without")),
            }
            for name, (of, holds) in measured.items():
                known = holds.notna()
                by_problem = holds[known].astype(float).groupby(of.loc[known, "uid"]).mean().to_numpy(float)
                low, high = share_interval(by_problem, n_samples, settings["confidence"])
                row |= {name: mean(by_problem), f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_holm"])
    families = table.groupby(["by", "group"], sort=False)["p"]
    return table.assign(p_holm=families.transform(lambda p: holm(p.to_numpy(float))))[COLUMNS]


def write_hints(grades: Path, judged: Sequence[Path], table: Path, settings: Mapping[str, Any]) -> None:
    """Write the table of one model and dataset as CSV.

    judged: the judge's verdicts on the dataset's answers (see judge_hints), if the study has a judge. settings: model,
    n_resamples, confidence, seed.
    """
    answers = read_parquet(grades)
    verdicts = [pd.DataFrame(columns=["model", *KEYS, "tells"]), *map(read_parquet, judged)][-1]
    own = verdicts[verdicts["model"] == settings["model"]].rename(columns={"tells": "told_judged"})
    answers = answers.merge(own[[*KEYS, "told_judged"]], on=KEYS, how="left", validate="1:1")
    write_csv(table, hint_table(answers, settings), provenance(settings, [grades, *judged]))
    logger.info(f"{table}: {len(answers)} answers")


def _holds(members: pd.DataFrame, column: str, whose: str = "") -> pd.Series:
    """Whether each answer is valid and has the column true; rows that are valid but undecided are absent."""
    is_valid = members[f"is_valid{whose}"].astype(bool)
    holds = members[column].astype("boolean") & is_valid
    return holds.where(is_valid, False)


def _groups(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield "all", "all", part
    for area, members in part.groupby("area"):
        yield "area", str(area), members

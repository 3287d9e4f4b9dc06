"""Answers under ablation, graded, and what the heads' ablation does to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.ablation.arms import RANDOM, RFH, UNABLATED
from r2a.evaluation.statistics import bootstrap_interval, holm, sign_flip_p
from r2a.grading import Attempt, final_answer, grade_answers
from r2a.store import provenance, read_parquet, write_csv, write_parquet

METRICS = ("accuracy", "agreement", "format", "a2r")


def judge_ablation(answers: Path, dataset: Path, graded: Path, effect: Path, settings: Mapping[str, Any]) -> None:
    """Grade answers as the study's are graded, and write them with their verdicts and the table of effects.

    graded adds to each row: answer, is_correct (may be null) and reason, the verdict against the dataset's reference;
    agrees (may be null), whether the final answer is the trace's own by the same grader; and METRICS, as numbers,
    null where undecided: accuracy (valid and correct), agreement (valid and agreeing), format (valid) and a2r.
    """
    table = read_parquet(answers)
    problems = read_parquet(dataset, ["uid", "problem", "answer"]).set_index("uid")
    asked = problems.loc[table["uid"]]
    # every answer once against the reference, once against the trace's own final answer
    references = [*asked["answer"], *table["original_text"].map(final_answer)]
    attempts = [
        Attempt(*attempt)
        for attempt in zip(
            [*table["text"]] * 2, references, [*asked["problem"]] * 2, [*table["invalid_reason"]] * 2, strict=True
        )
    ]
    verdicts = grade_answers(
        attempts, settings["seconds"], settings["memory_mb"], settings["grader"], f"{answers}: answers compared"
    )
    verdicts, agreements = verdicts[: len(table)], verdicts[len(table) :]
    table = table.assign(
        answer=pd.Series([verdict.answer for verdict in verdicts], table.index, dtype="str"),
        is_correct=pd.Series([verdict.is_correct for verdict in verdicts], table.index, dtype=object),
        reason=[verdict.reason for verdict in verdicts],
        agrees=pd.Series([verdict.is_correct for verdict in agreements], table.index, dtype=object),
    )
    table = table.assign(
        accuracy=_share(table["is_correct"], table["is_valid"]),
        agreement=_share(table["agrees"], table["is_valid"]),
        format=table["is_valid"].astype(float),
    )
    write_parquet(graded, table, provenance(settings, [answers, dataset]))
    write_csv(effect, effect_table(table, settings), provenance(settings, [answers, dataset]))


def _share(decided: pd.Series, is_valid: pd.Series) -> pd.Series:
    """1 where valid and decided so, nan where valid and undecided, else 0."""
    return decided.map({True: 1.0, False: 0.0}).where(is_valid, 0.0)


def effect_table(graded: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row a (mode, metric, dose): what is left of a metric, problem by problem, in METHOD section 3's terms.

    rfh and random are means over problems with their bootstrap intervals, a problem's draws of random heads being
    averaged first; dose 0 is the unablated answer. Undecided answers are left out, and counted in n_undecided.
    difference is rfh minus random on the same problems, with its interval and sign-flip p; p_holm is adjusted over the
    modes and doses of a metric. overlap: the share of the random heads that are among the RFHs ablated at that dose,
    because their layer has too few others.
    """
    rows = []
    unablated = graded[graded["mode"] == UNABLATED].set_index("uid")
    ablated = graded[graded["mode"] != UNABLATED]
    for metric in METRICS:
        by_problem = ablated.pivot_table(metric, "uid", ["mode", "selection", "dose"], dropna=False)
        for mode in ablated["mode"].unique():
            for dose in [0, *sorted(ablated["dose"].unique())]:
                rfh, other = (
                    by_problem[mode, selection, dose] if dose else unablated[metric] for selection in (RFH, RANDOM)
                )
                difference = (rfh - other).dropna()
                arms = ablated[(ablated["mode"] == mode) & (ablated["dose"] == dose)] if dose else unablated
                row = {"mode": mode, "metric": metric, "dose": dose}
                row |= {"n_problems": len(unablated), "n_undecided": int(arms[metric].isna().sum())}
                for name, values in (("rfh", rfh), ("random", other), ("difference", difference)):
                    ends = _interval(values, settings)
                    row |= {name: values.mean(), f"{name}_low": ends[0], f"{name}_high": ends[1]}
                if dose:
                    row["p"] = sign_flip_p(difference.to_numpy(), settings["n_resamples"], settings["seed"])
                    row["overlap"] = _overlap(arms)
                rows.append(row)
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(float)))
    return table


def _interval(values: pd.Series, settings: Mapping[str, Any]) -> tuple[float, float]:
    decided = values.dropna().to_numpy(float)
    return bootstrap_interval(decided, settings["n_resamples"], settings["confidence"], settings["seed"])


def _overlap(arms: pd.DataFrame) -> float:
    """Share of random heads that are among the RFHs ablated at the same dose."""
    heads = pd.Series([set(zip(row.layers, row.heads, strict=True)) for row in arms.itertuples()], arms.index)
    rfhs = heads[arms["selection"] == RFH].iloc[0]
    return float(np.mean([len(drawn & rfhs) / len(rfhs) for drawn in heads[arms["selection"] == RANDOM]]))

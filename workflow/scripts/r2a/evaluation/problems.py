"""Every problem across conditions, for picking cases."""

import pandas as pd

from r2a.evaluation.outcomes import SHORT
from r2a.study import CONDITIONS

NAMES = ["model", "dataset", "decoding", "uid"]
PROBLEM_COLUMNS = [
    *NAMES, "area", "level", "right_in", *(f"right_{short}" for short in SHORT.values()),
    *(f"valid_{short}" for short in SHORT.values()), *(f"why_not_{short}" for short in SHORT.values()),
]  # fmt: skip


def problem_table(graded: pd.DataFrame) -> pd.DataFrame:
    """One row per model, dataset, decoding and problem: in which condition it is answered right, and why not.

    graded: with_outcomes, with invalid_reason and reason (the grader's). right_* and valid_*: shares of the samples;
    right_* leaves out undecided ones. right_in: "both", "neither", "only with" or "only without" (reasoning); "mixed"
    if samples of one condition differ, "undecided" if one has no verdict. why_not_*: the distinct reasons of the
    answers that are not right: the trace's if it is invalid, otherwise the grader's. METHOD section 2.
    """
    rows = graded.assign(
        right=graded["is_right"].astype("Float64").mask(graded["is_undecided"]),
        valid=graded["is_valid"].astype(float),
        why_not=graded["reason"].where(graded["is_valid"], graded["invalid_reason"]).mask(graded["is_right"]),
    )
    measures = {"right": "mean", "valid": "mean", "why_not": lambda reasons: ", ".join(sorted(set(reasons.dropna())))}
    table = rows.groupby([*NAMES, "condition"], sort=False).agg(measures).unstack()
    table = table.reindex(columns=pd.MultiIndex.from_product([measures, CONDITIONS]))
    table.columns = [f"{measure}_{SHORT[condition]}" for measure, condition in table.columns]
    with_reasoning, without = table["right_with"], table["right_without"]
    classes = {(1, 1): "both", (0, 0): "neither", (1, 0): "only with", (0, 1): "only without"}
    table["right_in"] = [
        "undecided" if pd.isna(pair[0]) or pd.isna(pair[1]) else classes.get(pair, "mixed")
        for pair in zip(with_reasoning, without, strict=True)
    ]
    problems = graded.drop_duplicates(NAMES).set_index(NAMES)[["area", "level"]]
    return table.join(problems).reset_index()[PROBLEM_COLUMNS]

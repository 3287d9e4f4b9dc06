"""Does attention quality go with correctness? Right against wrong answers, by what their answer tokens attend to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from r2a.statistics import holm
from r2a.store import provenance, read_parquet, read_provenance, write_csv
from r2a.traces import TRACE_KEYS

# a2r grows with the reasoning's length, and hard problems have long ones; lift is a2r adjusted for it
QUALITIES = ("a2r", "lift", "tracking", "spread")
COLUMNS = [
    "model", "dataset", "decoding", "score", "n_right", "n_wrong", "right", "wrong", "difference", "auc", "p", "p_holm",
]  # fmt: skip


def quality_table(traces: pd.DataFrame) -> pd.DataFrame:
    """One row a score: its mean over right and over wrong answers, and whether one ranks above the other.

    traces: is_correct and the scores, nan where undefined; such traces are left out and n says so. auc is the chance
    that a right answer's score is above a wrong one's, ties counting half, and p the two-sided Mann-Whitney test's
    (Mann and Whitney, 1947), with Holm's correction over the scores; all nan where one side has no trace. A link is
    no cause: both may follow from the problem's difficulty.
    """
    rows = []
    for score in QUALITIES:
        defined = traces[traces[score].notna() & traces["is_correct"].notna()]
        is_right = defined["is_correct"].astype(bool)
        right, wrong = (defined.loc[side, score].to_numpy(float) for side in (is_right, ~is_right))
        auc = p = np.nan
        if len(right) and len(wrong):
            test = mannwhitneyu(right, wrong)
            auc, p = float(test.statistic) / (len(right) * len(wrong)), float(test.pvalue)
        means = [part.mean() if len(part) else np.nan for part in (right, wrong)]
        rows.append((score, len(right), len(wrong), *means, means[0] - means[1], auc, p))
    table = pd.DataFrame(rows, columns=COLUMNS[3:-1])
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def write_attention_quality(
    by_trace: Sequence[Path], grades: Sequence[Path], output: Path, settings: Mapping[str, Any]
) -> None:
    """Write quality_table for every model and dataset, which are called by their labels, as CSV.

    by_trace: the RFHs' scores a trace, as the stage `heads` writes them; grades: of the same models and datasets.
    """
    parts = []
    for path, grades_path in zip(by_trace, grades, strict=True):
        names, traces = read_provenance(path)["parameters"], read_parquet(path)
        verdicts = read_parquet(grades_path, [*TRACE_KEYS, "is_correct"])
        table = quality_table(traces.merge(verdicts, on=list(TRACE_KEYS), how="left", validate="1:1"))
        named = {"model": names["model_label"], "dataset": names["dataset_label"], "decoding": traces["decoding"][0]}
        parts.append(table.assign(**named)[COLUMNS])
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    write_csv(output, found, provenance(settings, [*by_trace, *grades]))

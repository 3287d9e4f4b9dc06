"""The sentences on the trace's text: does the answer follow what the reasoning says?"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from r2a.extensions import PERTURBATION_KINDS
from r2a.roles import CUT, FIRST_RESULT, LAST_RESULT, UNTOUCHED
from r2a.store import read_provenance
from r2a.summary.words import said_empty, said_p


def perturbation_sentences(tables: Sequence[Path], comparisons: Sequence[Path], funnels: Sequence[Path]) -> list[str]:
    """A bullet per model and dataset."""
    bullets = []
    for path, compared_path, funnel_path in zip(tables, comparisons, funnels, strict=True):
        if said := said_empty(path):
            bullets += said
            continue
        settings = read_provenance(path)["parameters"]
        rows = pd.read_csv(path).query("by == 'all'").set_index("perturbation")
        compared = pd.read_csv(compared_path).query("measure == 'agreement'").set_index(["perturbation", "control"])
        cuts = rows[rows["kind"] == CUT].sort_values("cut")
        parts = []
        for _, row in pd.concat([cuts, rows[rows["kind"] != CUT]]).iterrows():
            name = PERTURBATION_KINDS[row["kind"]].said(None if pd.isna(row["cut"]) else row["cut"])
            part = f"{_share(row, 'agreement')} with {name}{_valid(row)}"
            if row["n_implied"]:
                part += f", where {_share(row, 'follows')} are what that text implies"
            if (row.name, UNTOUCHED) in compared.index:
                part += f" ({_difference(compared.loc[(row.name, UNTOUCHED)])})"
            parts.append(part)
        bullets.append(
            f"- **{settings['model_label']}**, {settings['dataset_label']}: answers re-generated from a perturbed "
            f"reasoning agree with the original one in {'; '.join(parts)}. In round brackets, the difference from "
            f"answers after the whole reasoning, paired by problem, with p after Holm's correction. "
            f"{_control(compared)}{_left_out(funnel_path)}"
        )
    return bullets


def _difference(row: pd.Series) -> str:
    points = [f"{100 * row[name]:+.0f}" for name in ("difference", "low", "high")]
    return f"{points[0]} points [{points[1]}, {points[2]}], {said_p(row['p_holm'])}"


def _control(compared: pd.DataFrame) -> str:
    if (LAST_RESULT, FIRST_RESULT) not in compared.index:
        return ""
    return f"Last against first result replaced: {_difference(compared.loc[(LAST_RESULT, FIRST_RESULT)])}. "


def _share(row: pd.Series, measure: str) -> str:
    low, high = (f"{100 * row[f'{measure}_{end}']:.0f}" for end in ("low", "high"))
    return f"{100 * row[measure]:.0f} % [{low}, {high}]"


def _valid(row: pd.Series) -> str:
    return "" if row["valid_share"] == 1 else f" ({100 * row['valid_share']:.0f} % valid)"


def _left_out(path: Path) -> str:
    """How many traces were perturbed, and why others were not."""
    funnel = pd.read_csv(path)
    counts = funnel[funnel["outcome"] == "perturbed"]["n_traces"]
    reasons = funnel[funnel["outcome"] != "perturbed"].groupby("outcome", sort=False)["n_traces"].max()
    few, many = counts.min(), counts.max()
    n = f"n = {many}" if few == many else f"n = {few} to {many}"
    named = ", ".join(f"{count}: {reason}" for reason, count in reasons.items())
    return f"{n} traces{f' (left out, at most {named})' if named else ''}."

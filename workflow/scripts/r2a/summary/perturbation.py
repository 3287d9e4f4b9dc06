"""The sentences on the trace's text: does the answer follow what the reasoning says?"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from r2a.roles import CUT, FILLER, FIRST_RESULT, LAST_RESULT, OTHER_REASONING
from r2a.store import read_provenance

NAMES = {
    FILLER: "filler of equal length in its place",
    OTHER_REASONING: "the reasoning of a problem with another answer",
    LAST_RESULT: "its last result replaced",
    FIRST_RESULT: "its first result replaced (control)",
}


def perturbation_sentences(tables: Sequence[Path], funnels: Sequence[Path]) -> list[str]:
    """A bullet per model and dataset."""
    bullets = []
    for path, funnel_path in zip(tables, funnels, strict=True):
        settings = read_provenance(path)["parameters"]
        rows = pd.read_csv(path).query("by == 'all'").set_index("perturbation")
        cuts = rows[rows["kind"] == CUT].sort_values("cut")
        parts = []
        for _, row in [*cuts.iterrows(), *rows[rows["kind"].isin(NAMES)].iterrows()]:
            name = NAMES.get(row["kind"]) or f"{row['cut']:.0f} % of it"
            part = f"{_share(row, 'agreement')} with {name}{_valid(row)}"
            if row["n_implied"]:
                part += f", where {_share(row, 'follows')} are what that text implies"
            parts.append(part)
        bullets.append(
            f"- **{settings['model_label']}**, {settings['dataset_label']}: answers re-generated from a perturbed "
            f"reasoning agree with the original one in {'; '.join(parts)}. {_left_out(funnel_path)}"
        )
    return bullets


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

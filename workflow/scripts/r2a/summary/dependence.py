"""Stage 1's further sentences: what accuracy depends on besides the reasoning."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from r2a.study import CONDITIONS


def dependence_sentences(inputs: Mapping[str, Any]) -> list[str]:
    """A bullet a model and dataset on its token budget, and one each on decodings and variants."""
    return [
        *_budget_sentences(pd.read_csv(inputs["budgets"])),
        *_change_sentences(pd.read_csv(inputs["decodings"]), ["model", "dataset", "first", "second"]),
        *_change_sentences(pd.read_csv(inputs["variants"]), ["model", "dataset", "decoding", "variant", "change"]),
    ]


def _budget_sentences(budgets: pd.DataFrame) -> list[str]:
    bullets = []
    for (model, dataset), part in budgets.groupby(["model", "dataset"], sort=False):
        rows = part[part["decoding"] == part["decoding"].iloc[0]].sort_values("budget")
        worse = rows.loc[rows["band_high"] < 0, "budget"]
        is_better_from_here = (rows["band_low"] > 0)[::-1].cummin()[::-1]
        better = rows.loc[is_better_from_here, "budget"]
        said = [f"up to {worse.max()} tokens of completion reasoning does worse"] if len(worse) else []
        said += [
            f"from {better.min()} tokens on it does better" if len(better) else "at no budget is it shown to do better"
        ]
        bullets.append(
            f"- **{model}**, {dataset}, {rows['decoding'].iloc[0]}, were completions cut off: {'; '.join(said)} "
            f"(by a band for the paired difference that holds at all budgets at once; n = "
            f"{rows['n_problems'].iloc[0]})."
        )
    return bullets


def _change_sentences(changes: pd.DataFrame, names: list[str]) -> list[str]:
    bullets = []
    for key, part in changes.groupby(names, sort=False):
        of = dict(zip(names, key, strict=True))
        of_measure = part.set_index(["measure", "condition"])
        if "variant" in of:
            what = f"{of['decoding']}: as {of['variant']} ({of['change']}) it"
        else:
            what = f"{of['second']} in place of {of['first']}"
        said = [
            f"{meaning} {_points(of_measure, measure, CONDITIONS[0])} with reasoning, "
            f"{_points(of_measure, measure, CONDITIONS[1])} without"
            for measure, meaning in (("accuracy", "accuracy"), ("compliance", "valid traces"))
            if measure in part["measure"].to_numpy()
        ]
        bullets.append(
            f"- **{of['model']}**, {of['dataset']}, {what} changes, in points, {'; '.join(said)} "
            f"(n = {part['n_problems'].max()})."
        )
    return bullets


def _points(rows: pd.DataFrame, measure: str, condition: str) -> str:
    row = rows.loc[(measure, condition)]
    return f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"

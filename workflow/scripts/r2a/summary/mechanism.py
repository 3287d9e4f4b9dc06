"""The finding on paths: how much of the reasoning's effect reaches the answer through the heads that read it?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.roles import ALL_HEADS, MATCHED, REST, RFH
from r2a.summary.registry import Cell, Found, Plot, finding
from r2a.summary.words import in_cases, number, share, sorted_out, with_interval, word


@finding(
    label="what reaches the answer through the RFHs",
    category="3 Patching",
    caption=(
        "Path patching: the clean run's residual stream at the reasoning's last tokens is put into the corrupted run "
        "at the layer where that restores most. From the answer it is seen by all heads, by the RFHs alone, by as many "
        "matched heads, or by all heads but the RFHs: shares of what all heads pass on, over n pairs, with {interval} "
        "bootstrap intervals over templates. No test."
    ),
    reads={"mediation": "<results>/tables/{model}/{dataset}/mediation.csv"},
    where="pair_datasets",
    models="patched_models",
)
def find_mediation(mediation: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """The share of the reasoning's effect that the RFHs pass on, at the layer where it is strongest."""
    found = Found(plots=[
        Plot(
            title="share through RFHs (●) and matched heads (○)", columns=["through RFHs", "through matched heads"],
            zero=0, factor=100, suffix=" %",
        ),
    ])  # fmt: skip
    filled, found.missing = sorted_out(mediation, settings)
    passed: dict[tuple[str, str], Cell] = {}
    more = []
    for subject, path in filled:
        for probe, part in pd.read_csv(path).groupby("probe", sort=False):
            table = part.set_index(["path", "layer"])
            layer = table.loc[ALL_HEADS, "mean"].idxmax()
            whole, n = table.loc[(ALL_HEADS, layer)], table.loc[(ALL_HEADS, layer), "n_pairs"]
            shares = {}
            for name, heads in {"RFHs": RFH, "matched heads": MATCHED, "all others": REST}.items():
                row = table.loc[(heads, layer)]
                ends = row["share"], row["share_low"], row["share_high"]
                shares[f"through {name}"] = share(*ends, n, f"probe {probe}", f"layer {layer}", of="pairs", zero=0)
            cells = {
                "probe": word(probe), "layer": number(layer),
                "restores": with_interval(whole["mean"], whole["low"], whole["high"], n, zero=0, of="pairs"),
                **shares, "n": number(n),
            }  # fmt: skip
            found.rows.append((subject, cells))
            if subject not in passed:
                passed[subject] = replace(shares["through RFHs"], zero=0.5)
                more.append(bool(shares["through RFHs"].low > shares["through matched heads"].high))
    found.verdicts = {"share through RFHs": passed}
    found.meanings = {"share through RFHs": "how much of patching's effect passes through the Reasoning-Focus Heads"}
    if passed:
        found.sentences = [f"RFHs pass on more of the reasoning's effect than as many matched heads {in_cases(more)}."]
    return found

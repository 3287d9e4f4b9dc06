"""Which pairs patching is measured on, and why each other pair was left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.roles import (
    INVALID,
    NO_MENTION,
    NO_REASONING,
    OWN_ANSWER_NOT_PREFERRED,
    SPLIT_IN_BOX,
    SPLIT_IN_PROBE,
    TOO_LONG,
    WRONG,
)
from r2a.store import axis_labels, open_hdf5, provenance, read_parquet, why_empty, write_csv

# each step of the funnel, and why a pair fails it
STEPS = {
    "both_valid": (INVALID,),
    "both_right": (WRONG,),
    "one_token": (SPLIT_IN_BOX, SPLIT_IN_PROBE),
    "aligned": (NO_REASONING, NO_MENTION),
    "own_answer_preferred": (TOO_LONG, OWN_ANSWER_NOT_PREFERRED),
}


def tabulate_pairs(pairs: Path, patching: Path, funnel: Path, outcomes: Path, settings: Mapping[str, Any]) -> None:
    """Write two tables of the pairs that were asked, by probe.

    Outcomes, one row per probe and pair: probe, pair, domain, kind, both answers, the surface form in which each is one
    token (answer_form), and left_out, empty for a pair that is used. Funnel, one row per probe for all pairs and for
    each domain and kind: how many were asked, and how many remain after each of STEPS.
    """
    table = read_parquet(pairs).rename(columns={"area": "domain"})
    marked: dict[str, set[tuple[str, str]]] = {"is_used": set(), "is_left_out": set()}
    if why_empty(patching) is None:
        with open_hdf5(patching) as file:
            for probe in axis_labels(file, "probe"):
                for mark, names in marked.items():
                    pairs_of_probe = zip(axis_labels(file[probe], "pair"), file[probe][mark][:], strict=True)
                    names |= {(probe, pair) for pair, is_marked in pairs_of_probe if is_marked}
    names = pd.Series(list(zip(table["probe"], table["pair"], strict=True)), index=table.index)
    unused = (table["left_out"] == "") & ~names.isin(marked["is_used"])
    table.loc[unused, "left_out"] = OWN_ANSWER_NOT_PREFERRED
    table.loc[unused & names.isin(marked["is_left_out"]), "left_out"] = TOO_LONG
    origin = provenance(settings, [pairs, patching])
    columns = ["probe", "pair", "domain", "kind", "answer_a", "answer_b", "form_a", "form_b", "left_out"]
    write_csv(outcomes, table[columns], origin)
    rows = []
    for probe, asked in table.groupby("probe", sort=False):
        rows.append({"probe": probe, "by": "all", "name": "all"} | _steps(asked["left_out"]))
        for by in ("domain", "kind"):
            groups = asked.groupby(asked[by].fillna("none"), sort=False)
            rows += [{"probe": probe, "by": by, "name": name} | _steps(of["left_out"]) for name, of in groups]
    write_csv(funnel, pd.DataFrame(rows), origin)


def _steps(left_out: pd.Series) -> dict[str, int]:
    """How many pairs are asked, and how many each step leaves."""
    counts = {"asked": len(left_out)}
    for step, reasons in STEPS.items():
        left_out = left_out[~left_out.isin(reasons)]
        counts[step] = len(left_out)
    return counts

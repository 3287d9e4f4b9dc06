"""The finding on the trace's text: does the answer follow what the reasoning says?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.extensions import PERTURBATION_KINDS
from r2a.roles import CUT, OTHER_REASONING, UNTOUCHED
from r2a.summary.registry import Cell, Found, finding
from r2a.summary.words import NONE, in_cases, number, p_value, rows_of, share, sorted_out, tested, word


@finding(
    label="answers after a changed text",
    category="1 Answers",
    caption=(
        "The reasoning's text is changed and the answer generated again. Agrees: the answer equals the original one. "
        "Follows: it is the answer that the changed text implies, if the text implies one. Change: agreement minus "
        "that after the whole reasoning, paired by problem, with p after Holm's correction. {interval} intervals."
    ),
    reads={
        "perturbation": "<results>/tables/{model}/{dataset}/perturbation.csv",
        "comparisons": "<results>/tables/{model}/{dataset}/perturbation_comparisons.csv",
        "funnel": "<results>/tables/{model}/{dataset}/perturbation_funnel.csv",
    },
    where="perturbed_datasets",
    models="weighted_models",
)
def find_perturbation(
    perturbation: Sequence[Path], comparisons: Sequence[Path], funnel: Sequence[Path], settings: Mapping[str, Any]
) -> Found:
    """How the answer changes when the reasoning's text is changed."""
    found = Found()
    filled, found.missing = sorted_out(perturbation, settings)
    compared_paths = dict(sorted_out(comparisons, settings)[0])
    followed: dict[tuple[str, str], Cell] = {}
    for subject, path in filled:
        rows = pd.read_csv(path).query("by == 'all'").set_index("perturbation")
        compared = pd.read_csv(compared_paths[subject]).query("measure == 'agreement'")
        compared = compared.set_index(["perturbation", "control"])
        cuts = rows[rows["kind"] == CUT].sort_values("cut")
        for name, row in pd.concat([cuts, rows[rows["kind"] != CUT]]).iterrows():
            label = PERTURBATION_KINDS[row["kind"]].said(None if pd.isna(row["cut"]) else row["cut"])
            valid = f"{100 * row['valid_share']:.0f} % of the answers valid"
            agrees = share(
                row["agreement"], row["agreement_low"], row["agreement_high"], row["n_problems"], label, valid
            )
            follows, change, p = Cell(text=NONE), Cell(text=NONE), Cell(text=NONE)
            if row["n_implied"]:
                follows = share(
                    row["follows"], row["follows_low"], row["follows_high"], row["n_implied"], label, zero=0.5
                )
            if (name, UNTOUCHED) in compared.index:
                test = compared.loc[(name, UNTOUCHED)]
                change, p = tested(test, "against the whole reasoning"), p_value(test["p_holm"])
            cells = {
                "reasoning's text": word(label), "agrees": agrees, "follows": follows, "change, points": change,
                "p, Holm": p, "valid": number(100 * row["valid_share"], "{:.0f} %"), "n": number(row["n_problems"]),
            }  # fmt: skip
            found.rows.append((subject, cells))
            if row["kind"] == OTHER_REASONING and row["n_implied"]:
                followed[subject] = follows
    found.verdicts = {"follows another text": followed}
    found.meanings = {
        "follows another text": "given another problem's reasoning, the answer is the one that this implies"
    }
    if followed:
        most = in_cases(cell.sign > 0 for cell in followed.values())
        found.sentences = [f"Given another problem's reasoning, most answers are the one that it implies {most}."]
    return found


@finding(
    label="changed texts against their controls",
    category="1 Answers",
    caption=(
        "Share of answers that agree with the original one after a change of the text, minus that after the control "
        "change, paired by problem, with p after Holm's correction. {interval} intervals."
    ),
    reads={"comparisons": "<results>/tables/{model}/{dataset}/perturbation_comparisons.csv"},
    where="perturbed_datasets",
    models="weighted_models",
)
def find_perturbation_controls(comparisons: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """The effect of a change of the text beyond its control."""

    def compared(path: Path) -> Iterator[dict[str, Cell]]:
        table = pd.read_csv(path).query("measure == 'agreement'").set_index(["perturbation", "control"])
        for name, entry in PERTURBATION_KINDS.items():
            for other in entry.compared_with:
                if (name, other) not in table.index:
                    continue
                test, against = table.loc[(name, other)], PERTURBATION_KINDS[other].said()
                yield {
                    "reasoning's text": word(entry.said()), "compared with": word(against),
                    "difference, points": tested(test, f"{entry.said()} against {against}"),
                    "p, Holm": p_value(test["p_holm"]), "n": number(test["n_problems"]),
                }  # fmt: skip

    return rows_of(comparisons, settings, compared)


@finding(
    label="traces whose reasoning could be changed",
    category="4 Checks",
    caption=(
        "How many traces had their reasoning changed, how many were not drawn for it, and why it could not be changed "
        "in the others."
    ),
    reads={"funnel": "<results>/tables/{model}/{dataset}/perturbation_funnel.csv"},
    where="perturbed_datasets",
    models="weighted_models",
)
def find_perturbation_funnel(funnel: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """How many traces each kind of change could be made in."""

    def outcomes(path: Path) -> Iterator[dict[str, Cell]]:
        for _, part in pd.read_csv(path).groupby("perturbation", sort=False):
            kind, cut = part[["kind", "cut"]].iloc[0]
            n_traces = dict(zip(part["outcome"], part["n_traces"], strict=True))
            changed, not_drawn = (n_traces.pop(outcome, 0) for outcome in ("perturbed", "not drawn"))
            yield {
                "reasoning's text": word(PERTURBATION_KINDS[kind].said(None if pd.isna(cut) else cut)),
                "changed": number(changed), "not drawn": number(not_drawn),
                "left out": word("; ".join(f"{n}: {why}" for why, n in n_traces.items()) or NONE),
            }  # fmt: skip

    return rows_of(funnel, settings, outcomes)

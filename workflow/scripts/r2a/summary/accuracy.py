"""Findings of stage 1: does reasoning improve answers, and what does that depend on?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.store import read_provenance
from r2a.study import CONDITIONS
from r2a.summary.registry import Cell, Found, Plot, Subject, finding
from r2a.summary.words import in_cases, number, p_value, points, said_p, share, tested, word


@finding(
    label="accuracy with and without reasoning",
    category="1 Answers",
    caption=(
        "Share of all problems that are answered correctly (an invalid answer counts as wrong), and the difference "
        "paired by problem, with {interval} intervals (Wilson's for shares, Newcombe's for differences). Tests: exact "
        "McNemar, or sign-flip permutations if problems have several samples. Valid in both: the paper's estimand, the "
        "same difference over problems whose answers are valid in both conditions."
    ),
    reads={"effect": "<results>/tables/effect.csv", "accuracy": "<results>/tables/accuracy.csv"},
    where="graded_datasets",
    is_open=True,
)
def find_accuracy(effect: Path, accuracy: Path, settings: Mapping[str, Any]) -> Found:
    """How reasoning changes accuracy, by model, dataset and decoding."""
    whole = _all(effect)
    if whole.empty:
        return Found(sentences=["No answer of this study is graded."])
    shares = _all(accuracy).set_index(["model", "dataset", "decoding", "condition"])
    rows, right, change = [], {}, {}
    first = whole["decoding"].iloc[0]
    for row in whole.itertuples():
        names = row.model, row.dataset, row.decoding
        sides = []
        for condition in CONDITIONS:
            one = shares.loc[(*names, condition)]
            undecided = f"{one['n_undecided']:.0f} answers undecided" if one["n_undecided"] else ""
            sides.append(share(one["accuracy"], one["low"], one["high"], one["n_problems"], row.decoding, undecided))
        test = row.test if pd.isna(row.p) else f"{row.test}, {said_p(row.p)}"
        effect_cell = points(row.difference, row.low, row.high, row.n_problems, test, row.decoding)
        common = points(
            row.common_difference, row.common_low, row.common_high, row.n_common,
            "the paper's estimand, over problems valid in both conditions",
        )  # fmt: skip
        cells = {
            "decoding": word(row.decoding), "with": sides[0], "without": sides[1], "effect, points": effect_cell,
            "valid in both": common, "n": number(row.n_problems), "p": p_value(row.p), "test": word(row.test),
        }  # fmt: skip
        rows.append(((row.model, row.dataset), cells))
        if row.decoding == first:
            pair = row.accuracy_with, row.accuracy_without
            if not pd.isna(row.difference):  # every answer may be undecided
                right[row.model, row.dataset] = Cell(
                    text=f"{100 * pair[0]:.0f} · {100 * pair[1]:.0f} %", value=pair[0], n=row.n_problems, paired=pair,
                    note=f"right with reasoning {sides[0].text}, without {sides[1].text}; {sides[0].note}",
                )  # fmt: skip
            change[row.model, row.dataset] = effect_cell
    return Found(
        rows=rows, verdicts={"right, with · without": right, "effect, points": change}, sentences=_sentences(change),
        meanings={"effect, points": "right with reasoning minus right without it, in percentage points"},
        plots=[
            Plot(
                title="right, with (●) and without (○) reasoning", columns=["with", "without"], low=0, high=1,
                suffix=" %", factor=100,
            ),
            Plot(title="effect of reasoning, points", columns=["effect, points"], zero=0, factor=100),
        ],
    )  # fmt: skip


def _sentences(change: Mapping[Subject, Cell]) -> list[str]:
    """In how many cases reasoning helps, always, and in how many it harms, if it does in any."""
    cells = list(change.values())
    said = [f"More answers are right with reasoning, beyond chance, {in_cases(cell.sign > 0 for cell in cells)}."]
    if any(cell.sign < 0 for cell in cells):
        said.append(f"Fewer answers are right with reasoning {in_cases(cell.sign < 0 for cell in cells)}.")
    return said


def _all(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    return table[table["by"] == "all"]


@finding(
    label="effect by area",
    category="1 Answers",
    caption="The difference in each area of a dataset, with {interval} intervals; p after Holm's correction.",
    reads={"effect": "<results>/tables/effect.csv"},
    where="graded_datasets",
)
def find_areas(effect: Path, settings: Mapping[str, Any]) -> Found:
    """How reasoning changes accuracy, by area, in the first decoding."""
    table = pd.read_csv(effect)
    table = table[(table["by"] == "area") & table["decoding"].isin(table["decoding"].head(1))]
    rows = [
        (
            (row["model"], row["dataset"]),
            {
                "area": word(row["area"]), "with": number(100 * row["accuracy_with"], "{:.0f} %"),
                "without": number(100 * row["accuracy_without"], "{:.0f} %"), "effect, points": tested(row),
                "n": number(row["n_problems"]), "p, Holm": p_value(row["p_holm"]),
            },
        )
        for row in table.to_dict("records")
    ]  # fmt: skip
    return Found(rows=rows)


@finding(
    label="token budgets",
    category="1 Answers",
    caption=(
        "If completions were cut off at a token budget: the budget up to which reasoning does worse, and the one from "
        "which it does better, by a {interval} band for the paired difference that holds at all budgets at once."
    ),
    reads={"budgets": "<results>/tables/budgets.csv"},
    where="graded_datasets",
)
def find_budgets(budgets: Path, settings: Mapping[str, Any]) -> Found:
    """The token budget from which reasoning helps, in the first decoding."""
    rows = []
    for (model, dataset), part in pd.read_csv(budgets).groupby(["model", "dataset"], sort=False):
        part = part[part["decoding"] == part["decoding"].iloc[0]].sort_values("budget")
        worse = part.loc[part["band_high"] < 0, "budget"].max()
        is_better_from_here = (part["band_low"] > 0)[::-1].cummin()[::-1]
        better = part.loc[is_better_from_here, "budget"].min()
        cells = {
            "worse up to, tokens": number(worse), "better from, tokens": number(better),
            "whole budget": number(part["budget"].iloc[-1]), "n": number(part["n_problems"].iloc[0]),
        }  # fmt: skip
        rows.append(((model, dataset), cells))
    return Found(rows=rows)


CHANGED = {"accuracy": "accuracy", "compliance": "valid traces"}


def _changes(table: pd.DataFrame, names: list[str]) -> Found:
    rows = []
    for row in table.to_dict("records"):
        change = points(row["difference"], row["low"], row["high"], row["n_problems"], "Newcombe's paired interval")
        cells = {name: word(row[name]) for name in names}
        cells |= {
            "condition": word(row["condition"].replace("_", " ")), "measure": word(CHANGED[row["measure"]]),
            "change, points": change, "n": number(row["n_problems"]),
        }  # fmt: skip
        rows.append(((row["model"], row["dataset"]), cells))
    return Found(rows=rows)


@finding(
    label="decodings",
    category="1 Answers",
    caption="The second decoding minus the first: differences paired by problem, with {interval} intervals.",
    reads={"decodings": "<results>/tables/decodings.csv"},
)
def find_decodings(decodings: Path, settings: Mapping[str, Any]) -> Found:
    """How another decoding changes accuracy and the share of valid traces."""
    return _changes(pd.read_csv(decodings), ["first", "second"])


@finding(
    label="variants",
    category="1 Answers",
    caption="A variant minus its base model: differences paired by problem, with {interval} intervals.",
    reads={"variants": "<results>/tables/variants.csv"},
    where="variants",
)
def find_variants(variants: Path, settings: Mapping[str, Any]) -> Found:
    """How another prompt, tokenization or dtype of the same model changes its results."""
    return _changes(pd.read_csv(variants), ["decoding", "variant", "change"])


@finding(
    label="survival of traces",
    category="4 Checks",
    caption=(
        "Traces that pass each step: finished before the token limit, well formed (the reasoning is closed once), with "
        "an extracted answer. A trace that fails a step counts as wrong. Repeating: stopped because it repeated itself."
    ),
    reads={"funnel": "<results>/tables/funnel.csv"},
)
def find_funnel(funnel: Path, settings: Mapping[str, Any]) -> Found:
    """How many traces pass each step."""
    table = pd.read_csv(funnel)
    steps = ["total", "finished", "well_formed", "extracted"]
    steps += [step for step in ("repeating", "closed_by_budget", "unreadable") if table[step].any()]
    rows = []
    for row in table.to_dict("records"):
        cells = {name: word(str(row[name]).replace("_", " ")) for name in ("condition", "decoding")}
        cells |= {step.replace("_", " "): number(row[step]) for step in steps}
        cells["valid"] = share(row["compliance"], row["low"], row["high"], row["total"], of="traces")
        rows.append(((row["model"], row["dataset"]), cells))
    total, left = int(table["total"].sum()), int(table["extracted"].sum())
    lost = total - left
    lack = "lacks" if lost == 1 else "lack"
    said = f"{lost} of the {total} traces {lack} an answer; such traces count as wrong."
    return Found(rows=rows, sentences=[said])


@finding(
    label="graders that disagree",
    category="4 Checks",
    caption=(
        "Answers for which another grader's verdict differs from the first grader's; tables/grader_disagreements.csv "
        "lists them."
    ),
    reads={"disagreements": "<results>/tables/grader_disagreements.csv"},
    where="graded_datasets",
)
def find_disagreements(disagreements: Path, settings: Mapping[str, Any]) -> Found:
    """How many verdicts differ between graders."""
    first, *others = read_provenance(disagreements)["parameters"]["graders"]
    verdicts = pd.read_csv(disagreements, dtype=str, keep_default_na=False)
    rows = []
    for (model, dataset), part in verdicts.groupby(["model", "dataset"], sort=False):
        cells = {"judged by": word(first)}
        for other in others:
            cells[f"differs: {other}"] = number((part[f"is_correct_{other}"] != part[f"is_correct_{first}"]).sum())
        rows.append(((model, dataset), cells))
    if not others:
        return Found()
    n_differing = len(verdicts)
    said = f"{n_differing} verdicts differ" if n_differing else "No verdict differs"
    return Found(rows=rows, sentences=[f"{said} between the graders {first} and {', '.join(others)}."])

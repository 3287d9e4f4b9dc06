"""How the summary writes numbers, and counts cases in a sentence."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.statistics import TOO_FEW
from r2a.store import labelled, why_empty
from r2a.summary.registry import Cell, Found, Subject

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
NONE = DASH  # not measured or not defined


def sorted_out(
    paths: Sequence[Path], settings: Mapping[str, Any]
) -> tuple[list[tuple[Subject, Path]], dict[Subject, str]]:
    """The files with content, each with the labels of its model and dataset; and why the others are empty.

    settings: model_labels and dataset_labels, by name.
    """
    filled, missing = [], {}
    for path in paths:
        origin, why = labelled(path, settings), why_empty(path)
        subject = origin["model_label"], origin["dataset_label"]
        if why is None:
            filled.append((subject, path))
        else:
            missing[subject] = f"nothing to measure: {why}"
    return filled, missing


def rows_of(
    paths: Sequence[Path], settings: Mapping[str, Any], cells_of: Callable[[Path], Iterable[dict[str, Cell]]]
) -> Found:
    """A finding with the rows that cells_of gives for each file with content, and why the other files are empty."""
    filled, missing = sorted_out(paths, settings)
    return Found(rows=[(subject, cells) for subject, path in filled for cells in cells_of(path)], missing=missing)


def said_p(p: float) -> str:
    """The p-value in words, or that there are too few pairs for a test."""
    return TOO_FEW if math.isnan(p) else f"p = {p:.2g}"


def signed(value: float, digits: int = 1) -> str:
    """The number with its sign, written with a true minus; a number that rounds to 0 has no minus."""
    return f"{value:+z.{digits}f}".replace("-", MINUS)


def number(value: float, text: str = "{:g}", **more: Any) -> Cell:
    """A plain number; NONE if it is nan."""
    value = float(value)
    return Cell(text=NONE if math.isnan(value) else text.format(value).replace("-", MINUS), value=value, **more)


def word(text: Any) -> Cell:
    """A word of a table; NONE where the table has none."""
    return Cell(text=NONE if pd.isna(text) else str(text))


def p_value(p: float) -> Cell:
    return Cell(text=NONE if math.isnan(p) else f"{p:.2g}", value=p, note=said_p(p))


def with_interval(
    value: float, low: float, high: float, n: float, *notes: Any, unit: str = "", factor: float = 1, digits: int = 2,
    zero: float | None = None, is_signed: bool = False, of: str = "problems",
) -> Cell:  # fmt: skip
    """The value and its interval, value [low, high], each times `factor`; its note has n and `notes`.

    unit: written after the value. notes: what a table says; a test that it does not name, since none was made, is nan.
    """
    value, low, high = float(value), float(low), float(high)
    notes = tuple(note for note in notes if note and not pd.isna(note))
    if math.isnan(value):
        return Cell(text=NONE, note="; ".join([*notes, f"n = {n:.0f} {of}"]), n=n)
    said = [
        signed(factor * x, digits) if is_signed else f"{factor * x:z.{digits}f}".replace("-", MINUS)
        for x in (value, low, high)
    ]
    text = f"{said[0]}{unit}" + ("" if math.isnan(low) else f" [{said[1]}, {said[2]}]")
    note = "; ".join([f"n = {n:.0f} {of}", *notes])
    return Cell(text=text, value=value, low=low, high=high, note=note, n=n, zero=zero)


def points(value: float, low: float, high: float, n: float, *notes: Any, **more: Any) -> Cell:
    """A difference of shares in percentage points, marked if its interval excludes 0."""
    return with_interval(value, low, high, n, *notes, factor=100, digits=1, zero=0, is_signed=True, **more)


def tested(row: Mapping[Any, Any], *notes: Any, ends: tuple[str, str] = ("low", "high")) -> Cell:
    """A table's paired difference of shares in percentage points, with its test and p after Holm's correction.

    ends: the columns of its interval.
    """
    named = row["test"], said_p(row["p_holm"])
    return points(row["difference"], *(row[end] for end in ends), row["n_problems"], *named, *notes)


def share(value: float, low: float, high: float, n: float, *notes: Any, **more: Any) -> Cell:
    """A share in percent."""
    return with_interval(value, low, high, n, *notes, unit=" %", factor=100, digits=0, **more)


def in_cases(is_so: Iterable[bool]) -> str:
    """In how many cases something is true, such as "in 3 of 4 cases"; a case is one model on one dataset."""
    so = list(is_so)
    if not any(so):
        return "in no case"
    if all(so):
        return {1: "in the one case", 2: "in both cases"}.get(len(so), f"in all {len(so)} cases")
    return f"in {sum(so)} of {len(so)} cases"

"""A check of references before anything is generated: with which of them no answer can be compared, and why."""

import re
from collections.abc import Mapping

from r2a.grading import collections, words
from r2a.grading.comparison import NUMERAL_IN_BASE
from r2a.grading.grader import MAX_CHARACTERS, MAX_DIGITS
from r2a.grading.notation import GROUP, written
from r2a.grading.numbers import read_number
from r2a.grading.quantities import read_quantity
from r2a.grading.symbolic import is_readable, load_sympy
from r2a.grading.workers import run_in_workers


def unreadable_references(
    references: Mapping[str, object], seconds: float = 10, memory_mb: int = 2000
) -> dict[str, str]:
    """By uid, why a reference cannot be compared with answers; empty if all can.

    Words and sentences are compared as texts, so they are always readable. Only references that are neither words nor
    plainly a number, a quantity or a list of these are parsed as mathematics, in processes with limits.
    """
    why: dict[str, str] = {}
    to_parse: dict[str, list[str]] = {}
    for uid, reference in references.items():
        if not isinstance(reference, str) or not reference.strip():
            why[uid] = "missing"
        elif len(reference) > MAX_CHARACTERS or re.search(rf"\d{{{MAX_DIGITS + 1}}}", reference):
            why[uid] = f"too long to be compared (over {MAX_CHARACTERS} characters or {MAX_DIGITS} digits in a row)"
        elif parts := _formulas(written(reference)):
            to_parse[uid] = parts
    formulas = list(dict.fromkeys(part for parts in to_parse.values() for part in parts))
    if not formulas:
        return why
    outcomes = dict(run_in_workers(load_sympy, is_readable, [(part,) for part in formulas], seconds, memory_mb))
    bad = {formulas[index] for index, outcome in outcomes.items() if outcome.value is not True}
    for uid, parts in to_parse.items():
        if unread := [part for part in parts if part in bad]:
            why[uid] = f"neither words nor readable mathematics: {unread[0]}"
    return {uid: why[uid] for uid in references if uid in why}


def as_text(reference: str) -> str:
    r"""The reference in \text{}, so that answers are compared with it as text."""
    plain = written(reference)
    return f"\\text{{{plain}}}" if re.fullmatch(rf"\\text{GROUP}", f"\\text{{{plain}}}") else reference


def _formulas(text: str) -> list[str]:
    """The parts of a written text that only a parser of mathematics can read."""
    if (
        not text
        or words.is_words(text)
        or words.is_prose(text)
        or words.clock_time(text)
        or words.letter_and_text(text)
    ):
        return []
    if read_number(text) is not None or NUMERAL_IN_BASE.search(text) or r"\ldots" in text:
        return []
    text = re.sub(r"\\(?:pm|mp)(?![A-Za-z])", "+", text)
    _, value = collections.without_name(text)
    if value != text and "=" not in value:
        return _formulas(value)
    quantity = read_quantity(text)
    if quantity.value != text:
        return _formulas(quantity.value)
    union = collections.split(text, r"\cup")
    if len(union) > 1:
        return [formula for part in union for formula in _formulas(part)]
    group, matrix = collections.read_group(text), collections.read_matrix(text)
    cells = [cell for row in matrix for cell in row] if matrix else list(group.parts) if group else []
    return [formula for cell in cells for formula in _formulas(cell)] if cells else [text]

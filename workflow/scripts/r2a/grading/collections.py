r"""The structure of answers: lists, tuples and intervals, sets, unions, matrices, equations, inequalities.

Nothing is computed here; a text is split at the signs at its top level.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from r2a.grading.notation import FUNCTIONS, GROUP

OPENING = {
    "(": ")",
    "[": "]",
    "{": "}",
    r"\{": r"\}",
    r"\langle": r"\rangle",
    r"\lfloor": r"\rfloor",
    r"\lceil": r"\rceil",
}
SIGN = re.compile(
    r"\\[{}]|\\(?:langle|rangle|lfloor|rfloor|lceil|rceil|cup|le|ge|ne|in|approx|pm|mp)(?![A-Za-z])"
    r"|\\begin\{[a-z*]+\}(?:\{[^{}]*\})?|\\end\{[a-z*]+\}|\\text" + GROUP + r"|\\[A-Za-z]+|\\.|[()\[\]{},;|=<>:&]"
    r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
)
SYMBOL = r"(?:[A-Za-z]|\\text\{[^{}]*\}|\\(?!text)[A-Za-z]+(?![A-Za-z]))"
# what may precede = as the name of the answer: x, f(x), x_1, |AB|, \angle ABC, P(A \cup B), Area, a:b
NAME = re.compile(
    rf"(?:\\(?:angle|overline|vec|hat|bar|triangle)\s*)?\|?{SYMBOL}(?:\s*{SYMBOL})*'*(?:_\{{[^{{}}]*\}}|_\w)?'*(?:\^\{{-1\}})?\|?"
    r"(?:\s*\([^()=]*\))?"
)
VARIABLE = re.compile(rf"{SYMBOL}(?:_\{{[^{{}}]*\}})?(?:\(\w\))?")


@dataclass(frozen=True)
class Group:
    """Parts in brackets: open and close are ( ) [ ] or \\{ \\}; both are empty for a list without brackets."""

    parts: tuple[str, ...]
    open: str = ""
    close: str = ""

    @property
    def is_ordered(self) -> bool:
        return self.open in ("(", "[", "]")


def signs(text: str) -> list[tuple[str, int, int]]:
    r"""The signs at the text's top level, with their bounds; \text{} is left whole."""
    depth, found = 0, []
    for match in SIGN.finditer(text):
        sign = match[0]
        if sign in OPENING or sign.startswith(r"\begin"):
            if depth == 0:
                found.append((sign, match.start(), match.end()))
            depth += 1
        elif sign in OPENING.values() or sign.startswith(r"\end"):
            depth -= 1
            if depth == 0:
                found.append((sign, match.start(), match.end()))
        elif depth == 0:
            found.append((sign, match.start(), match.end()))
    return found


def split(text: str, *separators: str) -> list[str]:
    """The text's parts between these signs at its top level."""
    parts, start = [], 0
    for sign, first, last in signs(text):
        if sign in separators:
            parts.append(text[start:first])
            start = last
    return [part.strip() for part in [*parts, text[start:]]]


def read_group(text: str) -> Group | None:
    """The text as a tuple, interval, set or list, or None if it is a single thing.

    A comma between groups of three digits belongs to a number outside of brackets, and inside them if the other commas
    are followed by a space.
    """
    text = text.strip()
    found = signs(text)
    if len(found) >= 2 and found[0][1] == 0 and found[-1][2] == len(text):
        first, last = found[0][0], found[-1][0]
        at_top = [sign for sign, _, _ in found[1:-1] if sign not in ("|", ":", "=") and not sign.startswith("\\text")]
        if first in ("(", "[", r"\{", r"\langle") and last in (")", "]", r"\}", r"\rangle") and not at_top:
            inner = text[found[0][2] : found[-1][1]].strip()
            parts = _elements(inner, is_in_brackets=True)
            brackets = ("(", ")") if first == r"\langle" else (first, last)
            if first == r"\{" or len(parts) > 1:
                return Group(tuple(parts), *brackets)
            return None
    parts = _elements(text, is_in_brackets=False)
    return Group(tuple(parts)) if len(parts) > 1 else None


def read_list(text: str) -> Group | None:
    """The text as a list in which every comma separates, so that 1,234 is two numbers."""
    parts = [part for part in split(text, ",", ";", "and", "or") if part]
    return Group(tuple(parts)) if len(parts) > 1 else None


def read_matrix(text: str) -> list[list[str]] | None:
    r"""The cells of a matrix in round or square brackets, by row; None for anything else (a vmatrix is a number)."""
    text = re.sub(r"^[(\[]\s*(?=\\begin)|(?<=\})\s*[)\]]$", "", text.strip())
    match = re.fullmatch(
        r"\\begin\{(?:[pb]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{[a-z]+\}", text, re.DOTALL
    )
    if match is None or r"\begin" in match[1]:
        return None
    rows = [
        row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-z])", match[1].replace(r"\hline", "")) if row.strip()
    ]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def without_name(text: str) -> tuple[str, str]:
    r"""The name that the text gives its answer (x in x = 5, and in x \in [0, 1]), or '', and the rest.

    In a chain of equalities the last part is the answer; approximately equal parts are left out if there are others.
    """
    text = without_builder(text)
    parts = split(text, r"\approx")
    if len(parts) > 1 and parts[0] and (len(parts) > 2 or not NAME.fullmatch(parts[0])):
        text = parts[0]
    sides = split(text.replace(r"\approx", "="), "=", r"\in")
    *condition, region = split(text, ":")
    if condition and (group := read_group(region)) and group.open:  # x > 1: (1, \infty)
        return "", region
    if (
        len(sides) < 2
        or any(not side for side in sides)
        or any(sign in ("<", ">", r"\le", r"\ge", r"\ne") for sign, *_ in signs(text))
    ):
        return "", text
    if len(sides) == 2 and _is_name(sides[1]) and not re.search("[A-Za-z]", sides[0]):
        sides = sides[::-1]  # 2 = x
    name = sides[0]
    if not any(re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", side)) for side in sides):
        return "", sides[-1]  # 3 + 4 = 7
    if not any(NAME.fullmatch(side) for side in sides[:-1]) and len(sides) > 2:
        return "", text
    if (
        _is_name(name)
        or len(sides) > 2
        or (_is_tuple_of_names(name))
        or re.fullmatch(r"\\frac\{[A-Z]{1,2}\}\{[A-Z]{1,2}\}", name)
    ):
        return re.sub(r"\s", "", name), sides[-1]
    ratio = re.fullmatch(rf"({NAME.pattern})\s*:\s*({NAME.pattern})", name)
    return (re.sub(r"\s", "", name), sides[-1]) if ratio else ("", text)


def as_intervals(text: str) -> list[Group] | None:
    r"""An inequality in one variable, or several joined by or, as the intervals that they describe; otherwise None."""
    intervals = []
    for part in split(text, "or"):
        sides = [_interval(side) for side in split(part, "and")]
        interval = sides[0] if len(sides) == 1 else _both(sides)
        if interval is None:
            return None
        intervals.append(interval)
    return intervals


def without_builder(text: str) -> str:
    r"""The condition in \{x : condition\}, or the text itself."""
    match = re.fullmatch(
        rf"\\\{{\s*({VARIABLE.pattern})(?:\s*\\in\s*\\mathbb\{{R\}})?\s*[|:]\s*((?:(?!\\\}}).)*)\\\}}", text.strip()
    )
    bare = re.fullmatch(rf"{VARIABLE.pattern}\s*\|\s*(.*(?:[<>]|\\[lgn]e ).*)", text.strip())
    return match[2].strip() if match else bare[1] if bare else text


def _interval(text: str) -> Group | None:
    found = [(sign, first, last) for sign, first, last in signs(text) if sign in ("<", ">", r"\le", r"\ge")]
    if not 1 <= len(found) <= 2:
        return None
    ends = [0, *(end for _, first, last in found for end in (first, last)), len(text)]
    sides = [text[ends[i] : ends[i + 1]].strip() for i in range(0, len(ends), 2)]
    kinds = [sign for sign, _, _ in found]
    if len(sides) == 3:
        if not VARIABLE.fullmatch(sides[1]) or len({sign in ("<", r"\le") for sign in kinds}) > 1:
            return None
        if kinds[0] in (">", r"\ge"):
            sides, kinds = sides[::-1], kinds[::-1]
        low, high = sides[0], sides[2]
        return Group((low, high), "(" if kinds[0] in "<>" else "[", ")" if kinds[1] in "<>" else "]")
    if VARIABLE.fullmatch(sides[1]) and not VARIABLE.fullmatch(sides[0]):
        sides, kinds = sides[::-1], [{"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}[kinds[0]]]
    if not VARIABLE.fullmatch(sides[0]) or not sides[1] or sides[0] in sides[1]:
        return None
    if kinds[0] in ("<", r"\le"):
        return Group((r"-\infty", sides[1]), "(", ")" if kinds[0] == "<" else "]")
    return Group((sides[1], r"\infty"), "(" if kinds[0] == ">" else "[", ")")


def _both(sides: Sequence[Group | None]) -> Group | None:
    """The interval that two inequalities describe together, if one is a lower and one an upper bound."""
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    low, high = sides if sides[0].parts[1] == r"\infty" else sides[::-1]
    assert low is not None and high is not None
    if low.parts[1] != r"\infty" or high.parts[0] != r"-\infty":
        return None
    return Group((low.parts[0], high.parts[1]), low.open, high.close)


def _elements(text: str, is_in_brackets: bool) -> list[str]:
    separators = [(sign, first, last) for sign, first, last in signs(text) if sign in (",", ";", "and", "or")]
    kinds = {sign for sign, _, _ in separators}
    if ";" in kinds and "," in kinds:  # p = 5, q = 2; p = 7, q = 2
        separators = [separator for separator in separators if separator[0] == ";"]
        return [f"({part})" if "," in part else part for part in _cut(text, separators)]
    is_spaced = any(sign == "," and text[last : last + 1] == " " for sign, _, last in separators)
    if not is_in_brackets or is_spaced:
        separators = [separator for separator in separators if not _groups_digits(text, *separator)]
    return _cut(text, separators)


def _groups_digits(text: str, sign: str, first: int, last: int) -> bool:
    return (
        sign == ","
        and bool(re.search(r"(?<![\d.])\d{1,3}(?:,\d{2,3})*$", text[max(0, first - 40) : first]))
        and bool(re.match(r"(?:\d{2},)*\d{3}(?!\d)", text[last:]))
    )


def _cut(text: str, separators: Sequence[tuple[str, int, int]]) -> list[str]:
    parts, start = [], 0
    for _, first, last in separators:
        parts.append(text[start:first])
        start = last
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _is_name(text: str) -> bool:
    return bool(NAME.fullmatch(text)) and text not in FUNCTIONS


def _is_tuple_of_names(text: str) -> bool:
    group = read_group(text)
    return group is not None and group.open == "(" and all(NAME.fullmatch(part) for part in group.parts)

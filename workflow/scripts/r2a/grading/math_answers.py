r"""Mathematical answers: which text is the final answer, and whether it equals the reference.

The order of METHOD section 2: string equality, then guards where a symbolic comparison is known to accept
wrong answers, then math-verify. Only `equality` imports math-verify and can hang: it is run in a worker.
"""

import logging
import re
from typing import Any

from r2a.grading.grader import MAX_CHARACTERS, MAX_DIGITS, Verdict
from r2a.traces import find_boxes

# what may stand between the boxes of one list
SEPARATOR = re.compile(r"(?:[\s,;$]|\b(?:and|or)\b|\\(?:[()\[\],;! ]|q?quad\b|text\{\s*(?:and|or)\s*\}))*")
NUMERAL_IN_BASE = re.compile(
    r"(?<![A-Za-z\\.\d])(\d[\dA-Z.]*|[A-Z][\dA-Z]+)\s*_\s*\{?\s*(?:\\(?:text|mathrm)\{)?\(?(\d+)\)?\}*"
)
PERCENT = re.compile(r"\\?%|\\text\{\s*percent\s*\}|\bpercent\b")
ASKS_FOR_FORM = re.compile(
    r"(?i)(?:^|[.,:;!?]\s*|\b(?:and|to|completely|fully|then)\s+)(?:factor(?:i[sz]e)?|expand)\b"
    r"|\b(?:factored|expanded|factori[sz]ed) form\b"
)
WORDS = re.compile(r"[A-Za-z]{3,}(?: +[A-Za-z]+)*")
INTEGER = re.compile(r"-?\d{1,18}")
TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|textit)\s*\{([^{}]*)\}")
DECORATION = re.compile(r"\\(?:left|right|displaystyle|[!,;: ])|\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\?\$|\s+|\.$")


def final_answer(answer_text: str) -> str | None:
    r"""The content of the last \boxed{}, or None where there is none.

    A run of last boxes with nothing between them but , ; and, or, $, \( \) \[ \] and spaces is one list, joined
    by commas (\text{and} and LaTeX spaces may stand there too); a box that repeats the one before counts once.
    """
    run: list[str] = []
    end = 0
    for box in find_boxes(answer_text):
        found = re.compile(r"\\boxed\s*\{" + re.escape(box) + r"\}").search(answer_text, end)
        assert found is not None
        if not SEPARATOR.fullmatch(answer_text, end, found.start()):
            run = []
        if not run or squeeze(run[-1]) != squeeze(box):
            run.append(box)
        end = found.end()
    return ", ".join(box.strip() for box in run) if run else None


def squeeze(text: str) -> str:
    """The text without white space, save between two digits (1 2 is not 12)."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def light_form(text: str) -> str:
    r"""The text without its LaTeX clothes (\text{}, \left, \$, degree signs, spaces), in lower case."""
    return DECORATION.sub("", TEXT.sub(r"\1", text)).casefold()


def is_plain(text: str) -> bool:
    """Whether the text is words or an integer, which need no parser."""
    return bool(WORDS.fullmatch(text.strip()) or INTEGER.fullmatch(text.strip()))


def asks_for_form(problem: str) -> bool:
    """Whether the problem wants an expression factored or expanded, so that equal value is not enough."""
    return bool(ASKS_FOR_FORM.search(problem))


def verdict_by_text(answer: str | None, reference: str) -> Verdict | None:
    """The verdict where texts alone decide, or None where the two have to be compared as mathematics.

    Numerals in a base are equal when digits and base are; a tuple never equals a set or a list; words and
    integers are compared as such; what is too large to be parsed is an error.
    """
    if answer is None:
        return Verdict(False, "no_box", None)
    if squeeze(answer) == squeeze(reference):
        return Verdict(True, "string", answer)
    if not answer.strip():
        return Verdict(False, "mismatch", answer)
    if len(answer) > MAX_CHARACTERS or re.search(rf"\d{{{MAX_DIGITS + 1}}}", answer):
        return Verdict(None, "error", answer)
    if NUMERAL_IN_BASE.search(answer) or NUMERAL_IN_BASE.search(reference):
        texts = [light_form(_with_plain_bases(text)) for text in (answer, reference)]
        return _by_equality(texts[0] == texts[1], answer)
    if {_kind(answer), _kind(reference)} in ({"tuple", "set"}, {"tuple", "list"}):
        return Verdict(False, "mismatch", answer)
    plain = TEXT.sub(r"\1", answer).strip(), TEXT.sub(r"\1", reference).strip()
    if all(INTEGER.fullmatch(text) for text in plain):
        return _by_equality(int(plain[0]) == int(plain[1]), answer)
    if all(is_plain(text) for text in plain):
        return _by_equality(light_form(plain[0]) == light_form(plain[1]), answer)
    return None


def _by_equality(is_equal: bool, answer: str) -> Verdict:
    return Verdict(is_equal, "normalised" if is_equal else "mismatch", answer)


def _with_plain_bases(text: str) -> str:
    """Every numeral in a base written as digits_base; base ten, the default, left out."""
    return NUMERAL_IN_BASE.sub(lambda m: m[1] if m[2] == "10" else f"{m[1]}_{m[2]}", text)


def _kind(text: str) -> str:
    r"""tuple for (a, b), [a, b] and the like, set for \{a, b\}, list for a, b, else something else.

    A list of equations is none of them: x = 1, y = 2 may well stand for (1, 2).
    """
    text = re.sub(r"\\left|\\right|\\[,;:! ]|\{,\}|\s", "", text).replace("\\langle", "(").replace("\\rangle", ")")
    text = text.replace("\\{", "\x01").replace("\\}", "\x02")
    depth, closed, commas = 0, 0, {0: 0, 1: 0}
    for position, character in enumerate(text):
        if character in "([{\x01":
            depth += 1
        elif character in ")]}\x02":
            depth -= 1
            closed += depth == 0 and position < len(text) - 1
        elif character == "," and depth in commas and not re.match(r",\d{3}(?!\d)", text[position:]):
            commas[depth] += 1
    if commas[0]:
        return "other" if "=" in text else "list"
    if commas[1] and not closed and text[0] in "([\x01":
        return "set" if text[0] == "\x01" else "tuple"
    return "other"


def without_percent(answer: str, reference: str, problem: str) -> tuple[str, str]:
    r"""Answer and reference with percent signs resolved: math-verify takes 10\% for 10 and for 0.1 alike.

    Where both have the sign, or the problem asks in percent (or is not known), the sign goes; else a lone
    percentage becomes a fraction of a hundred.
    """
    signs = [bool(PERCENT.search(text)) for text in (answer, reference)]
    bare = [PERCENT.sub("", text).strip() for text in (answer, reference)]
    if signs[0] != signs[1] and problem and not PERCENT.search(problem) and "," not in bare[signs.index(True)]:
        lone = signs.index(True)
        bare[lone] = rf"\frac{{{bare[lone]}}}{{100}}"
    return bare[0], bare[1]


def load_math_verify() -> None:
    """Import what `equality` needs (half a second or more)."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns that its own alarm is off
    import math_verify  # noqa: F401


def equality(answer: str, reference: str, is_form_asked: bool = False) -> str:
    """How an answer compares with the reference: equal, different, answer_unparsed or reference_unparsed.

    is_form_asked: equal expressions must have as many factors and terms, too. May hang, crash or eat memory:
    run it in a worker. math-verify's own alarms are off, as they cannot interrupt C code.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    parsed = [
        parse(f"\\boxed{{{text}}}", targets, parsing_timeout=None, raise_on_error=True) for text in (reference, answer)
    ]
    for texts, which in zip(parsed, ("reference", "answer"), strict=True):
        if all(isinstance(found, str) for found in texts):
            return f"{which}_unparsed"
    if not verify(*parsed, timeout_seconds=None, raise_on_error=True):
        return "different"
    if is_form_asked and _shape(parsed[0][0]) != _shape(parsed[1][0]):
        return "different"
    return "equal"


def _shape(expression: Any) -> tuple[int, int]:
    """The number of factors that are no numbers, powers counted, and of terms."""
    import sympy  # type: ignore[import-untyped]

    def n_factors(part: Any) -> int:
        if part.is_number:
            return 0
        if part.is_Mul:
            return sum(n_factors(factor) for factor in part.args)
        if part.is_Pow and part.exp.is_Integer:
            return abs(int(part.exp)) * n_factors(part.base)
        return 1

    def n_terms(part: Any) -> int:
        return sum(n_terms(term) for term in part.args) if part.is_Add else 1

    if not isinstance(expression, sympy.Expr):
        return 1, 1
    return n_factors(expression), n_terms(expression)

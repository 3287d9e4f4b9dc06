r"""Comparison of two written texts as mathematics, by sympy and math-verify; slow and may hang, so run it in a worker.

Values are compared by sympy's adaptive evaluation, which gives the leading digits of any difference, so that
9 \times 10^{-31} and 2 \times 10^{-27} differ, and two forms of one value agree to a hundred digits.
"""

import logging
import random
import re
from typing import Any

from r2a.grading.comparison import Comparison
from r2a.grading.notation import written
from r2a.grading.numbers import read_number
from r2a.grading.quantities import TRIGONOMETRIC

ASKS_FOR_FORM = re.compile(
    r"(?i)(?:^|[.,:;!?]\s*|\b(?:and|to|completely|fully|then)\s+)(?:factor(?:i[sz]e)?|expand)\b"
    r"|\b(?:factored|expanded|factori[sz]ed) form\b"
)
# i is an index or an integer if it counts something
INDEX = re.compile(r"_\s*\{?\s*[^{}\s]*i|(?<![A-Za-z])i\s*(?:=|\\in|\\le|\\ge|<|>)|\binteger s?\$?i\b|\bindex i\b")
N_POINTS, N_DIGITS, MAX_CANCELLED = 6, 15, 120


class Unread(Exception):
    """A text cannot be read as mathematics; its argument says which: answer or reference."""


def load_sympy() -> None:
    """Import what `equality` needs (half a second or more)."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns that its own alarm is off
    import math_verify  # noqa: F401


def asks_for_form(problem: str) -> bool:
    """Whether the problem asks for a factored or expanded expression, so that equal value is not enough."""
    return bool(ASKS_FOR_FORM.search(problem))


def equality(answer: str, reference: str, problem: str = "") -> str:
    """How an answer compares with the reference: equal, different, answer_unparsed or reference_unparsed."""
    i_is_index = bool(INDEX.search(f"{problem} {reference} {answer}"))
    is_form_asked = asks_for_form(problem)

    def symbolic(found: str, wanted: str) -> bool:
        return same_mathematics(found, wanted, is_form_asked, i_is_index)

    try:
        is_same = Comparison(problem, symbolic).same(written(answer), written(reference))
    except Unread as unread:
        return f"{unread.args[0]}_unparsed"
    return "equal" if is_same else "different"


def is_readable(text: str) -> bool:
    """Whether a written text can be read as mathematics."""
    try:
        return _parsed(text, "reference", is_case_kept=False) is not None
    except Unread:
        return False


def same_mathematics(answer: str, reference: str, is_form_asked: bool = False, i_is_index: bool = False) -> bool:
    """Whether two written texts are mathematically equal.

    is_form_asked: equal expressions must also have the same number of factors and terms. Raises Unread if a text cannot
    be read.
    """
    import sympy  # type: ignore[import-untyped]

    is_case_kept = bool(_cases(answer + reference))
    wanted = _parsed(reference, "reference", is_case_kept)
    found = _parsed(answer, "answer", is_case_kept)
    if not i_is_index:
        wanted, found = (_with_imaginary_unit(part) for part in (wanted, found))
    if isinstance(wanted, sympy.Expr) and isinstance(found, sympy.Expr):
        if not _same_value(found, wanted, answer, reference):
            return False
        return not is_form_asked or _shape(found) == _shape(wanted)
    if isinstance(wanted, sympy.Eq) and isinstance(found, sympy.Eq):
        return _same_equation(found, wanted)
    if {sympy.Expr, sympy.Eq} == {
        next((kind for kind in (sympy.Expr, sympy.Eq) if isinstance(side, kind)), None) for side in (found, wanted)
    }:
        return False  # a value and an equation that is not its name
    return _verified(found, wanted)


def _parsed(text: str, which: str, is_case_kept: bool) -> Any:
    from latex2sympy2_extended import latex2sympy  # type: ignore[import-untyped]
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig  # type: ignore[import-untyped]

    if _is_no_mathematics(text):
        raise Unread(which)
    try:
        parsed = latex2sympy(
            _prepared(text),
            is_real=None,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=not is_case_kept),
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # the parser may raise anything
        raise Unread(which) from error
    if parsed is None:
        raise Unread(which)
    return parsed


def _is_no_mathematics(text: str) -> bool:
    """Whether the parser would misread the text: 1 2 as 3, dots as nothing, unbalanced braces, sentences."""
    balanced = text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    without_commands = re.sub(r"\\[A-Za-z]+(?:\{[a-z]*matrix\})?|\\text\{[^{}]*\}", " ", text)
    is_sentence = bool(re.search(r"[a-z]{4}|@", without_commands))
    return not balanced or is_sentence or bool(re.search(r"\d +\d|\\ldots|[?!]{2}|\?", text)) or not text.strip()


def _prepared(text: str) -> str:
    """Decimals as exact fractions, words as symbols, primes as indices."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![\d.])(\d*)\.(\d+)", _as_fraction, text)
    text = re.sub(r"([A-Za-z])('+)", lambda match: f"{match[1]}_{{{'p' * len(match[2])}}}", text)
    if TRIGONOMETRIC.search(text):
        text = re.sub(r"(\d+|\([^()]*\))\s*\^\\circ(?![A-Za-z])", r"(\\frac{\\pi}{180}\\cdot \1)", text)
    text = re.sub(r"\^\\circ(?![A-Za-z])", "", text)
    return text.replace("%", "").replace(r"\$", "")


def _as_fraction(match: re.Match[str]) -> str:
    return rf"(\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}})"


def _cases(text: str) -> set[str]:
    """Letters that occur in the text in both cases, so that case distinguishes them."""
    letters = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", text)))
    single = {letter for word in letters for letter in word}
    return {letter for letter in single if letter.islower() and letter.upper() in single}


def _with_imaginary_unit(expression: Any) -> Any:
    import sympy

    if not hasattr(expression, "free_symbols"):
        return expression
    return expression.subs({symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"})


def _same_value(found: Any, wanted: Any, answer: str, reference: str) -> bool:
    """Whether two expressions have the same value; with unknowns, at each of several points."""
    import sympy

    if found == wanted:
        return True
    found, wanted = (
        part.doit() if part.has(sympy.Sum, sympy.Product, sympy.Integral) else part for part in (found, wanted)
    )
    symbols = sorted(found.free_symbols | wanted.free_symbols, key=lambda symbol: symbol.name)
    if not symbols:
        return _is_zero(found - wanted) or _rounds(found, wanted, answer, reference)
    verdicts: dict[bool, list[bool]] = {True: [], False: []}  # by whether both values are real
    for point in _points(symbols):
        values = [part.subs(point).doit() for part in (found, wanted)]
        numbers = [value.evalf(N_DIGITS) for value in values]
        if any(not number.is_number or not number.is_finite for number in numbers):
            continue
        is_real = all(abs(sympy.im(number)) < 1e-12 for number in numbers)
        verdicts[is_real].append(_is_zero(values[0] - values[1]))
    decided = verdicts[True] if len(verdicts[True]) > 1 else verdicts[True] + verdicts[False]
    if decided:
        return all(decided)
    return bool(sympy.simplify(found - wanted) == 0)


def _points(symbols: list[Any]) -> list[dict[Any, Any]]:
    import sympy

    rng = random.Random(0)
    return [
        {symbol: sympy.Rational(sign * rng.randint(3, 97), rng.randint(3, 29)) for symbol in symbols}
        for sign in (1, 1, 1, -1, -1, 1)[:N_POINTS]
    ]


def _is_zero(difference: Any) -> bool:
    """Whether a number is 0: exactly, or because about a hundred digits cancel."""
    import sympy

    difference = difference.doit()
    if difference == 0:
        return True
    value = difference.evalf(N_DIGITS, maxn=MAX_CANCELLED)
    if not value.is_number or value in (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return False
    return all(part == 0 or getattr(part, "_prec", None) == 1 for part in value.as_real_imag())


def _rounds(found: Any, wanted: Any, answer: str, reference: str) -> bool:
    """Whether one text is a decimal of enough digits and the other's value rounds to it."""
    for text, other, exact in ((answer, reference, wanted), (reference, answer, found)):
        number = read_number(text)
        if number is None or not number.may_be_rounded or read_number(other) is not None:
            continue
        value = exact.evalf(len(text) + 10)
        if value.is_Float and number.rounds(_fraction(value)):
            return True
    return False


def _fraction(value: Any) -> Any:
    from fractions import Fraction

    import sympy

    rational = sympy.Rational(str(value))
    return Fraction(int(rational.p), int(rational.q))


def _same_equation(found: Any, wanted: Any) -> bool:
    """Whether two equations are equivalent: their differences have a constant ratio, or their solutions are equal."""
    differences = [equation.lhs - equation.rhs for equation in (found, wanted)]
    if differences[0].free_symbols != differences[1].free_symbols:
        return False
    symbols = sorted(differences[0].free_symbols, key=lambda symbol: symbol.name)
    if not symbols:
        return False
    ratios = []
    for point in _points(symbols):
        mine, theirs = (difference.subs(point).doit() for difference in differences)
        if mine.is_number and theirs.is_number and mine.is_finite and theirs.is_finite and not _is_zero(theirs):
            ratios.append(mine / theirs)
    if len(ratios) > 1 and not _is_zero(ratios[0]) and all(_is_zero(ratio - ratios[0]) for ratio in ratios[1:]):
        return True
    if len(symbols) > 1 and len(ratios) > 1:
        return False
    return _verified(found, wanted)


def _verified(found: Any, wanted: Any) -> bool:
    """math-verify's decision on sets, relations and anything else that is not a plain expression."""
    from math_verify import verify

    return bool(
        verify(
            [wanted],
            [found],
            float_rounding=30,
            numeric_precision=40,
            timeout_seconds=None,
            allow_set_relation_comp=True,
        )
    )


def _shape(expression: Any) -> tuple[int, int]:
    """The number of factors other than numbers, with multiplicity, and the number of terms."""
    import sympy

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

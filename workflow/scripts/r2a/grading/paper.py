r"""The paper's grading, for replication: a rewrite of what its code does, including its known faults.

Boxes with more than one level of braces inside are not found; only the last box counts; order matters in lists;
\mbox units stay; a fraction's numerator loses its brackets; fractions must be reduced. The authors took normalisation
and comparison from the graders of Hendrycks et al., 2021 (MATH), and Lightman et al., 2023 (PRM800K).
"""

import re
from typing import Any

from r2a.extensions import grader
from r2a.grading.grader import MAX_CHARACTERS, Attempt, Grader, Verdict, undecided, unread
from r2a.grading.workers import Outcome

BOX = re.compile(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
WHOLE_TEXT = re.compile(r"^\\text\{(.+?)\}$")
UNITS = (
    "degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week", "month", "year",
    "foot", "feet", "inch", "yard",
)  # fmt: skip
SCALES = {"million": "*10^6", "billion": "*10^9", "trillion": "*10^12"}
SYMBOLS = {
    r"\pi": "pi", r"\infty": "inf", r"\cup": "U", r"\cdot": "*", r"\times": "*", r"\begin{pmatrix}": "[",
    r"\end{pmatrix}": "]", "\\\\": ";", "&": " ", r"\left": "", r"\right": "", r"\circ": "o",
}  # fmt: skip
THOUSANDS = re.compile(r"(\d),(\d\d\d)(?=$|\D)")
EVALUABLE = re.compile(r"[A-Za-z0-9+\-*/^()., !]*")  # anything else would not parse, or is not mathematics
MAX_UNKNOWN_LETTERS = 2


def paper_answer(answer_text: str) -> str | None:
    """The last box that the authors' expression finds, or None."""
    boxes = BOX.findall(answer_text)
    return boxes[-1] if boxes else None


def latex_form(text: str) -> str:
    """The first normal form: one spelling for LaTeX variants of the same thing."""
    text = text.strip()
    if whole := WHOLE_TEXT.match(text):
        text = whole[1].strip()
    for old, new in (
        ("\n", ""), (r"\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), (r"\left", ""), (r"\right", ""),
        (r"^{\circ}", ""), (r"^\circ", ""), (r"\$", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    text = text.split(r"\text{ ")[0]  # a unit on the right
    text = text.replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = f"0{text}"
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{}])(?:([^{}])|(?=\{))", _braced_fraction, text)
    if text == "0.5":
        return r"\frac{1}{2}"
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)


def plain_form(text: str) -> str:
    """The second normal form: an arithmetic expression without units, signs and LaTeX."""
    if whole := WHOLE_TEXT.match(text):
        text = whole[1]
    for old in (r"\%", r"\$", "$", "%"):
        text = text.replace(old, "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for scale, power in SCALES.items():
        text = text.replace(scale, power)
    for unit in UNITS:
        text = re.sub(rf"{unit}(es)?(s)? *(\^[0-9]+)?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    number = _float(text)
    if number is not None and number.is_integer():
        text = str(int(number))
    if "\\" in text:
        text = _without_latex(text)
    text = re.sub("- *", "-", text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", text)  # a mixed number
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    number = _float(_without_thousands(text))
    return str(int(number)) if number is not None and number.is_integer() else text


def compare(answer: str, reference: str) -> str:
    """How the authors' grader matches the answer with the reference: normalised, sympy, or different."""
    if latex_form(answer) == latex_form(reference):
        return "normalised"
    found, wanted = plain_form(answer), plain_form(reference)
    if found == wanted:
        return "normalised"
    found_parts, wanted_parts = _parts(found), _parts(wanted)
    if not found or len(found_parts) != len(wanted_parts):
        return "different"
    if len(wanted_parts) > 1 and (found[0], found[-1]) != (wanted[0], wanted[-1]):
        return "different"
    pairs = zip(found_parts, wanted_parts, strict=True)
    return "sympy" if all(_is_equal_part(*pair) for pair in pairs) else "different"


def _is_equal_part(found: str, wanted: str) -> bool:
    if all(re.fullmatch(r"-?[0-9]+.?/0*[1-9][0-9]*.?", part) for part in (found, wanted)):
        return found == wanted  # fractions must be reduced
    if _is_integer(found) != _is_integer(wanted):
        return False
    return _is_zero(f"({wanted})-({found})")


def _is_zero(expression: str) -> bool:
    """Whether sympy simplifies the expression to 0; False for an expression that the authors' filter excludes."""
    from sympy import simplify
    from sympy.parsing import sympy_parser

    letters = set(re.findall("[a-z]", expression.replace("sqrt", "").replace("frac", "")))
    if len(letters) > MAX_UNKNOWN_LETTERS or not EVALUABLE.fullmatch(expression):
        return False
    if re.search(r"\^\(|\^[0-9]+\^|\^[0-9][0-9]+", expression):
        return False
    transformations = (
        *sympy_parser.standard_transformations,
        sympy_parser.implicit_multiplication_application,
    )
    try:
        return bool(
            simplify(sympy_parser.parse_expr(expression.replace("^", "**"), transformations=transformations)) == 0
        )
    except MemoryError:
        raise
    except Exception:  # as in the authors' code, expressions that do not parse are not equal
        return False


def _braced_fraction(match: re.Match[str]) -> str:
    denominator = f"{{{match[2]}}}" if match[2] else ""
    return rf"\frac{{{match[1]}}}{denominator}"


def _without_latex(text: str) -> str:
    """Replace commands by what they look like; fractions become a/b and lose their brackets."""
    text = text.replace(r"\tfrac", r"\frac").replace(r"\dfrac", r"\frac").replace(r"\frac", r" \frac")
    text = re.sub(r"\\sqrt\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\w))", lambda m: f"sqrt({m[1] or m[2]})", text)
    text = re.sub(r"\\frac\s*(\w)\s*(\w)", r"\1/\2", text)
    argument = r"(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\w))"
    text = re.sub(rf"\\frac\s*{argument}\s*{argument}", lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", text)
    for command, symbol in SYMBOLS.items():
        text = text.replace(command, symbol)
    text = re.sub(r"\\(?:text|mbox|mathrm|mathbf|textbf|begin|end)(?=\{)", "", text)
    return re.sub(r"\\(?:([a-z]+)|.)", lambda m: m[1] or " ", text).strip()


def _parts(text: str) -> list[str]:
    """The elements of a tuple or interval in plain form; any other text is one element."""
    text = _without_thousands(text)
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and not set(text[1:-1]) & set("()[]"):
        return [part.strip() for part in text[1:-1].split(",")]
    return [text]


def _without_thousands(text: str) -> str:
    while (shorter := THOUSANDS.sub(r"\1\2", text)) != text:
        text = shorter
    return text


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None


def _is_integer(text: str) -> bool:
    number = _float(_without_thousands(text))
    return number is not None and number.is_integer()


def _read(attempt: Attempt) -> Verdict | tuple[Any, ...]:
    answer = paper_answer(attempt.answer_text)
    verdict = unread(attempt, answer)
    if verdict is not None:
        return verdict
    if answer is None:
        return Verdict(False, "no_box", None)
    if answer == attempt.reference:
        return Verdict(True, "string", answer)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(None, "error", answer)
    return answer, attempt.reference


def _decide(attempt: Attempt, outcome: Outcome) -> Verdict:
    answer = paper_answer(attempt.answer_text)
    if outcome.status != "done":
        return undecided(outcome, answer)
    is_equal = outcome.value != "different"
    return Verdict(is_equal, outcome.value if is_equal else "mismatch", answer)


def _load_sympy() -> None:
    import sympy  # type: ignore[import-untyped]  # noqa: F401


@grader(label="as in the paper")
def paper() -> Grader:
    """As in the paper."""
    return Grader(_load_sympy, _read, compare, _decide)

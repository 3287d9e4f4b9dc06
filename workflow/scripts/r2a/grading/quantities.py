"""Quantities: a value with its unit, scale (million) or currency, and the units that a question asks for."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import prod

from r2a.grading.notation import words_of
from r2a.grading.numbers import read_number
from r2a.grading.units import NOTHING, SCALES, TABLE, Unit, factor_between, read_unit

MAX_CHARACTERS = 400  # of a quantity
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
SCALE_WORDS = "|".join(f"{word}s?" for word in SCALES)
CURRENCY = re.compile(
    r"(?P<before>[+-]?)\s*(?:\\text\{\s*)?(?P<name>US\\?\$|\\?\$|[€£¥₹]|(?:Rs\.?|USD)(?![A-Za-z]))\s*\}?"
    r"\s*(?P<after>[+-]?)\s*(?=[\d.\\(])"
)
SCALE = re.compile(
    rf"\s*(?:\\text\{{\s*)?((?:{SCALE_WORDS})(?:\s+(?:{SCALE_WORDS}))*)(?![A-Za-z])(\s*\}})?", re.IGNORECASE
)
PERCENT = re.compile(
    r"\s*(?:%|\\text\{\s*(?:percent(?:age)?|per cent|pct)\s*\}"
    r"|(?<![A-Za-z])(?:percent(?:age)?|per cent|pct)(?![A-Za-z]))"
)
ASKED_IN = re.compile(
    r"(?i)\b(?:how many|how much in|in terms of|number of|express(?:ed)? in|measured in|nearest|in) "
    r"((?:(?:square|cubic|whole|full) )?[a-z]+(?: (?:per|squared|cubed)(?: [a-z]+)?)?)"
)
# where a unit may start: a command for text, a fraction of texts, a degree sign, a letter after something else
STARTS = re.compile(
    r"\\text\{|\\frac\{\s*\\text|\^\\circ|\\mu|\\\$|[€£¥₹¢]|/\s*\\text|/\s*(?=[A-Za-z])"
    r"|(?<![A-Za-z\\{])[A-Za-z]|[\u4e00-\u9fff]|\(\s*(?:\\text|[A-Za-z])"
)


@dataclass(frozen=True)
class Quantity:
    """The written text of a value, the power of ten that a word gives, if any, and the unit, if any."""

    value: str
    unit: Unit | None = None
    scale: str = ""
    is_percent: bool = False

    @property
    def factor(self) -> Fraction:
        """The factor that the scale's words stand for."""
        return prod((Fraction(SCALES[word]) for word in self.scale.split()), start=Fraction(1))


@lru_cache(maxsize=4096)
def read_quantity(text: str) -> Quantity:
    """The value, scale and unit in a written text; without a unit, the whole text is the value."""
    currency = None
    if len(text) > MAX_CHARACTERS:
        return Quantity(text)
    if match := CURRENCY.match(text):
        currency = TABLE[match["name"].replace("\\", "")]
        text = ("-" if "-" in match["before"] + match["after"] else "") + text[match.end() :]
    if (match := PERCENT.search(text)) and not text[match.end() :].strip():
        return Quantity(text[: match.start()].strip(), currency, is_percent=True)
    for match in STARTS.finditer(text):
        value, rest = text[: match.start()].strip(), text[match.start() :]
        if match[0] == r"^\circ" and TRIGONOMETRIC.search(value):
            continue  # sin 30° is not a quantity of 30 degrees
        if not value or not re.search(r"[\d}\])A-Za-z|!]$", value) or value in ("+", "-"):
            continue
        found = SCALE.match(rest)
        scale = re.sub(r"s\b", "", found[1].lower()) if found else ""
        after = rest[found.end() :] if found else rest
        if found and not found[2] and rest.lstrip().startswith(r"\text{"):
            after = r"\text{" + after
        if not after.strip(" {}"):
            return Quantity(value, currency, scale)
        unit = read_unit(after)
        is_apart = text[match.start() - 1] == " "
        if unit is None or unit == NOTHING or not _may_be_unit(value, after, unit, is_apart):
            continue
        return Quantity(value, currency or unit, scale)
    return Quantity(text.strip(), currency)


def read_sum(text: str) -> Quantity | None:
    """Several quantities that add up (5 hours and 30 minutes, 6 ft 2 in), in the first one's unit; otherwise None."""
    parts = re.findall(r"(\d[\d.,]*)\s*([A-Za-z.]+)(?:\s*,?\s*(?:and\s+)?|$)", words_of(text))
    if len(parts) < 2 or not re.fullmatch(r"(?:\d[\d.,]*\s*[A-Za-z.]+(?:\s*,?\s*(?:and\s+)?|$))+", words_of(text)):
        return None
    units = [TABLE.get(unit) or TABLE.get(unit.lower().rstrip(".")) for _, unit in parts]
    first = units[0]
    if first is None or any(unit is None or unit.powers != first.powers for unit in units):
        return None
    if any(earlier.factor <= later.factor for earlier, later in pairwise(units)):  # type: ignore[union-attr]
        return None  # 5 minutes, 2 hours: a list
    total = Fraction(0)
    for (digits, _), unit in zip(parts, units, strict=True):
        number = read_number(digits.rstrip(",."))
        if number is None or unit is None:
            return None
        total += number.value * unit.factor / first.factor
    return Quantity(f"{total.numerator}/{total.denominator}", first)


@lru_cache(maxsize=1024)
def asked_units(problem: str) -> tuple[Unit, ...]:
    """The units in which a problem asks for its answer, as far as the table knows them."""
    found = []
    for match in ASKED_IN.finditer(words_of(problem)):
        words = match[1].split()
        for n_words in range(len(words), 0, -1):
            unit = read_unit(" ".join(words[:n_words]))
            if unit is not None and unit != NOTHING and not unit.is_counted and len(words[-1]) > 1:
                found.append(unit)
                break
    return tuple(dict.fromkeys(found))


def asks_in_percent(problem: str) -> bool:
    """Whether the problem mentions percent other than as a number of percent: what percent, as a percentage."""
    return bool(re.search(r"(?i)(?<![\d}\\$])(?<![\d}$] )(?:%|\bper ?cent|\bpct\b)", problem))


def unit_factor(found: Quantity, wanted: Quantity, problem: str) -> Fraction | None:
    """The factor from the found value's unit to the wanted one; None if the units conflict.

    If only one has a unit, it counts for both, unless the problem asks for another unit: then a value without a unit is
    in the requested one.
    """
    if found.unit is not None and wanted.unit is not None:
        return factor_between(found.unit, wanted.unit)
    if found.unit is None and wanted.unit is None:
        return Fraction(1)
    unit = found.unit or wanted.unit
    assert unit is not None
    asked = asked_units(problem)
    if wanted.unit is not None or not asked or unit in asked or unit.is_counted:
        return Fraction(1)
    convertible = [factor for other in asked if (factor := factor_between(unit, other)) is not None]
    if convertible:
        return convertible[0]
    return Fraction(1) if _is_of_another_kind(unit, asked, problem) else None


def _is_of_another_kind(unit: Unit, asked: tuple[Unit, ...], problem: str) -> bool:
    """Whether the requested units say nothing about this one: several kinds, or no power of the same bases."""
    bases, asked_bases = ({base for base, _ in other.powers} for other in (unit, asked[0]))
    is_other_angle = bases | asked_bases == {"degree", "radian"}
    is_counted = bool(re.search(r"(?i)\bhow many\b", problem))  # sides in inches may have an area in square inches
    return not is_other_angle and (len(asked) > 1 or bases != asked_bases or not is_counted)


def _may_be_unit(value: str, text: str, unit: Unit, is_apart: bool) -> bool:
    r"""Whether letters after a value are its unit: always in \text{}, otherwise words, or symbols after a space."""
    if r"\text" in text or r"^\circ" in text or re.search(r"[€£¥₹$]|[\u4e00-\u9fff]", text):
        return True
    is_number = read_number(value) is not None
    word = re.match(r"[/(]?\s*([A-Za-z]+)", text)
    if word is None or not is_number:
        return (is_number and word is not None) or bool(word and len(word[1]) > 3 and not unit.is_counted)
    if unit.is_counted:
        return bool(re.search("[A-Za-z]{3}", text))
    return is_apart or len(word[1]) > 1 or bool(re.fullmatch(r"m\s*\^\{?[23]\}?", text))

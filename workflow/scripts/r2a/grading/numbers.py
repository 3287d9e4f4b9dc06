r"""Exact numbers in any notation: 1 000, 2\frac{1}{3}, 1.5 \times 10^{-3}, 0.\overline{3}, five.

All arithmetic uses fractions of integers, so comparisons are exact at any size.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_DIGITS = 256  # numbers with more digits are not computed
N_ROUNDED_DIGITS = 6  # a number with so many significant decimals may stand for the number that it rounds
N_DOUBLE_DIGITS = 16  # of a floating-point number in double precision
DIGITS = r"(?:[1-9]\d{0,2}(?:[,' ]\d{3})+(?!\d)|[1-9]\d?(?:,\d{2})+,\d{3}(?!\d)|\d+)"
DECIMAL = re.compile(rf"({DIGITS})(?:\.(\d*))?|\.(\d+)")
EUROPEAN = re.compile(r"(\d{1,3}(?:[. ]\d{3})+),(\d+)|(\d{1,3}(?:\.\d{3}){2,})|(\d+),(\d{1,2}|\d{4,})|(0),(\d+)")
REPEATING = re.compile(
    rf"({DIGITS})?\.(\d*?)(?:\\(?:overline|bar|overbar)\{{(\d+)\}}(?:\\ldots)?|\((\d+)\)"
    r"|\\dot\{?(\d)\}?(?:(\d*)\\dot\{?(\d)\}?)?)"
)
FRACTION = re.compile(rf"\\frac\{{\s*(-?\s*{DIGITS})\s*\}}\{{\s*(-?\s*{DIGITS})\s*\}}|({DIGITS})\s*/\s*(-?\s*{DIGITS})")
MIXED = re.compile(r"(\d+)\s*(?:\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}|\s(\d+)\s*/\s*(\d+))")
POWER_OF_TEN = re.compile(
    r"(.*?)\s*(?:\\times|\\cdot|[xX])\s*10\s*\^\s*\{?\s*([+-]?\d{1,4})\s*\}?|(.*?)[eE]([+-]?\d{1,4})"
)
SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
]  # fmt: skip
NUMBER_WORDS = {word: value for value, word in enumerate(SMALL)} | {
    word: 10 * value for value, word in enumerate(TENS, 2)
}
PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10,
}  # fmt: skip
CHINESE = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"\u3007": 0, "两": 2}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}


@dataclass(frozen=True)
class Number:
    """An exact number and, if it is written as a decimal, the number of digits after its point."""

    value: Fraction
    n_decimals: int | None = None

    @property
    def may_be_rounded(self) -> bool:
        """Whether the number has enough digits to stand for one that it rounds."""
        if self.n_decimals is None:
            return False
        n_digits = N_ROUNDED_DIGITS
        return self.n_decimals >= n_digits and abs(self.value) * 10**self.n_decimals >= 10 ** (n_digits - 1)

    def rounds(self, value: Fraction) -> bool:
        """Whether the digits are those of the value, rounded or truncated."""
        assert self.n_decimals is not None
        scaled, own = abs(value) * 10**self.n_decimals, abs(self.value) * 10**self.n_decimals
        if (value < 0) != (self.value < 0):
            return False
        if own >= 10 ** (N_DOUBLE_DIGITS - 1):  # as a program prints it: the last digit may be off by one
            return abs(own - scaled) <= 1
        return own in (int(scaled), int(scaled + Fraction(1, 2)))


@lru_cache(maxsize=4096)
def read_number(text: str) -> Number | None:
    """The number in a written text, or None if it is not certainly a number or has too many digits."""
    text = text.strip()
    if len(text) > 3 * MAX_DIGITS or re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        return None
    while text.startswith("(") and text.endswith(")") and not set("()") & set(text[1:-1]):
        text = text[1:-1].strip()
    sign = 1
    if match := re.match(r"[+-]\s*|(?:\\text\{\s*)?(?:minus|negative)\s+|负", text, re.IGNORECASE):
        sign = 1 if match[0][0] == "+" else -1
        text = text[match.end() :]
        if text[:1] in "+-":
            return None
    number = _unsigned(text)
    return None if number is None else Number(sign * number.value, number.n_decimals)


def same_number(found: Number, wanted: Number) -> bool:
    """Whether two numbers are equal, or a decimal of at least six places rounds the other, which is no decimal."""
    if found.value == wanted.value:
        return True
    return any(
        decimal.may_be_rounded and exact.n_decimals is None and decimal.rounds(exact.value)
        for decimal, exact in ((found, wanted), (wanted, found))
    )


def decimal_comma(text: str) -> Number | None:
    """The number if a comma is its decimal point and points group its digits (1.234,56), otherwise None."""
    match = re.fullmatch(r"([+-]?)\s*(.*)", text.strip(), re.DOTALL)
    assert match is not None
    found = EUROPEAN.fullmatch(match[2])
    if not found:
        return None
    whole = next(part for part in (found[1], found[3], found[4], found[6]) if part is not None)
    whole = re.sub(r"[. ]", "", whole)
    decimals = found[2] or found[5] or found[7] or ""
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    return Number(-value if match[1] == "-" else value, len(decimals))


def _unsigned(text: str) -> Number | None:
    if match := DECIMAL.fullmatch(text):
        whole = re.sub(r"\D", "", match[1] or "") or "0"
        decimals = match[2] or match[3] or ""
        n_decimals = len(decimals) if decimals else None
        return Number(Fraction(int(whole + decimals), 10 ** len(decimals)), n_decimals)
    if match := MIXED.fullmatch(text):
        units, top, bottom = (int(part) for part in match.groups() if part is not None)
        return Number(units + Fraction(top, bottom)) if 0 < top < bottom else None
    if match := FRACTION.fullmatch(text):
        top, bottom = (int(re.sub(r"[^\d-]", "", part)) for part in match.groups() if part is not None)
        return Number(Fraction(top, bottom)) if bottom else None
    if match := REPEATING.fullmatch(text):
        between = match[5] + match[6] + match[7] if match[7] else match[5]
        return _repeating(match[1] or "0", match[2], match[3] or match[4] or between)
    if text.endswith(r"\ldots") and (match := re.fullmatch(rf"({DIGITS})?\.(\d+)\s*\\ldots", text)):
        return _continued(match[1] or "0", match[2])
    if match := POWER_OF_TEN.fullmatch(text):
        factor = read_number(match[1] if match[1] is not None else match[3])
        exponent = int(match[2] or match[4])
        if factor is None or (match[3] is not None and abs(exponent) > MAX_DIGITS):
            return None
        return Number(factor.value * Fraction(10) ** exponent)
    if match := re.fullmatch(r"10\^\{\s*([+-]?\d{1,4})\s*\}", text):
        return Number(Fraction(10) ** int(match[1]))
    return _in_words(text)


def _repeating(whole: str, first: str, again: str) -> Number:
    start = Fraction(int(re.sub(r"\D", "", whole) + first), 10 ** len(first))
    return Number(start + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(first)))


def _continued(whole: str, digits: str) -> Number | None:
    """0.1666... continues with its last digits: one digit written three times, or several written twice."""
    for length in range(1, len(digits) // 2 + 1):
        again = digits[-length:]
        n_times = 3 if length == 1 else 2
        if len(digits) >= length * n_times and digits.endswith(again * n_times):
            return _repeating(whole, digits[:-length], again)
    cut_off = Number(Fraction(int(re.sub(r"\D", "", whole) + digits), 10 ** len(digits)), len(digits))
    return cut_off if cut_off.may_be_rounded else None


def _in_words(text: str) -> Number | None:
    words = re.fullmatch(r"(?:\\text\{)?\s*([A-Za-z]+(?:[ -][a-z]+)?|[\u4e00-\u9fff\u3007]+)\s*\}?", text)
    if words and not words[1].isascii():
        return _in_chinese(words[1])
    parts = re.split("[ -]", words[1].lower()) if words else []
    if len(parts) == 2 and parts[0] in SMALL and (part := PARTS.get(re.sub("s$", "", parts[1]))):
        return Number(Fraction(NUMBER_WORDS[parts[0]], part))
    if not parts or any(part not in NUMBER_WORDS for part in parts):
        return None
    if len(parts) == 2 and not (parts[0] in TENS and 0 < NUMBER_WORDS[parts[1]] < 10):
        return None
    return Number(Fraction(sum(NUMBER_WORDS[part] for part in parts)))


def _in_chinese(text: str) -> Number | None:
    """二十五, 三千零二万, 三分之一 (1/3); None for 二百五, which says 250 to some and 205 to others."""
    below, found, above = text.partition("分之")
    if found:
        bottom, top = _in_chinese(below), _in_chinese(above)
        return Number(top.value / bottom.value) if top and bottom and bottom.value else None
    digits = "".join(CHINESE)
    if re.fullmatch(f"[{digits}]+", text):
        return Number(Fraction(int("".join(str(CHINESE[character]) for character in text))))
    if not re.fullmatch(f"[{digits}十][{digits}十百千万亿]*", text) or re.search(
        "[百千万亿][^零\u3007十百千万亿]$", text
    ):
        return None
    total = section = digit = 0
    for character in text:
        if character in CHINESE:
            digit = CHINESE[character]
        elif character in "十百千":
            section += (digit or 1) * CHINESE_UNITS[character]
            digit = 0
        else:
            total, section, digit = (total + section + digit) * CHINESE_UNITS[character], 0, 0
    return Number(Fraction(total + section + digit))

r"""Units of measure, read from texts such as `\frac{\text{m}}{\text{s}^2}`, `square feet` or `miles per hour`.

A unit is an exact factor and the powers of its bases. Units with the same bases convert; each kind of counted thing
(cards, apples) is a separate base, and so is each currency.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from r2a.grading.notation import words_of

Powers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """A factor and the powers of its bases."""

    factor: Fraction
    powers: Powers

    def __mul__(self, other: "Unit") -> "Unit":
        powers = dict(self.powers)
        for base, power in other.powers:
            powers[base] = powers.get(base, 0) + power
        return Unit(self.factor * other.factor, tuple(sorted((base, n) for base, n in powers.items() if n)))

    def __pow__(self, power: int) -> "Unit":
        return Unit(self.factor**power, tuple((base, n * power) for base, n in self.powers if power))

    @property
    def is_counted(self) -> bool:
        """Whether the unit is a counted thing that no table knows."""
        return any(base.startswith("a ") for base, _ in self.powers)


NOTHING = Unit(Fraction(1), ())
PREFIXES = {
    "kilo": ("k", 3), "centi": ("c", -2), "milli": ("m", -3), "micro": (r"\mu", -6), "nano": ("n", -9),
    "mega": ("M", 6), "giga": ("G", 9), "deci": ("d", -1), "hecto": ("h", 2),
}  # fmt: skip
# base units and those of science: symbols, names, factor, powers; all with prefixes
PREFIXED = (
    ("m", "meter meters metre metres", "1", "m"),
    ("g", "gram grams gramme grammes", "1/1000", "kg"),
    ("L l", "liter liters litre litres", "1/1000", "m3"),
    ("s", "", "1", "s"),
    ("A", "ampere amperes amp amps", "1", "A"),
    ("mol", "mole moles", "1", "mol"),
    ("Hz", "hertz", "1", "s-1"),
    ("N", "newton newtons", "1", "kg m s-2"),
    ("J", "joule joules", "1", "kg m2 s-2"),
    ("W", "watt watts", "1", "kg m2 s-3"),
    ("Pa", "pascal pascals", "1", "kg m-1 s-2"),
    ("V", "volt volts", "1", "kg m2 s-3 A-1"),
    ("C", "coulomb coulombs", "1", "A s"),
    (r"\Omega", "ohm ohms", "1", "kg m2 s-3 A-2"),
    ("F", "farad farads", "1", "kg-1 m-2 s4 A2"),
    ("T", "tesla teslas", "1", "kg s-2 A-1"),
    ("eV", "electronvolt electronvolts", "1602176634/10000000000000000000000000000", "kg m2 s-2"),
    ("cal", "calorie calories", "4184/1000", "kg m2 s-2"),
    ("B", "byte bytes", "8", "bit"),
)
OTHERS = (
    ("second seconds sec secs", "1", "s"),
    ("min mins minute minutes", "60", "s"),
    ("h hr hrs hour hours", "3600", "s"),
    ("day days", "86400", "s"),
    ("week weeks wk wks", "604800", "s"),
    ("month months", "1/12", "year"),
    ("year years yr yrs", "1", "year"),
    ("decade decades", "10", "year"),
    ("century centuries", "100", "year"),
    ("in in. inch inches", "254/10000", "m"),
    ("ft ft. foot feet", "3048/10000", "m"),
    ("yd yds yard yards", "9144/10000", "m"),
    ("mi mile miles", "1609344/1000", "m"),
    ("oz ounce ounces", "28349523125/1000000000000", "kg"),
    ("lb lbs lb. lbs. pound pounds", "45359237/100000000", "kg"),
    ("tonne tonnes", "1000", "kg"),
    ("ton tons", "1", "ton"),
    ("acre acres", "40468564224/10000000", "m2"),
    ("ha hectare hectares", "10000", "m2"),
    ("gal gallon gallons", "3785411784/1000000000000", "m3"),
    ("qt quart quarts", "946352946/1000000000000", "m3"),
    ("pt pint pints", "473176473/1000000000000", "m3"),
    ("cup cups", "2365882365/10000000000000", "m3"),
    ("cc", "1/1000000", "m3"),
    ("mph", "44704/100000", "m s-1"),
    ("kph kmph kmh", "10/36", "m s-1"),
    ("bit bits", "1", "bit"),
    ("bar bars", "100000", "kg m-1 s-2"),
    ("atm", "101325", "kg m-1 s-2"),
    ("rpm", "1/60", "turn s-1"),
    ("K kelvin kelvins", "1", "kelvin"),
    ("degC °C celsius centigrade", "1", "celsius"),
    ("degF °F fahrenheit", "1", "fahrenheit"),
    ("° deg degree degrees", "1", "degree"),
    ("rad rads radian radians", "1", "radian"),
    ("arcminute arcminutes", "1/60", "degree"),
    ("dollar dollars USD usd US$ $ bucks", "1", "dollar"),
    ("cent cents ¢", "1/100", "dollar"),
    ("euro euros EUR €", "1", "euro"),
    ("GBP £ sterling", "1", "sterling"),
    ("pence penny pennies", "1/100", "dollar"),
    ("yuan RMB CNY rmb 元", "1", "yuan"),
    ("yen JPY ¥", "1", "yen"),
    ("rupee rupees Rs Rs. rs INR ₹", "1", "rupee"),
    ("unit units", "1", "unit"),
    ("point points", "1", "a point"),
    ("分钟", "60", "s"), ("小时", "3600", "s"), ("秒", "1", "s"), ("天", "86400", "s"),
    ("厘米", "1/100", "m"), ("千米 公里", "1000", "m"), ("米", "1", "m"),
    ("千克 公斤", "1", "kg"), ("克", "1/1000", "kg"), ("度", "1", "degree"),
)  # fmt: skip
SCALES = {
    "dozen": 12, "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7,
    "billion": 10**9, "trillion": 10**12,
    "百万": 10**6, "千万": 10**7, "万": 10**4, "亿": 10**8,
}  # fmt: skip
# single letters that may also be variables: units only among words, or separated from their number
LETTERS = set("mgslLhNJWVCFTABK")
# words that open a clause: after a number, they are not units
CLAUSES = {
    "and", "or", "if", "for", "when", "where", "with", "mod", "modulo", "base", "is", "are", "not", "such", "that",
    "only", "then", "but", "let", "by", "to", "at", "on", "as", "else", "otherwise", "either", "both", "since",
    "because", "unless", "except", "than", "equals", "equal",
}  # fmt: skip
ARTICLES = {
    "of", "the", "a", "an", "from", "in", "per", "each", "every", "for", "total", "more", "possible", "different",
    "distinct",
}  # fmt: skip


def _table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for symbols, names, factor, powers in PREFIXED:
        plain = Unit(Fraction(factor), _powers(powers))
        for word in (*symbols.split(), *names.split()):
            units[word] = plain
        for prefix, (symbol, exponent) in PREFIXES.items():
            scaled = Unit(plain.factor * Fraction(10) ** exponent, plain.powers)
            units |= {prefix + name: scaled for name in names.split()}
            units |= {symbol + short: scaled for short in symbols.split()}
    for words, factor, powers in OTHERS:
        units |= dict.fromkeys(words.split(), Unit(Fraction(factor), _powers(powers)))
    return units


def _powers(text: str) -> Powers:
    if text.startswith("a "):
        return ((text, 1),)
    return tuple(sorted((match[1], int(match[2] or 1)) for match in re.finditer(r"([A-Za-z]+)(-?\d)?(?: |$)", text)))


TABLE = _table()
BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}  # square feet
AFTER = {"squared": 2, "cubed": 3}  # feet squared
DIVIDING = {"per", "each", "every", "a", "an"}
TOKEN = re.compile(
    r"\s*(?:(?P<degree>\^\\circ\s*[CF]?(?![A-Za-z]))|\^\{?\s*(?P<power>-?\d)\s*\}?|(?P<sign>\\cdot|\\times|[/()·*-])"
    r"|(?P<word>\\(?:mu|Omega)\s*[A-Za-z]*|[A-Za-z]+\.?(?:-[A-Za-z]+)*|US\$|\\?\$|[€£¥₹¢%]|[\u4e00-\u9fff]+))"
)


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    r"""The unit that a written text (with or without \text{}) names, or None.

    Words that no table knows are counted things; the last word says which (duck eggs: egg).
    """
    text = re.sub(r"\\frac\{((?:[^{}]|\{[^{}]*\})*)\}\{((?:[^{}]|\{[^{}]*\})*)\}", r"(\1)/(\2)", text)
    text = words_of(text).replace("{", " ").replace("}", " ")
    text = re.sub(r"\^\s*(-?\d)", r"^\1", text)
    text = re.sub(r"^\s*[(\[]([^()\[\]]*)[)\]]\s*$|^\s*\(([A-Za-z]+)\)\s*(?=\^\d$)", r"\1\2", text).strip()
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            return None
        tokens.append((match.lastgroup, match[match.lastgroup].replace(" ", "")))
        position = match.end()
    return _product(tokens) if tokens else None


def _product(tokens: list[tuple[str, str]]) -> Unit | None:
    """Adjacent units multiply; all units after / or per divide; unknown words are one counted thing."""
    unit, sign, power_of_next = NOTHING, 1, 1
    last: Unit | None = None  # the unit to which a following power belongs
    unknown: list[str] = []
    for kind, text in tokens:
        word = text.lower().rstrip(".")
        known = _known(kind, text)
        if text == ")":
            last = None
        elif kind == "power" or (word in AFTER and last is not None):
            if last is None:
                return None
            unit, last = unit * last ** ((int(text) if kind == "power" else AFTER[word]) - 1), None
        elif text == "/" or (word in DIVIDING and unit is not NOTHING and not unknown):
            sign = -1
        elif word in BEFORE:
            power_of_next = BEFORE[word]
        elif known is not None:
            if known in (TABLE["celsius"], TABLE["fahrenheit"]) and unit == TABLE["degree"]:
                unit = NOTHING  # degrees Celsius
            last = known ** (power_of_next * sign)
            unit, power_of_next = unit * last, 1
        elif word in CLAUSES or (kind == "word" and len(word) < 2 and word.isascii() and word not in ARTICLES):
            return None
        elif kind == "word" and word not in ARTICLES:
            unknown.append(word)
        elif unknown and kind == "word":
            break  # a qualifier follows: eggs from the farm
    if power_of_next != 1:  # 42 square
        unit = unit * TABLE["unit"] ** power_of_next
    # "miles of road", "dollars profit": what is measured does not change the unit
    return Unit(Fraction(1), ((f"a {_singular(unknown[-1])}", 1),)) if unknown and not unit.powers else unit


def _known(kind: str, text: str) -> Unit | None:
    if kind == "degree":
        return TABLE.get("°" + text.removeprefix(r"^\circ"))
    if kind != "word":
        return None
    word = text.removeprefix("\\") if "$" in text else text
    return (
        TABLE.get(word)
        or TABLE.get(word.rstrip("."))
        or (TABLE.get(word.lower().rstrip(".")) if len(word) > 2 else None)
    )


def _singular(word: str) -> str:
    return {"people": "person", "children": "child", "men": "man", "women": "woman"}.get(
        word, re.sub(r"(?<=[^s])s$", "", re.sub(r"(?<=(?:sh|ch|ss))es$|(?<=x)es$", "", re.sub("ies$", "y", word)))
    )


def factor_between(found: Unit, wanted: Unit) -> Fraction | None:
    """The factor that converts a value from one unit to the other, or None if they do not convert.

    A plain "unit" is any length.
    """
    bases = [dict(found.powers), dict(wanted.powers)]
    for mine, other in (bases, bases[::-1]):
        if "unit" in mine and "m" in other and set(other) == {"m"} and mine["unit"] == other["m"]:
            return Fraction(1)
    if found.powers == wanted.powers:
        return found.factor / wanted.factor
    return None

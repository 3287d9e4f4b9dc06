r"""Whether an answer equals the reference, decided by the kind of each.

Words are compared as words, times as times, quantities in their units, lists and sets element by element, numbers
exactly; the rest is mathematics for `symbolic`, which may take long and runs in a process that can be killed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from r2a.grading import collections, words
from r2a.grading.notation import squeezed, words_of, written
from r2a.grading.numbers import decimal_comma, read_number, same_number
from r2a.grading.quantities import Quantity, asks_in_percent, read_quantity, read_sum, unit_factor

BASES = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "twelve": "12", "sixteen": "16",
}  # fmt: skip
NUMERAL_IN_BASE = re.compile(
    r"(?<![A-Za-z\\.\d])(\d[\dA-Z.]*|[A-Z][\dA-Z]+)\s*_\s*\{?\s*(?:\\text\{)?\s*\(?"
    rf"(\d+|{'|'.join(BASES)})\)?\s*\}}*"
)
LETTERS_IN_ORDER = re.compile(r"[A-Z]{2,}|\d+\s*\\times\s*\d+")  # names of figures, rankings, sizes: not products
MAX_ELEMENTS = 60  # the longest list that is compared in any order

Symbolic = Callable[[str, str], bool]


class NeedsSymbols(Exception):
    """The two texts have to be compared as mathematics; raised by `by_reading` if nothing else decides."""


@dataclass(frozen=True)
class Comparison:
    """How two texts are compared: what the problem says about the answer's form, and what compares mathematics.

    symbolic(answer, reference): whether two written texts are equal as mathematics.
    """

    problem: str
    symbolic: Symbolic

    def same(self, answer: str, reference: str) -> bool:
        """Whether two written texts say the same; the rules are applied in this order."""
        if squeezed(words_of(answer)) == squeezed(words_of(reference)):
            return True
        if not answer or not reference:
            return False
        for rule in (
            self._as_option, self._as_numerals_in_bases, self._as_times, self._with_ellipsis, self._as_words,
            self._as_conditions, self._as_named, self._as_numbers, self._as_quantities, self._as_groups,
            self._as_matrices, self._as_regions, self._as_ratios,
        ):  # fmt: skip
            decided = rule(answer, reference)
            if decided is not None:
                return decided
        if words.is_prose(answer) or words.is_prose(reference):
            return words.same_words(answer, reference)
        return self.symbolic(answer, reference)

    def _as_option(self, answer: str, reference: str) -> bool | None:
        r"""C, (C), C: a gas and \text{(C) }12 are one option; so is its text alone if the reference contains it."""
        letter, option = words.option_letter(reference), words.letter_and_text(reference)
        if letter is not None:
            found = words.letter_and_text(answer)
            if found:
                return found[0].upper() == letter
            if words.option_letter(answer) is None:
                return None
            if letter in "ABCDEFGHIJ" or words_of(reference).strip("()[]. ").isupper():
                return words.option_letter(answer) == letter
            return None
        if option is None or len(option[0]) != 1:
            return None
        found_letter, found = words.option_letter(answer), words.letter_and_text(answer)
        if found_letter or found:
            return (found_letter or (found[0] if found else "")) == option[0]
        return self.same(answer, written(option[1]))

    def _as_numerals_in_bases(self, answer: str, reference: str) -> bool | None:
        """Numerals are equal if digits and base are equal; base ten is the default."""
        if not NUMERAL_IN_BASE.search(answer) and not NUMERAL_IN_BASE.search(reference):
            return None
        plain = [squeezed(NUMERAL_IN_BASE.sub(_plain_base, text)) for text in (answer, reference)]
        return plain[0] == plain[1]

    def _as_times(self, answer: str, reference: str) -> bool | None:
        """Times of day and dates; a:b is a ratio instead if the problem mentions one."""
        if words.DATE.fullmatch(answer) or words.DATE.fullmatch(reference):
            return False  # identical texts have been decided before
        wanted, found = words.clock_time(reference), words.clock_time(answer)
        if wanted is None and found is None:
            return None
        is_marked = any(time is not None and time[3] for time in (wanted, found))
        if re.search(r"(?i)\bratio\b|\bodds\b|\bscale\b", self.problem) and not is_marked:
            return None
        if wanted is None or found is None:
            return False if is_marked else None
        if ":" not in answer and ":" not in reference and not is_marked:
            return None
        return words.same_time(found, wanted)

    def _with_ellipsis(self, answer: str, reference: str) -> bool | None:
        """Texts with an ellipsis: the same parts, written alike, with the dots in the same place."""
        if r"\ldots" not in answer and r"\ldots" not in reference:
            return None
        if read_number(answer) is not None or read_number(reference) is not None:
            return None
        parts = [collections.split(text, ",", ";") for text in (answer, reference)]
        if len(parts[0]) < 2 or len(parts[0]) != len(parts[1]):
            return False
        return all(
            ((r"\ldots" in found or r"\ldots" in wanted) is False and self.same(found, wanted))
            or squeezed(found) == squeezed(wanted)
            for found, wanted in zip(*parts, strict=True)
        )

    def _as_words(self, answer: str, reference: str) -> bool | None:
        """Words against words; against mathematics they are wrong, except that a number may be in words."""
        if LETTERS_IN_ORDER.fullmatch(answer) and LETTERS_IN_ORDER.fullmatch(reference):
            return False
        is_words = words.is_words(answer), words.is_words(reference)
        if not any(is_words):
            return None
        found, wanted = read_number(answer), read_number(reference)
        if found is not None and wanted is not None:
            return same_number(found, wanted)
        if words.same_words(answer, reference):
            return True
        if all(is_words):
            lists = [collections.read_group(_and_as_comma(text)) for text in (answer, reference)]
            names = [
                sorted(map(words.plain_words, group.parts)) if group else [text]
                for group, text in zip(lists, (answer, reference), strict=True)
            ]
            return names[0] == names[1] and _joins(answer) == _joins(reference)
        word = answer if is_words[0] else reference
        is_quantity = not words.is_text(word) and bool(re.search(r"\d", word))
        is_number_of = read_number(read_quantity(word).value) is not None  # five dollars
        return None if is_quantity or is_number_of or len(words_of(word)) == 1 else False

    def _as_conditions(self, answer: str, reference: str) -> bool | None:
        """Inequalities joined by and, or: by the region that they describe, otherwise the same ones joined alike."""
        if not _joins(answer) | _joins(reference) or not (_has_relation(answer) or _has_relation(reference)):
            return None
        if _region(answer) is not None and _region(reference) is not None:
            return bool(self._as_regions(answer, reference))
        if _joins(answer) != _joins(reference):
            return False
        return self._in_any_order(*(collections.split(text, "and", "or", ",") for text in (answer, reference)))

    def _as_named(self, answer: str, reference: str) -> bool | None:
        r"""x = 5 equals 5, but not y = 5; x \in [0, 1] equals [0, 1]."""
        if collections.read_group(answer) or collections.read_group(reference):
            return None
        (name, value), (wanted_name, wanted) = collections.without_name(answer), collections.without_name(reference)
        if (value, wanted) == (answer, reference):
            return None
        if name and wanted_name and name != wanted_name:
            return self.symbolic(answer, reference) if _is_equation(value, wanted) else False
        if "=" in value + wanted:
            return None  # an equation with unknowns on both sides: mathematics
        return self.same(value, wanted)

    def _as_numbers(self, answer: str, reference: str) -> bool | None:
        """Numbers exactly, percent signs by what the problem asks for; a decimal comma only if no list is meant."""
        found, wanted = read_number(answer), read_number(reference)
        if found is not None and wanted is not None:
            return same_number(found, wanted)
        commas = decimal_comma(answer), decimal_comma(reference)
        for comma, plain in ((commas[0], wanted), (commas[1], found)):
            if comma is not None and plain is not None and comma.value == plain.value:
                return True
        return None

    def _as_quantities(self, answer: str, reference: str) -> bool | None:
        """Values in one unit; conflicting units are wrong, and so is a scale (million) on one side only."""
        found, wanted = (read_sum(text) or read_quantity(text) for text in (answer, reference))
        if (found.value, wanted.value) == (answer, reference) and not (found.unit or wanted.unit):
            return None
        factor = unit_factor(found, wanted, self.problem)
        if factor is None:
            return self._as_angles(found, wanted)
        if found.scale != wanted.scale and not self._asks_for_scale(found, wanted):
            factor *= found.factor / wanted.factor
        if found.is_percent != wanted.is_percent:
            if found.unit or wanted.unit:
                return False
            return self._as_percent(found, wanted)
        return self._times(found.value, wanted.value, factor)

    def _as_angles(self, found: Quantity, wanted: Quantity) -> bool:
        """Degrees against radians; other units that do not convert are wrong."""
        sides = {"degree": r"\frac{\pi}{180}\cdot", "radian": ""}
        bases = [
            side.unit.powers[0] if side.unit and len(side.unit.powers) == 1 else ("", 0) for side in (found, wanted)
        ]
        if {base for base, _ in bases} != set(sides) or any(power != 1 for _, power in bases):
            return False
        values = [f"{sides[base]}({side.value})" for (base, _), side in zip(bases, (found, wanted), strict=True)]
        return self.symbolic(*values)

    def _asks_for_scale(self, found: Quantity, wanted: Quantity) -> bool:
        """Whether the problem asks how many millions, so that 18 is 18 million."""
        scale = found.scale or wanted.scale
        return not (found.scale and wanted.scale) and bool(
            re.search(rf"(?i)\b(?:how many|in|number of) (?:[a-z]+ )?{scale}s?\b", self.problem)
        )

    def _as_percent(self, found: Quantity, wanted: Quantity) -> bool:
        """A percent sign on one side only: ignored if the problem asks for percent, otherwise a hundredth.

        Without a problem, an answer's sign may be either.
        """
        hundredth = Fraction(1, 100)
        as_share = self._times(found.value, wanted.value, hundredth if found.is_percent else 1 / hundredth)
        if self.problem:
            return self._times(found.value, wanted.value, Fraction(1)) if asks_in_percent(self.problem) else as_share
        return self._times(found.value, wanted.value, Fraction(1)) or (found.is_percent and as_share)

    def _times(self, value: str, wanted: str, factor: Fraction) -> bool:
        """Whether the value times the factor is the wanted one."""
        if factor == 1:
            return self.same(value, wanted)
        numbers = read_number(value), read_number(wanted)
        if numbers[0] is not None and numbers[1] is not None:
            return numbers[0].value * factor == numbers[1].value
        group = collections.read_group(value)
        if group:
            return False
        return self.symbolic(rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}\cdot({value})", wanted)

    def _as_groups(self, answer: str, reference: str) -> bool | None:
        """Lists and sets in any order, tuples in theirs; a tuple is neither a set nor a list."""
        found, wanted = collections.read_group(answer), collections.read_group(reference)
        if found is None and wanted is None:
            return self._as_list_of_signs(answer, reference)
        if found is None or wanted is None:
            return self._as_group_and_one(answer, reference, found, wanted)
        names = [[collections.without_name(part) for part in group.parts] for group in (found, wanted)]
        if found.is_ordered != wanted.is_ordered:
            listed = names[1] if found.is_ordered else names[0]
            if not all(name for name, _ in listed) or len({name for name, _ in listed}) < len(listed):
                return False
            return self._in_order([value for _, value in names[0]], [value for _, value in names[1]])
        if found.is_ordered:
            if (found.open, found.close) != (wanted.open, wanted.close):
                return False
            return self._in_order(found.parts, wanted.parts)
        if len({name for name, _ in names[0]}) > 1 and not any(name for name, _ in names[1]):
            return self._in_order([value for _, value in names[0]], _signs_of(wanted.parts)) or self._named_once(names)
        if len({name for name, _ in names[1]}) > 1 and not any(name for name, _ in names[0]):
            return self._in_order(_signs_of(found.parts), [value for _, value in names[1]]) or self._named_once(names)
        return self._in_any_order(_signs_of(found.parts), _signs_of(wanted.parts))

    def _named_once(self, names: list[list[tuple[str, str]]]) -> bool:
        """n = 1, 2, 3 names its first element only."""
        for side in names:
            if any(name for name, _ in side[1:]):
                return False
        return self._in_any_order([value for _, value in names[0]], [value for _, value in names[1]])

    def _as_group_and_one(
        self, answer: str, reference: str, found: collections.Group | None, wanted: collections.Group | None
    ) -> bool | None:
        """A list against one text, which may be a list, too (1,234; a plus-minus), or a region, or a named list."""
        if words.is_prose(answer) or words.is_prose(reference):
            return None
        group, one = (wanted, answer) if found is None else (found, reference)
        assert group is not None
        name, rest = collections.without_name(one)
        if name and rest != one:
            return self.same(rest, reference) if found is None else self.same(answer, rest)
        if found is not None and not found.open and _joins(answer) == {"or"}:  # 1/2 or 0.5
            return self._in_any_order(found.parts, [one]) or all(self.same(part, one) for part in found.parts)
        if not group.is_ordered:
            listed = collections.read_list(one)
            parts = _signs_of(listed.parts if listed else (one,))
            others = _signs_of(group.parts)
            if len(parts) == len(others) and (len(parts) > 1 or group.open):
                return self._in_any_order(parts, others) if found is None else self._in_any_order(others, parts)
        if collections.split(one, r"\cup")[1:] or r"\mathbb" in one or r"\setminus" in one or _has_relation(one):
            return None
        if not group.is_ordered and any(_has_relation(part) for part in group.parts):
            return None
        return False

    def _as_list_of_signs(self, answer: str, reference: str) -> bool | None:
        r"""1 \pm x against 1 \pm x, each read as two values."""
        if r"\pm" not in answer or r"\pm" not in reference:
            return None if r"\pm" not in answer + reference else False
        return self._in_any_order(_signs_of([answer]), _signs_of([reference]))

    def _in_order(self, found: Sequence[str], wanted: Sequence[str]) -> bool:
        return len(found) == len(wanted) and all(map(self.same, found, wanted))

    def _in_any_order(self, found: Sequence[str], wanted: Sequence[str]) -> bool:
        found, wanted = (list({squeezed(part): part for part in parts}.values()) for parts in (found, wanted))
        if len(found) != len(wanted) or len(found) > MAX_ELEMENTS:
            return False
        left = list(wanted)
        for part in found:
            index = next((index for index, other in enumerate(left) if squeezed(part) == squeezed(other)), None)
            if index is None:
                index = next((index for index, other in enumerate(left) if self.same(part, other)), None)
            if index is None:
                return False
            del left[index]
        return True

    def _as_matrices(self, answer: str, reference: str) -> bool | None:
        found, wanted = collections.read_matrix(answer), collections.read_matrix(reference)
        if found is None or wanted is None:
            return None
        return len(found) == len(wanted) and all(map(self._in_order, found, wanted))

    def _as_regions(self, answer: str, reference: str) -> bool | None:
        """Unions of intervals, and inequalities as the intervals that they describe."""
        regions = [_region(text) for text in (answer, reference)]
        if regions[0] is None or regions[1] is None or len(regions[0]) == len(regions[1]) == 0:
            return None
        if all(_has_relation(text) for text in (answer, reference)):
            variables = [set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", text)) for text in (answer, reference)]
            if variables[0] != variables[1]:
                return False
        if len(regions[0]) == len(regions[1]):
            left = list(regions[1])
            for group in regions[0]:
                match = next((other for other in left if self._same_interval(group, other)), None)
                if match is None:
                    break
                left.remove(match)
            else:
                return True
        return None if len(regions[0]) + len(regions[1]) > 2 else False

    def _same_interval(self, found: collections.Group, wanted: collections.Group) -> bool:
        if (found.open, found.close) != (wanted.open, wanted.close):
            return False
        compare = self._in_order if found.is_ordered else self._in_any_order
        return compare(found.parts, wanted.parts)

    def _as_ratios(self, answer: str, reference: str) -> bool | None:
        """a:b against a:b in proportion, and against the fraction a/b."""
        parts = [collections.split(text, ":") for text in (answer, reference)]
        n_parts = [len(part) for part in parts]
        if max(n_parts) == 1 or any(not part for side in parts for part in side):
            return None
        if n_parts == [2, 1] or n_parts == [1, 2]:
            fractions = [rf"\frac{{{side[0]}}}{{{side[1]}}}" if len(side) == 2 else side[0] for side in parts]
            return self.same(*fractions)
        if n_parts[0] != n_parts[1]:
            return False
        return all(
            self.same(rf"\frac{{{found}}}{{{parts[0][0]}}}", rf"\frac{{{wanted}}}{{{parts[1][0]}}}")
            for found, wanted in zip(parts[0][1:], parts[1][1:], strict=True)
        )


def same_answer(one: str, other: str) -> bool | None:
    r"""Whether two answers are equal (\text{moon} and Moon, 1/2 and 0.5), or None if only mathematics can decide."""
    return by_reading(one, other, "")


def by_reading(answer: str, reference: str, problem: str) -> bool | None:
    """Whether the answer equals the reference, or None if they have to be compared as mathematics."""
    try:
        return Comparison(problem, _needs_symbols).same(written(answer), written(reference))
    except (NeedsSymbols, RecursionError):
        return None


def _needs_symbols(answer: str, reference: str) -> bool:
    raise NeedsSymbols


def _plain_base(match: re.Match[str]) -> str:
    base = BASES.get(match[2], match[2])
    return match[1] if base == "10" else f"{match[1]}_{base}"


def _and_as_comma(text: str) -> str:
    return re.sub(r",?\s+(?:and|or|&)\s+", ", ", words_of(text))


def _is_equation(*sides: str) -> bool:
    """Whether there are unknowns on the right, so that y = 2x and 2x = y may be one curve."""
    return all(re.search(r"(?<![A-Za-z\\])[a-zA-Z](?![A-Za-z])", side) for side in sides)


def _joins(text: str) -> set[str]:
    """Which of the words and, or join the text's parts."""
    return {sign for sign, _, _ in collections.signs(text) if sign in ("and", "or")} | {
        word for word in ("and", "or") if re.search(rf"\\text\{{[^{{}}]* {word} ", text)
    }


def _has_relation(text: str) -> bool:
    return any(sign in ("<", ">", r"\le", r"\ge", r"\ne") for sign, _, _ in collections.signs(text))


def _signs_of(parts: Sequence[str]) -> list[str]:
    r"""Each part without the name of its answer; a part with \pm becomes two."""
    signed = []
    for part in parts:
        name, value = collections.without_name(part)
        text = value if name else part
        if r"\pm" in text or r"\mp" in text:
            signed += [
                re.sub(r"\\pm(?![A-Za-z])", plus, re.sub(r"\\mp(?![A-Za-z])", minus, text)).strip(" +")
                for plus, minus in (("+", "-"), ("-", "+"))
            ]
        else:
            signed.append(part)
    return signed


def _region(text: str) -> list[collections.Group] | None:
    """The intervals and sets whose union the text describes, or None."""
    text = collections.without_name(text)[1]
    groups: list[collections.Group] = []
    for part in collections.split(text, r"\cup"):
        group = collections.read_group(part)
        if part == r"\mathbb{R}":
            group = collections.Group((r"-\infty", r"\infty"), "(", ")")
        if group is None or not group.open:
            groups = []
            break
        groups.append(group)
    return groups or collections.as_intervals(text)

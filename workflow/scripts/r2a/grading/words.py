r"""Answers in words: names, yes and no, sentences, option letters, times of day."""

import re
from functools import lru_cache

from r2a.grading.notation import GROUP, words_of

# short texts that are not products of variables
SHORT_WORDS = {
    "no", "on", "of", "or", "in", "it", "is", "he", "we", "up", "so", "do", "go", "me", "my", "an", "as", "at", "be",
    "by", "if", "us", "to", "am", "pm", "ok", "hi", "oh", "ox",
}  # fmt: skip
PRODUCTS = tuple(map(set, ("xyz", "abc", "pqr", "uvw", "mnk", "rst")))
WORD = re.compile(r"[^\W\d_]+(?:['.-][^\W\d_]+)*\.?")
CLOCK = re.compile(
    r"(\d{1,2})\s?:\s?([0-5]\d)(?::([0-5]\d))?\s*([ap])?\.?\s*(?:m\.?)?|(\d{1,2})\s*([ap])\.?\s*m\.?|(noon|midnight)",
    re.IGNORECASE,
)
DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")
LETTER = re.compile(r"(?:option|choice|answer)?\s*(?:is)?\s*:?\s*[(\[]?\s*([A-Za-z])\s*[)\]]?\s*\.?", re.IGNORECASE)
LETTER_WITH_TEXT = re.compile(
    r"(?:(?:option|choice|answer)\s*(?:is)?\s*:?\s*)?(?:[(\[]\s*([A-Z])\s*[)\]]|([A-Z])\s*[:.)\]]|([A-Z])\s+(?:[-\u2013\u2014]\s|(?=\([a-z])))\s*(\S.*)",
    re.DOTALL,
)


@lru_cache(maxsize=4096)
def is_words(text: str) -> bool:
    r"""Whether a written text gives its answer in words.

    True in \text{}, for three letters or more, for short English words, for other scripts, and if a sentence mixes
    words and mathematics.
    """
    plain = words_of(text)
    if is_text(text) and not re.fullmatch(r"[A-Za-z]", plain):
        return True
    if not plain or "\\" in plain.replace(r"\text", ""):
        return False
    if re.search(r"[\u0400-\uffef]", plain):
        return True
    parts = re.split(r"[ ,;:/&]+", plain.strip(" .,;:!?()"))
    if not all(WORD.fullmatch(part) for part in parts if part):
        return False
    if r"\text" in text:
        return True
    if len(parts) == 1 and parts[0].isalpha() and parts[0].islower() and any(set(parts[0]) <= few for few in PRODUCTS):
        return False
    return all(len(part) > 2 or part.lower() in SHORT_WORDS for part in parts) or (
        len(parts) > 1 and sum(len(part) > 2 for part in parts) >= len(parts) / 2
    )


def is_text(text: str) -> bool:
    r"""Whether all of a written text is in \text{}."""
    return bool(re.fullmatch(rf"\\text{GROUP}", text))


def is_prose(text: str) -> bool:
    """Whether words and mathematics are mixed, so that the text can only be compared as text."""
    plain = words_of(text)
    if r"\text" not in text and "\\" in text:
        plain = re.sub(r"\\[A-Za-z]+(?:\{[^{}]*\})?", " ", plain)
    return (
        bool(re.search(r"[\u0400-\uffef]", plain))
        or len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z])", plain)) >= 2
    )


def same_words(one: str, other: str) -> bool:
    """Whether two texts say the same in the same words; a hyphen may be a space or nothing."""
    mine, theirs = plain_words(one), plain_words(other)
    return any(mine.replace("-", mark) == theirs.replace("-", mark) for mark in (" ", ""))


def plain_words(text: str) -> str:
    """Words as they are compared: in lower case, without a leading article or final full stop."""
    plain = re.sub(r"\s+", " ", words_of(text).casefold())
    plain = re.sub(r"(?<!\d)\.(?!\d)", "", plain)  # U.S.A., Dr.
    return re.sub(r"^(?:the|a|an) (?=\w{2})", "", plain.strip(" .,;:!?\"'()"))


def option_letter(text: str) -> str | None:
    """The letter if the text is one: C, (C), C., option C; otherwise None."""
    match = LETTER.fullmatch(words_of(text))
    return match[1].upper() if match else None


def letter_and_text(text: str) -> tuple[str, str] | None:
    """The letter and the text of an option (C: a gas, (B) 12), otherwise None."""
    match = LETTER_WITH_TEXT.fullmatch(words_of(text))
    return (next(part for part in match.groups()[:3] if part), match[4]) if match else None


def clock_time(text: str) -> tuple[int, int, int, str] | None:
    """Hour, minute, second and "a", "p" or "" if the text is a time of day, otherwise None; 12 a.m. is hour 0."""
    match = CLOCK.fullmatch(re.sub(r"(\d)\s*o'clock", r"\1:00 ", words_of(text)).strip())
    if match is None:
        return None
    if match[7]:
        return (12, 0, 0, "p") if match[7].lower() == "noon" else (0, 0, 0, "a")
    hour, half = int(match[1] or match[5]), (match[4] or match[6] or "").lower()
    if hour > 24:
        return None
    if half == "p" and hour < 12:
        hour += 12
    if half == "a" and hour == 12:
        hour = 0
    return hour, int(match[2] or 0), int(match[3] or 0), half


def same_time(found: tuple[int, int, int, str], wanted: tuple[int, int, int, str]) -> bool:
    """Whether two times of day are equal; if only one says a.m. or p.m., it counts for the other from 1:00 to 12:59."""
    if found[1:3] != wanted[1:3]:
        return False
    n_hours = 24
    if bool(found[3]) != bool(wanted[3]):
        unsaid = wanted[0] if found[3] else found[0]
        n_hours = 12 if 1 <= unsaid <= 12 else 24
    return (found[0] - wanted[0]) % n_hours == 0

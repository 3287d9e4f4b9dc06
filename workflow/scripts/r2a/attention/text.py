"""Where the reasoning's cue words and sentences stand, as tokens: found in the text that the token ids make."""

import re
from collections.abc import Sequence

import numpy as np

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*")


def is_cue_token(pieces: Sequence[str], words: Sequence[str]) -> np.ndarray:
    """Which tokens hold a part of one of the words, as a whole word in either case; one boolean a token."""
    is_cue = np.zeros(len(pieces), bool)
    starts, ends, text = _places(pieces)
    for match in re.finditer(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", text, re.IGNORECASE):
        is_cue |= (starts < match.end()) & (ends > match.start())
    return is_cue


def sentence_bounds(pieces: Sequence[str], first: int) -> list[int]:
    """Token positions that tile the pieces into sentences, of which the first token stands at `first`.

    A sentence ends after . ! or ? before white space, and at a line's end. A token belongs to the sentence of its
    first character that is no white space.
    """
    starts, _, text = _places(pieces)
    leading = np.array([len(piece) - len(piece.lstrip()) if piece.strip() else 0 for piece in pieces])
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    sentence = np.searchsorted(ends, starts + leading, side="right")
    inner = np.flatnonzero(np.diff(sentence)) + 1
    return [first, *(first + inner).tolist(), first + len(pieces)]


def _places(pieces: Sequence[str]) -> tuple[np.ndarray, np.ndarray, str]:
    """First and past-the-last character of each piece in the joined text, and that text."""
    ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
    return ends - [len(piece) for piece in pieces], ends, "".join(pieces)

"""What replaces a trace's reasoning, as token ids: no decoded text is tokenized again."""

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, cycle, islice
from typing import Any

from r2a.text.sentences import sentence_bounds

LINE_SHARE = 0.125  # share of the reasoning by which a cut may move to a line's end
INTEGER = r"(?<![\w.,])\d+(?!\w|[.,]\d)"


class NotPerturbed(ValueError):
    """A reasoning cannot be perturbed in this way; the message is the reason."""


@dataclass(frozen=True)
class Reasoning:
    """The reasoning of one trace, without <think> and </think>; it has at least one token.

    before: ids of everything that precedes it. opens_line: whether that ends a line. token_ids: what the model wrote.
    pieces: the text of each of these tokens.
    """

    before: list[int]
    opens_line: bool
    token_ids: list[int]
    pieces: list[str]

    @property
    def closing(self) -> list[int]:
        """The token that ends its last line, if there is one."""
        return self.token_ids[-1:] if "\n" in self.pieces[-1] else []


@dataclass(frozen=True)
class Trace:
    """A valid trace with its answer, and the words that a result may be in `values`; none if results are integers."""

    uid: str
    sample: int
    reasoning: Reasoning
    answer: str
    reference: str
    values: list[str]


@dataclass(frozen=True)
class Given:
    """What a kind of perturbation receives: a trace, a level or None, and all valid traces of its dataset.

    settings: those of the stage `perturbation`. rng: a separate one for every trace, kind and level. paraphrases: by
    text, if a model was asked for them. read: for each sentence its first and past-the-last token in the reasoning, and
    the attention per token that the Reasoning-Focus Heads pay to it from the answer; None if unknown.
    """

    trace: Trace
    level: float | None
    others: Sequence[Trace]
    tokenizer: Any
    settings: Mapping[str, Any]
    rng: random.Random
    paraphrases: Mapping[str, str] = field(default_factory=dict)
    read: Sequence[tuple[tuple[int, int], float]] | None = None


@dataclass(frozen=True)
class Perturbed:
    """What replaces the reasoning, and what is known about it (columns of perturb_reasoning)."""

    token_ids: list[int]
    kept_share: float | None = None
    source_uid: str | None = None
    was: str | None = None
    becomes: str | None = None
    implied_answer: str | None = None


def cut_at(reasoning: Reasoning, percent: float) -> tuple[list[int], int]:
    """The first `percent` of the tokens, closed as the whole reasoning was, and the number of kept tokens.

    The cut is moved to the nearest line end if that is at most an eighth of the reasoning away. If a line is broken
    off, the token that ended the whole reasoning's last line is appended.
    """
    n_tokens = len(reasoning.token_ids)
    n_kept = round(n_tokens * percent / 100)
    ends = [k for k in range(1, n_tokens) if "\n" in reasoning.pieces[k - 1]]
    nearest = min(ends, key=lambda end: abs(end - n_kept), default=n_kept)
    if 0 < percent < 100 and abs(nearest - n_kept) <= LINE_SHARE * n_tokens:
        n_kept = nearest
    is_whole_line = "\n" in reasoning.pieces[n_kept - 1] if n_kept else reasoning.opens_line
    return [*reasoning.token_ids[:n_kept], *([] if is_whole_line else reasoning.closing)], n_kept


def fill(reasoning: Reasoning, filler_ids: Sequence[int]) -> list[int]:
    """The filler, repeated to the reasoning's length in tokens, closed as the reasoning was."""
    n_filler = len(reasoning.token_ids) - len(reasoning.closing)
    return [*islice(cycle(filler_ids), n_filler), *reasoning.closing]


def find_results(pieces: Sequence[str], values: Sequence[str]) -> list[tuple[int, int, str]]:
    """Where results are in the reasoning: first and past-the-last token, and the value, in order.

    A result is a whole word of `values` in the same case or, if there are no values, an integer by itself. A result is
    left out if its tokens contain anything else than it and white space.
    """
    words = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
    text = "".join(pieces)
    ends = list(accumulate(map(len, pieces)))
    found = []
    for match in re.finditer(rf"(?<!\w)(?:{words})(?!\w)" if values else INTEGER, text):
        first, stop = bisect_right(ends, match.start()), bisect_left(ends, match.end()) + 1
        if "".join(pieces[first:stop]).strip() == match.group():
            found.append((first, stop, match.group()))
    return found


def corrupt(
    reasoning: Reasoning, values: Sequence[str], which: int, tokenizer: Any, rng: random.Random
) -> tuple[list[int], str, str]:
    """The reasoning with one result replaced, the value that was there, and its replacement.

    which: 0 for the first result, -1 for the last (see find_results). A word is replaced by another of `values`, an
    integer by another with as many digits. Raises NotPerturbed if there is no such result, or if the first is the last.
    """
    results = find_results(reasoning.pieces, values)
    if not results:
        raise NotPerturbed("no result in the reasoning")
    if which == 0 and len(results) == 1:
        raise NotPerturbed("the first result is the last")
    first, stop, value = results[which]
    written = "".join(reasoning.pieces[first:stop])
    if tokenizer.encode(written, add_special_tokens=False) != reasoning.token_ids[first:stop]:
        raise NotPerturbed("the result's tokens are not the ones that spell its text")
    others = sorted(set(values) - {value})
    if values and not others:
        raise NotPerturbed("no other value")
    other = rng.choice(others) if values else _other_integer(value, rng)
    ids = tokenizer.encode(written.replace(value, other), add_special_tokens=False)
    return [*reasoning.token_ids[:first], *ids, *reasoning.token_ids[stop:]], value, other


def plant_mistake(
    reasoning: Reasoning, values: Sequence[str], tokenizer: Any, rng: random.Random
) -> tuple[list[int], int, str, str]:
    """The reasoning with one random result other than the last replaced; see corrupt.

    Also returns how many tokens follow the sentence that contains it, the value that was there, and its replacement.
    Raises NotPerturbed if there is no such result.
    """
    results = find_results(reasoning.pieces, values)
    if len(results) < 2:
        raise NotPerturbed("no result before the last")
    which = rng.randrange(len(results) - 1)
    ids, was, becomes = corrupt(reasoning, values, which, tokenizer, rng)
    end = next(bound for bound in sentence_bounds(reasoning.pieces) if bound >= results[which][1])
    return ids, len(reasoning.token_ids) - end, was, becomes


def _other_integer(value: str, rng: random.Random) -> str:
    """Another integer with as many digits."""
    lowest = 10 ** (len(value) - 1) if len(value) > 1 else 0
    n_others = 10 ** len(value) - lowest
    return str(lowest + (int(value) - lowest + rng.randrange(1, n_others)) % n_others)

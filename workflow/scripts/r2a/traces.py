"""Traces: their segments, final answer and validity (METHOD section 1)."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple


class Bounds(NamedTuple):
    """Where each segment of a trace starts, in tokens. It ends where the next one starts; `end` is the trace's end."""

    bos: int
    prompt: int
    think_open: int
    reasoning: int
    think_close: int
    answer: int
    eos: int
    end: int

    @classmethod
    def of(cls, positions: Iterable[int]) -> "Bounds":
        """The bounds stored as eight integers."""
        return cls(*map(int, positions))

    def span(self, segment: str) -> slice:
        """The tokens of a segment, as a slice."""
        k = SEGMENTS.index(segment)
        return slice(self[k], self[k + 1])


SEGMENTS = Bounds._fields[:-1]
QUERY_SEGMENTS = ("reasoning", "answer")
# the paper's short names of attention's masses: (query segment, key segment)
SHORT_NAMES = {
    "a2r": ("answer", "reasoning"), "a2p": ("answer", "prompt"), "a2bos": ("answer", "bos"),
    "a2bot": ("answer", "think_open"), "a2eot": ("answer", "think_close"), "a2a": ("answer", "answer"),
    "r2r": ("reasoning", "reasoning"), "r2p": ("reasoning", "prompt"), "r2bos": ("reasoning", "bos"),
    "r2bot": ("reasoning", "think_open"),
}  # fmt: skip
# what identifies a trace of a model and dataset; traces, grades and judgements share these columns
TRACE_KEYS = ("uid", "condition", "decoding", "sample")
Delimiter = re.Match[bytes]  # in the bytes of a whole trace


@dataclass(frozen=True)
class Marks:
    """What delimits segments. Texts are bytes, because a character may be split over tokens.

    stops: ids of the tokens that end a completion. opens, closes, answer_opens, answer_closes: patterns of the
    delimiters; the last two are None if the answer has none. bytes_of: a token's text; for a token that is part of a
    delimiter, the code that its pattern contains, so that the same characters in other tokens do not match. decode:
    such bytes as text. close_ids: the tokens with which the workflow closes a reasoning for the model.
    """

    stops: frozenset[int]
    opens: re.Pattern[bytes]
    closes: re.Pattern[bytes]
    answer_opens: re.Pattern[bytes] | None
    answer_closes: re.Pattern[bytes] | None
    bytes_of: Callable[[int], bytes]
    decode: Callable[[bytes], str]
    close_ids: tuple[int, ...]

    def is_opened(self, ids: Sequence[int]) -> bool:
        """Whether a reasoning is opened anywhere in the ids."""
        return self.opens.search(b"".join(map(self.bytes_of, ids))) is not None


class Segmented(NamedTuple):
    """A trace's bounds, how often its reasoning is closed, and its answer's text."""

    bounds: Bounds
    n_closes: int
    answer: str


def segment_bounds(prompt_ids: Sequence[int], completion_ids: Sequence[int], marks: Marks) -> Bounds:
    """Where the segments of a trace start; see segment."""
    return segment(prompt_ids, completion_ids, marks).bounds


def segment(
    prompt_ids: Sequence[int], completion_ids: Sequence[int], marks: Marks, is_declined: bool = False
) -> Segmented:
    """The segments of a trace. They tile it; an absent one is empty. The first token is `bos`, whatever it is.

    The reasoning starts after the last delimiter in the prompt that opens one, or after the first in the completion if
    the prompt has none. If the prompt only closes a reasoning, an empty reasoning precedes that. think_close includes
    the answer's own opening delimiter, and eos the one that closes the answer. A token that contains more than its part
    of a delimiter (">\\n") belongs to the delimiter, but the answer's text loses nothing.

    is_declined: the prompt asks the model not to think and opens no reasoning (it may end in a closing mark). The
    answer is everything that follows; a reasoning in it counts as a second one. Raises ValueError if nothing opens or
    closes a reasoning although none was declined.
    """
    ids = [*prompt_ids, *completion_ids]
    texts = [marks.bytes_of(token) for token in ids]
    whole, ends = b"".join(texts), list(accumulate(map(len, texts)))
    n_prompt_bytes = sum(map(len, texts[: len(prompt_ids)]))
    opens, closes = list(marks.opens.finditer(whole)), list(marks.closes.finditer(whole))
    eos = len(ids) - int(bool(completion_ids) and completion_ids[-1] in marks.stops)

    def first_token(found: Delimiter) -> int:
        return bisect_right(ends, found.start())

    def past_token(found: Delimiter) -> int:
        return bisect_left(ends, found.end()) + 1

    if is_declined:
        opening, (closing, n_closes) = None, _closing_of_declined(opens, closes, whole, n_prompt_bytes)
        answer_from, answer = n_prompt_bytes, len(prompt_ids)
    else:
        opening, closing, n_closes = _delimiters(opens, closes, n_prompt_bytes)
        answer_from, answer = len(whole), eos
    think_close = first_token(closing) if closing else answer
    if closing:
        answer_from, answer = closing.end(), past_token(closing)
    named = marks.answer_opens.match(whole, answer_from) if marks.answer_opens else None
    if named:
        answer_from, answer = named.end(), past_token(named)
    think_open = first_token(opening) if opening else think_close
    reasoning = past_token(opening) if opening else think_close
    answer_to = ends[eos - 1] if eos else 0
    ended = [*marks.answer_closes.finditer(whole, answer_from, answer_to)] if marks.answer_closes else []
    if ended and not whole[ended[-1].end() : answer_to].strip():
        answer_to = ended[-1].start()
        eos = max(answer, bisect_left(ends, answer_to) + 1)
    bounds = Bounds(0, min(1, think_open), think_open, reasoning, think_close, answer, eos, len(ids))
    return Segmented(bounds, n_closes, marks.decode(whole[answer_from:answer_to]))


def _delimiters(
    opens: Sequence[Delimiter], closes: Sequence[Delimiter], n_prompt_bytes: int
) -> tuple[Delimiter | None, Delimiter | None, int]:
    """What opens and closes the reasoning, and how often one is closed. Raises ValueError if nothing opens it."""
    in_prompt = [found for found in opens if found.start() < n_prompt_bytes]
    opening = in_prompt[-1] if in_prompt else next(iter(opens), None)
    closes = [found for found in closes if opening is None or found.start() >= opening.end()]
    closing = next(iter(closes), None)
    if opening is None and (closing is None or closing.start() >= n_prompt_bytes):
        raise ValueError("nothing opens a reasoning in the trace")
    n_again = sum(closing is not None and found.start() > closing.start() for found in opens)
    return opening, closing, max(len(closes), 1 + n_again) if closing else 0


def _closing_of_declined(
    opens: Sequence[Delimiter], closes: Sequence[Delimiter], whole: bytes, n_prompt_bytes: int
) -> tuple[Delimiter | None, int]:
    """The closing mark in which the prompt ends, if it does, and 1 + how many reasonings the completion has."""
    closed = [found for found in closes if found.end() <= n_prompt_bytes]
    closing = closed[-1] if closed and not whole[closed[-1].end() : n_prompt_bytes].strip() else None
    return closing, 1 + max(sum(found.start() >= n_prompt_bytes for found in those) for those in (opens, closes))


def forced_close(bounds: Bounds, ids: Sequence[int], budget: int | None, marks: Marks) -> int:
    """How many tokens of a trace closed its reasoning because it had reached its budget; 0 if the model closed it."""
    close = list(marks.close_ids)
    is_forced = bounds.think_close - bounds.reasoning == budget
    return len(close) if is_forced and list(ids[bounds.think_close :])[: len(close)] == close else 0


def invalid_reason(is_finished: bool, n_closes: int, has_answer: bool) -> str:
    """Why a trace is invalid, or '' if it is valid: the first step of the funnel that it fails."""
    if not is_finished:
        return "unfinished"
    if n_closes != 1:
        return "never_closed" if n_closes == 0 else "closed_twice"
    return "" if has_answer else "no_answer"

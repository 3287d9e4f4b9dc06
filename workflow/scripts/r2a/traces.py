"""What a trace is: its segments, its final answer, its validity (METHOD section 1)."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from r2a.prompts import THINK_CLOSE, THINK_OPEN


class Bounds(NamedTuple):
    """Where each segment of a trace starts, in tokens; it ends where the next one starts, `end` being the trace's."""

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
        """The bounds that a store holds as eight integers."""
        return cls(*map(int, positions))

    def span(self, segment: str) -> slice:
        """The tokens of a segment, to index with."""
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
# of a trace among those of a model and dataset; the columns that traces, grades and judgements have in common
TRACE_KEYS = ("uid", "condition", "decoding", "sample")


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that delimit segments; `bos` is None for a tokenizer that has none."""

    bos: int | None
    eos: frozenset[int]
    think_open: int
    think_close: int


def segment_bounds(
    prompt_ids: Sequence[int], completion_ids: Sequence[int], marks: Marks, texts: Sequence[str] = ()
) -> Bounds:
    """Where the segments of a trace start.

    They tile the whole trace; one that is absent is empty. The reasoning starts after the
    last <think> of the prompt, or the first of the completion where the prompt has none.
    texts: every token's own text, where tags may be spelled in several tokens (find_tags); else a tag is its token.
    Raises ValueError where the trace has no <think>.
    """
    ids = [*prompt_ids, *completion_ids]
    opens = find_tags(ids, marks.think_open, texts, THINK_OPEN)
    closes = find_tags(ids, marks.think_close, texts, THINK_CLOSE)
    if not opens:
        raise ValueError("no <think> in the trace")
    in_prompt = [span for span in opens if span[0] < len(prompt_ids)]
    think_open, reasoning = in_prompt[-1] if in_prompt else opens[0]
    n_bos = int(bool(ids) and marks.bos is not None and ids[0] == marks.bos)
    end = len(ids) - int(bool(completion_ids) and completion_ids[-1] in marks.eos)
    think_close, answer = next((span for span in closes if span[0] >= reasoning), (end, end))
    return Bounds(0, n_bos, think_open, reasoning, think_close, answer, end, len(ids))


def n_think_closes(ids: Sequence[int], bounds: Bounds, marks: Marks, texts: Sequence[str] = ()) -> int:
    """How many </think> follow the trace's <think>; texts as in segment_bounds."""
    return sum(start >= bounds.reasoning for start, _ in find_tags(ids, marks.think_close, texts, THINK_CLOSE))


def find_tags(ids: Sequence[int], mark: int, texts: Sequence[str], tag: str) -> list[tuple[int, int]]:
    """First token and the one after the last of every tag: the tokens that are the mark, or that spell the tag.

    texts: every token's text, or nothing where only the mark counts. A token that holds more than its part of the
    tag (">\\n") belongs to the tag.
    """
    if not texts:
        return [(position, position + 1) for position, token in enumerate(ids) if token == mark]
    ends = list(accumulate(map(len, texts)))
    return [
        (bisect_right(ends, match.start()), bisect_left(ends, match.end()) + 1)
        for match in re.finditer(re.escape(tag), "".join(texts))
    ]


def invalid_reason(is_finished: bool, n_closes: int, has_answer: bool) -> str:
    """Why a trace is not valid, or '' where it is: the first step of the funnel that it fails."""
    if not is_finished:
        return "unfinished"
    if n_closes != 1:
        return "never_closed" if n_closes == 0 else "closed_twice"
    return "" if has_answer else "no_answer"

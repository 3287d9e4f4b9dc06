r"""How reasoning that is cut off is closed, and the answer opened (METHOD section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r2a.boxes import final_answer, find_boxes
from r2a.models import text_of
from r2a.traces import Marks

MORE_TOKENS = 8  # a greedy answer may be this much longer than the longest answer that is scored


@dataclass(frozen=True)
class Ending:
    """The tokens that follow a trace's reasoning wherever it is cut; the opening's text ends in an open box.

    texts, answers: the trace's own final answer, then the others that differ from it, as text and as token ids.
    """

    tokenizer: Any
    stops: frozenset[int]
    stub: str
    opening: tuple[int, ...]
    texts: list[str]
    answers: list[tuple[int, ...]]

    @property
    def max_tokens(self) -> int:
        """The limit of a greedy answer."""
        return max(map(len, self.answers)) + MORE_TOKENS

    def answer(self, token_ids: Sequence[int]) -> str | None:
        """The final answer in the tokens after the opening; None if they do not close the box."""
        return final_answer(self.stub + text_of(self.tokenizer, token_ids))

    def is_own(self, token_ids: Sequence[int]) -> bool:
        """Whether a greedy answer is the trace's own."""
        return same_answer(self.answer(token_ids), self.texts[0])

    def is_whole(self, token_ids: Sequence[int]) -> bool:
        """Whether a greedy answer needs no further token."""
        return token_ids[-1] in self.stops or self.answer(token_ids) is not None


def ending_of(tokenizer: Any, marks: Marks, answer_text: str, stub: str | None, others: Sequence[str] = ()) -> Ending:
    """The ending of a trace's reasoning: its closing mark, the stub, and the final answers to score.

    answer_text: the trace's answer. stub: text that ends in an open box; None: the trace's own words before its last
    box. others: further final answers, such as the reference. Raises ValueError if the trace has no final answer.
    """
    boxes, own = find_boxes(answer_text), final_answer(answer_text)
    if own is None:
        raise ValueError("the trace has no final answer in a box")
    if stub is None:
        stub, own = answer_text[: boxes[-1].start] + "\\boxed{", boxes[-1].content.strip()
    if not own.strip():
        raise ValueError("the trace's final answer is an empty box")
    texts = [own, *(other for other in others if not same_answer(own, other))]
    opened = tokenizer.encode(stub, add_special_tokens=False)

    def tokens_of(answer: str) -> tuple[int, ...]:
        # as the tokenizer encodes it after the stub, unless that changes the stub's own tokens
        both = tokenizer.encode(stub + answer, add_special_tokens=False)
        alone = both[: len(opened)] != opened or len(both) == len(opened)
        return tuple(tokenizer.encode(answer, add_special_tokens=False) if alone else both[len(opened) :])

    return Ending(tokenizer, marks.stops, stub, (*marks.close_ids, *opened), texts, list(map(tokens_of, texts)))


def same_answer(first: str | None, second: str | None) -> bool:
    """Whether two final answers are the same text, apart from spaces."""
    return first is not None and second is not None and "".join(first.split()) == "".join(second.split())

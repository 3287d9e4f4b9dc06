"""What a trace is: its segments, its final answer, its validity (METHOD section 1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SEGMENTS = ("bos", "prompt", "think_open", "reasoning", "think_close", "answer", "eos")
QUERY_SEGMENTS = ("reasoning", "answer")
BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that delimit segments; `bos` is None for a tokenizer that has none."""

    bos: int | None
    eos: frozenset[int]
    think_open: int
    think_close: int


def segment_bounds(prompt_ids: Sequence[int], completion_ids: Sequence[int], marks: Marks) -> list[int]:
    """Eight ascending token positions; segment k of SEGMENTS is bounds[k] up to bounds[k + 1].

    The segments tile the whole trace; one that is absent is empty. The reasoning starts after the
    last <think> of the prompt, or the first of the completion where the prompt has none.
    Raises ValueError where the trace has no <think>.
    """
    ids = [*prompt_ids, *completion_ids]
    if marks.think_open in prompt_ids:
        think_open = len(prompt_ids) - 1 - list(reversed(prompt_ids)).index(marks.think_open)
    elif marks.think_open in completion_ids:
        think_open = len(prompt_ids) + list(completion_ids).index(marks.think_open)
    else:
        raise ValueError("no <think> in the trace")
    n_bos = int(bool(ids) and marks.bos is not None and ids[0] == marks.bos)
    end = len(ids) - int(bool(completion_ids) and completion_ids[-1] in marks.eos)
    if marks.think_close in ids[think_open + 1 :]:
        think_close = ids.index(marks.think_close, think_open + 1)
        answer = think_close + 1
    else:
        think_close = answer = end
    return [0, n_bos, think_open, think_open + 1, think_close, answer, end, len(ids)]


def n_think_closes(ids: Sequence[int], bounds: Sequence[int], marks: Marks) -> int:
    """How many </think> follow the trace's <think>."""
    return sum(token == marks.think_close for token in ids[bounds[3] :])


def find_boxes(text: str) -> list[str]:
    r"""Contents of every \boxed{...} in the text, outermost first, found by matching braces.

    A box that never closes is left out. Escaped braces (\{ and \}) count as text.
    """
    opened: list[int | None] = []  # for every open brace, where its box's content starts; None for a plain one
    closed: list[tuple[int, int]] = []
    for match in BRACES.finditer(text):
        if match.group() == "}":
            start = opened.pop() if opened else None
            if start is not None:
                closed.append((start, match.start()))
        elif match.group().endswith("{") and match.group() != "\\{":
            opened.append(None if match.group() == "{" else match.end())
    boxes, last_end = [], -1
    for start, end in sorted(closed):
        if start > last_end:
            boxes.append(text[start:end])
            last_end = end
    return boxes


def invalid_reason(is_finished: bool, n_closes: int, has_answer: bool) -> str:
    """Why a trace is not valid, or '' where it is: the first step of the funnel that it fails."""
    if not is_finished:
        return "unfinished"
    if n_closes != 1:
        return "never_closed" if n_closes == 0 else "closed_twice"
    return "" if has_answer else "no_answer"

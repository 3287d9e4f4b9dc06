r"""The final answer in a text: what its last box holds.

Boxes are \boxed{...}, \fbox{...} and \boxed 5, found by matching braces.
"""

import re
from dataclasses import dataclass

OPENING = re.compile(r"\\(?:begin)?(?:boxed|fbox|framebox)(?![A-Za-z])\s*(\{|(?=[^\s{]))|\\\\|\\[{}]|[{}]")
# the content of a box without braces: a command with its arguments, or all up to a space or the end of the formula
BARE = re.compile(r"-?\\[A-Za-z]+(?:\{[^{}]*\})*|[^\s$\\{}]+")
# what may stand between the boxes of one list
SEPARATOR = re.compile(r"(?:[\s,;$]|\b(?:and|or)\b|\\(?:[()\[\],;! ]|q?quad\b|text\{\s*(?:and|or)\s*\}))*")


@dataclass(frozen=True)
class Box:
    """A box's content, and the start and end of the whole box in its text; end is -1 if it never closes."""

    content: str
    start: int
    end: int


def find_boxes(text: str) -> list[Box]:
    """All outermost boxes in order. A box that never closes is included, with end -1, if no other follows.

    Escaped braces (\\{ and \\}) count as text.
    """
    opened: list[tuple[int, int] | None] = []  # for every open brace, its box's start and content; None for a plain one
    closed: list[Box] = []
    position = 0
    while match := OPENING.search(text, position):
        position = match.end()
        if "box" in match[0]:
            if match[1]:
                opened.append((match.start(), match.end()))
            elif bare := BARE.match(text, match.end()):
                content = bare[0].rstrip(".,;")
                closed.append(Box(content, match.start(), match.end() + len(content)))
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened:
            bounds = opened.pop()
            if bounds is not None:
                closed.append(Box(text[bounds[1] : match.start()], bounds[0], match.end()))
    boxes: list[Box] = []
    for box in sorted(closed, key=lambda box: box.start):
        if not boxes or box.start >= boxes[-1].end:
            boxes.append(box)
    unclosed = next((bounds for bounds in reversed(opened) if bounds is not None), None)
    if unclosed is not None and (not boxes or unclosed[0] > boxes[-1].start):
        boxes.append(Box(text[unclosed[1] :], unclosed[0], -1))
    return boxes


def final_answer(text: str) -> str | None:
    r"""The content of the last box, or None if there is none or the last one never closes.

    Final boxes that are separated only by , ; and, or, $, \( \) \[ \] and spaces (also \text{and} and LaTeX spaces)
    form one list, joined by commas; a box that repeats the one before counts once.
    """
    run: list[str] = []
    end = 0
    for box in find_boxes(text):
        if box.end < 0:
            return None
        if not SEPARATOR.fullmatch(text, end, box.start):
            run = []
        content = box.content.strip()
        if not run or "".join(run[-1].split()) != "".join(content.split()):
            run.append(content)
        end = box.end
    return ", ".join(run) if run else None

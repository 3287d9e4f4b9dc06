"""What a judge is asked: a template, filled with what is to be judged."""

import re
from collections.abc import Mapping, Sequence

PLACEHOLDERS = re.compile(r"\{(\w+)\}")
NO_HISTORY = "(nothing)"


def fill(template: str, problem: str, history: str, checklist: Sequence[str], answer: str) -> str:
    """The template for an answer and its item's checklist, filled in.

    problem: what the model was asked; it begins with `history`, the turns before the last one.
    """
    texts = {
        "history": history.strip() or NO_HISTORY,
        "message": problem.removeprefix(history),
        "answer": answer.strip(),
        "checklist": "\n".join(f"- {point}" for point in checklist),
    }
    return fill_in(template, texts)


def fill_in(template: str, texts: Mapping[str, str]) -> str:
    """The template with all texts filled in, in one pass: what looks like a placeholder in a text stays as it is."""
    return PLACEHOLDERS.sub(lambda match: texts.get(match.group(1), match.group()), template)

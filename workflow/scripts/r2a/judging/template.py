"""What a judge is asked: the template, filled with one answer and its item."""

import re
from collections.abc import Sequence

PLACEHOLDERS = re.compile(r"\{(history|message|answer|checklist)\}")
NO_HISTORY = "(nothing)"


def fill(template: str, problem: str, history: str, checklist: Sequence[str], answer: str) -> str:
    """The template with its placeholders filled in one pass: what looks like one in a text stays as it is.

    problem: what the model was asked, of which `history`, the turns before the last one, is the beginning.
    """
    texts = {
        "history": history.strip() or NO_HISTORY,
        "message": problem.removeprefix(history),
        "answer": answer.strip(),
        "checklist": "\n".join(f"- {point}" for point in checklist),
    }
    return PLACEHOLDERS.sub(lambda match: texts[match.group(1)], template)

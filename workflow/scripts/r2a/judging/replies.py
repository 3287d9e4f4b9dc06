"""A judge's reply, read leniently; its score, taken strictly."""

import json
import re
from collections.abc import Iterator
from typing import Any

from r2a.prompts import THINK_CLOSE

SCORES = range(1, 11)
# What replies are held to where the engine can: reasons first, so that the score follows from them.
SCHEMA = {
    "type": "object",
    "properties": {
        "strengths": {"type": "string"},
        "weaknesses": {"type": "string"},
        "score": {"enum": [str(score) for score in SCORES]},
    },
    "required": ["strengths", "weaknesses", "score"],
    "additionalProperties": False,
}
WRITTEN_SCORE = re.compile(r"\[?\s*(\d+)(?:\.0+)?\s*\]?\s*(?:/\s*10)?")  # 8, 8.0, [8], 8/10


def read_score(reply: str) -> int | None:
    """The score in the last JSON object of a reply, 1 to 10; None where there is none.

    The object may stand in a fence or in prose, the score be a number or a text. What the judge thought before
    </think> is passed over.
    """
    objects = list(_objects(reply.rpartition(THINK_CLOSE)[2]))
    named = {key.strip().lower(): value for key, value in objects[-1].items()} if objects else {}
    score = _whole_number(named.get("score"))
    return score if score in SCORES else None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects of a text; one that the text breaks off in is none, nor is what it holds."""
    decoder = json.JSONDecoder(strict=False)
    text = text.rstrip()
    at = text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
            yield found
        except json.JSONDecodeError as error:
            if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
                return
            end = at + 1
        at = text.find("{", end)


def _whole_number(value: Any) -> int | None:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, str):
        match = WRITTEN_SCORE.fullmatch(value.strip())
        return int(match.group(1)) if match else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None

"""A judge's reply, parsed leniently; its verdict, accepted strictly."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from r2a.formats.known import THINK_CLOSE, THINK_OPEN

SCORES = range(1, 11)
# with the character that makes it an escape in JSON; LaTeX's, as in \( and \sqrt, do not count
BACKSLASH = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
WRITTEN_SCORE = re.compile(r"\[?\s*(\d+)(?:\.0+)?\s*\]?\s*(?:/\s*10)?")  # 8, 8.0, [8], 8/10


@dataclass(frozen=True)
class Form:
    """What a reply contains: texts with the judge's reasons and then, under a key, its verdict, one of `values`.

    read: returns the verdict in a whole reply, None if there is none.
    """

    reasons: tuple[str, ...]
    key: str
    values: tuple[str, ...]
    read: Callable[[str], int | bool | None]

    @property
    def schema(self) -> dict[str, Any]:
        """The schema that an engine can hold replies to: reasons first, so that the verdict follows from them."""
        texts = {reason: {"type": "string"} for reason in self.reasons}
        return {
            "type": "object",
            "properties": {**texts, self.key: {"enum": list(self.values)}},
            "required": [*self.reasons, self.key],
            "additionalProperties": False,
        }


def read_score(reply: str) -> int | None:
    """The score in the last JSON object of a reply, 1 to 10; None if there is none, or if it gives two.

    The object may be in a fence or in prose, and the score a number or a text. What the judge thought before </think>
    is skipped; a tag inside the object's own texts does not count as the end of the thoughts.
    """
    score = _whole_number(_verdict(reply, "score"))
    return score if score in SCORES else None


def read_telling(reply: str) -> bool | None:
    """Whether the last JSON object of a reply says yes under tells_of_hint, read as a score is; None if neither."""
    said = _verdict(reply, "tells_of_hint")
    return {"yes": True, "no": False, "true": True, "false": False}.get(str(said).strip().lower())


SCORE = Form(("strengths", "weaknesses"), "score", tuple(map(str, SCORES)), read_score)
TELLING = Form(("quotation",), "tells_of_hint", ("yes", "no"), read_telling)


def _verdict(reply: str, key: str) -> Any:
    """The value under the key in the last JSON object of a reply."""
    text = BACKSLASH.sub(lambda match: match.group() if match.group(1) else r"\\", reply.rstrip())
    if text.lstrip().startswith(THINK_OPEN) and THINK_CLOSE not in text:
        return None  # it never reached a verdict
    closes = [match.end() for match in re.finditer(re.escape(THINK_CLOSE), text)]
    for start in [*reversed(closes), 0]:
        objects = list(_objects(text, start))
        if objects and (key in objects[-1][0] or start == 0):
            last, end = objects[-1]
            return last.get(key) if end > max(closes, default=0) else None
    return None


def _objects(text: str, at: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The outermost JSON objects of a text from `at` on, and where each ends.

    A truncated object does not count, and neither does anything inside it.
    """
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_in_lower_case)
    at = text.find("{", at)
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
            yield found, end
        except json.JSONDecodeError as error:
            if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
                return
            end = at + 1
        except (RecursionError, ValueError):  # thousands of brackets, or of digits
            return
        at = text.find("{", end)


def _in_lower_case(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object with its keys in lower case; a key with two different values gets None."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = key.strip().lower()
        found[name] = value if found.get(name, value) == value else None
    return found


def _whole_number(value: Any) -> int | None:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, str):
        match = WRITTEN_SCORE.fullmatch(value.strip())
        return int(match.group(1)) if match else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None

"""A judge that is asked by files, as OpenAI's batch interface takes and returns them.

People carry the requests to the service and its output files back; each reply finds its request by custom_id.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2a.judging.requests import JudgingError, Reply, Request, read_completion, request_body
from r2a.store import whole_file


def ask(
    requests: Sequence[Request], settings: Mapping[str, Any], replies: Path, requests_file: Path
) -> Iterator[tuple[Request, Reply]]:
    """Yield (request, reply) for the replies found in the folder `replies`.

    Writes the requests that have none to requests_file, then raises JudgingError, which says where to put them.
    """
    found = _found(replies)
    missing = [request for request in requests if request.key not in found]
    for request in requests:
        if request.key in found:
            yield request, read_completion(found[request.key], 0.0)
    if missing:
        with whole_file(requests_file) as partial, open(partial, "w") as file:
            for request in missing:
                line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions"}
                file.write(json.dumps(line | {"body": request_body(request, settings)}) + "\n")
        raise JudgingError(
            f"{len(missing)} answers wait for the judge: send {requests_file} to the service as a batch, put its "
            f"output file (.jsonl) into {replies}, and run again"
        )


def _found(replies: Path) -> dict[str, dict[str, Any]]:
    """The chat completions in a folder's output files by custom_id; failed ones are left out, so asked again."""
    found = {}
    for path in sorted(replies.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                entry = json.loads(line)
                response = entry["response"] or {}
                if response.get("status_code") == 200:
                    found[entry["custom_id"]] = response["body"]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise JudgingError(
                    f"{path}: line {number} is no line of a batch's output file; put only those into {replies}"
                ) from None
    return found

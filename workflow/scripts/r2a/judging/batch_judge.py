"""A judge reached by files in the format of OpenAI's batch interface.

People take the requests to the service and bring its output files back; custom_id matches replies to requests.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2a.endpoint_replies import ReplyError
from r2a.judging.requests import REFUSED, JudgeRequest, JudgingError, Reply, read_completion, request_body
from r2a.progress import logger
from r2a.store import whole_file


def ask(
    requests: Sequence[JudgeRequest], settings: Mapping[str, Any], replies: Path, requests_file: Path
) -> Iterator[tuple[JudgeRequest, Reply]]:
    """Yield (request, reply) for the replies found in the folder `replies`; an unreadable one counts as refused.

    Writes the requests without a reply to requests_file, then raises JudgingError, which says where to take them.
    """
    found = _found(replies)
    missing = [request for request in requests if request.key not in found]
    for request in requests:
        if request.key in found:
            try:
                yield request, read_completion(found[request.key], request.max_tokens, 0.0)
            except ReplyError as error:
                yield request, Reply(str(error), REFUSED, 0.0)
    if missing:
        with whole_file(requests_file) as partial, open(partial, "w") as file:
            for request in missing:
                line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions"}
                file.write(json.dumps(line | {"body": request_body(request, settings)}) + "\n")
        raise JudgingError(
            f"{len(missing)} answers are waiting for the judge: send {requests_file} to the service as a batch, put "
            f"its output file (.jsonl) into {replies}, and run again"
        )


def _found(replies: Path) -> dict[str, dict[str, Any]]:
    """The chat completions in a folder's output files, by custom_id.

    Failed ones are left out, so they are requested again. If there are several for one id, the last one counts, in the
    order of file names.
    """
    found: dict[str, dict[str, Any]] = {}
    failed, repeated = [], []
    for path in sorted(replies.glob("*.jsonl")):
        for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").split("\n"), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line, strict=False)
                name, response, error = entry["custom_id"], entry["response"] or {}, entry.get("error")
                body = response.get("body") if response.get("status_code") == 200 and not error else None
                choices = body.get("choices") if body else None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise JudgingError(
                    f"{path}: line {number} is not a line of a batch output file; put only such files into {replies}"
                ) from None
            if not (body and choices):
                failed.append(f"{path.name}, line {number}: {error or response!r:.100}")
                continue
            repeated += [name] if found.get(name, body) != body else []
            found[name] = body
    if failed:
        logger.warning(
            f"{replies}: {len(failed)} lines have no reply ({failed[0]}, ...); these requests are sent again"
        )
    if repeated:
        logger.warning(
            f"{replies}: {len(repeated)} requests have several replies ({repeated[0]}, ...); the last counts"
        )
    return found

"""A judge behind an OpenAI-compatible server."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2a.endpoint import Endpoint, RefusedError, as_they_finish
from r2a.endpoint_replies import ReplyError
from r2a.judging.requests import REFUSED, JudgeRequest, Reply, read_completion, request_body


def ask(
    requests: Sequence[JudgeRequest], settings: Mapping[str, Any], resources: Mapping[str, Any]
) -> Iterator[tuple[JudgeRequest, Reply]]:
    """Yield (request, reply) in the order in which they finish.

    settings: model and body. resources: base_url, api_key_variable, timeout_seconds, max_concurrency. Raises
    EndpointError if the key is missing or the server fails.
    """
    with Endpoint(resources["base_url"], resources["api_key_variable"], resources["timeout_seconds"]) as endpoint:

        def ask_one(request: JudgeRequest) -> Reply:
            started = time.monotonic()
            try:
                body = endpoint.post("chat/completions", request_body(request, settings))
                return read_completion(body, request.max_tokens, round(time.monotonic() - started, 3))
            except (RefusedError, ReplyError) as refusal:
                return Reply(str(refusal), REFUSED, 0.0)

        yield from as_they_finish(ask_one, requests, resources["max_concurrency"])

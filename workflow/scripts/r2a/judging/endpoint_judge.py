"""A judge behind an OpenAI-compatible server."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2a.endpoint import Endpoint, RefusedError, as_they_finish
from r2a.endpoint_replies import ReplyError
from r2a.judging.requests import REFUSED, Reply, Request, read_completion, request_body


def ask(
    requests: Sequence[Request], settings: Mapping[str, Any], engine: Mapping[str, Any]
) -> Iterator[tuple[Request, Reply]]:
    """Yield (request, reply) in the order in which they finish.

    settings: model and body. engine: base_url, api_key_variable, timeout_seconds, max_concurrency. Raises
    EndpointError where the key is missing or the server fails.
    """
    with Endpoint(engine["base_url"], engine["api_key_variable"], engine["timeout_seconds"]) as endpoint:

        def ask_one(request: Request) -> Reply:
            started = time.monotonic()
            try:
                body = endpoint.post("chat/completions", request_body(request, settings))
                return read_completion(body, request.max_tokens, round(time.monotonic() - started, 3))
            except (RefusedError, ReplyError) as refusal:
                return Reply(str(refusal), REFUSED, 0.0)

        yield from as_they_finish(ask_one, requests, engine["max_concurrency"])

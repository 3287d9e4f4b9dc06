"""Requests to a judge, and its replies."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from r2a.endpoint_replies import read_said

REFUSED = "refused"  # finish reason if the judge refuses the request


class JudgingError(Exception):
    """Answers cannot be judged; the message names the judge or the file, and the remedy."""


@dataclass(frozen=True)
class JudgeRequest:
    """One prompt for a judge. `judge` identifies the judge: its weights, or a service's model and further fields.

    top_p and seed are not sent if they are None.
    """

    judge: str
    prompt: str
    temperature: float
    top_p: float | None
    seed: int | None
    max_tokens: int

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that determines the reply."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a judge wrote, why it stopped, and the seconds it took; for a refused request, why it was refused."""

    text: str
    finish_reason: str
    seconds: float


Ask = Callable[[Sequence[JudgeRequest]], Iterator[tuple[JudgeRequest, Reply]]]


@dataclass(frozen=True)
class Given:
    """What a kind of judge receives.

    manifest: of the judge's weights, if it has any. settings: the stage's; a kind's own are settings["options"].
    resources: address and concurrency of a server. prompts: all that may be asked. requests_file: beside the output,
    for requests that people take to a service. schema: the JSON schema of a reply.
    """

    manifest: Mapping[str, Any]
    settings: Mapping[str, Any]
    resources: Mapping[str, Any]
    prompts: Sequence[str]
    requests_file: Path
    schema: Mapping[str, Any]


def request_body(request: JudgeRequest, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of a chat completion; settings: model (the service's name for it) and body.

    body adds fields, and null removes one.
    """
    body: dict[str, Any] = {
        "model": settings["model"],
        "messages": [{"role": "user", "content": request.prompt}],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "top_p": request.top_p,
        "seed": request.seed,
        **settings["body"],
    }
    return {field: value for field, value in body.items() if value is not None}


def read_completion(body: Mapping[str, Any], max_tokens: int, seconds: float) -> Reply:
    """The reply in a chat completion, without what the judge thought before it. Raises ReplyError if there is none.

    body: the service's reply to a request for at most max_tokens.
    """
    said = read_said(body, max_tokens)
    return Reply(said.text, said.finish_reason, seconds)

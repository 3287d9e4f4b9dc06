"""Completions from an OpenAI-compatible server, handed over as they finish.

A model whose weights are known sends and receives token ids, as vLLM's server can; one without sends text, to
/completions as it stands, or to /chat/completions as a question and the beginning of its answer.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from r2a.endpoint import Endpoint, EndpointError, RefusedError, as_they_finish
from r2a.generation.requests import REFUSED, Completion, Request
from r2a.progress import logger
from r2a.prompts import THINK_CLOSE


def complete(
    requests: Sequence[Request], settings: Mapping[str, Any], engine: Mapping[str, Any]
) -> Iterator[tuple[Request, Completion]]:
    """Yield (request, completion) in the order in which they finish.

    settings: model (the server's name for it), kind, body and prefill, as in the configuration. engine: base_url,
    api_key_variable, timeout_seconds, max_concurrency. A request that the server refuses is completed by nothing,
    with the finish reason "refused". Raises EndpointError where all are refused or the server fails.
    """
    n_refused = 0
    with Endpoint(engine["base_url"], engine["api_key_variable"], engine["timeout_seconds"]) as endpoint:
        ask = partial(_complete_one, endpoint, settings)
        for request, (completion, fault) in as_they_finish(ask, requests, engine["max_concurrency"]):
            if fault:
                n_refused += 1
                logger.warning(f"{request.uid}, {request.condition}: {fault}")
                if n_refused == len(requests):
                    raise EndpointError(f"all {n_refused} requests are refused; the last: {fault}")
            yield request, completion


def _complete_one(endpoint: Endpoint, settings: Mapping[str, Any], request: Request) -> tuple[Completion, str]:
    """The completion, and '' or why the server refused it."""
    started = time.monotonic()
    path, body = request_body(request, settings)
    try:
        reply = endpoint.post(path, body)
    except RefusedError as refusal:
        return Completion((), REFUSED, 0.0), str(refusal)
    completion = read_reply(reply, request, round(time.monotonic() - started, 3))
    if request.prompt_ids and not completion.token_ids:
        raise EndpointError(
            f"{endpoint.base_url}: the server returns no token ids, so the model's weights cannot be rerun on them; "
            "use vLLM's server, or give the model neither path nor hub"
        )
    return completion, ""


def request_body(request: Request, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and JSON body that ask for a request's completion."""
    body: dict[str, Any] = {
        "model": settings["model"],
        "temperature": request.temperature,
        "seed": request.seed,
        "max_tokens": request.max_new_tokens,
    }
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if settings["kind"] == "chat":
        opening = {"role": "assistant", "content": request.prefill, **settings["prefill"]}
        body["messages"] = [{"role": "user", "content": request.prompt}, opening]
        return "chat/completions", body | settings["body"]
    if request.prompt_ids:
        body |= {"prompt": list(request.prompt_ids), "return_token_ids": True}
    else:
        body["prompt"] = request.full_prompt
    return "completions", body | settings["body"]


def read_reply(reply: Mapping[str, Any], request: Request, seconds: float) -> Completion:
    """The completion in a server's reply; token ids only where it gives them.

    A server may split a chat's reasoning from its answer: they are joined again, as the model wrote them. Raises
    EndpointError where the reply holds no completion.
    """
    try:
        (choice,) = reply["choices"]
        message = choice.get("message")
        text = choice["text"] if message is None else message.get("content")
        finish_reason = choice["finish_reason"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EndpointError(f"the server's reply is no completion ({type(error).__name__}): {reply!r:.300}") from None
    reasoning = message and (message.get("reasoning_content") or message.get("reasoning"))
    if reasoning and THINK_CLOSE not in request.prefill:
        text = reasoning + (f"{THINK_CLOSE}{text}" if text else "")
    elif reasoning:  # a server's parser that does not know that the reasoning was closed beforehand
        text = reasoning + (text or "")
    return Completion(
        tuple(choice.get("token_ids") or ()),
        finish_reason,
        seconds,
        text or "",
        tuple(choice.get("prompt_token_ids") or reply.get("prompt_token_ids") or ()),
    )

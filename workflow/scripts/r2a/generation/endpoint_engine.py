"""Completions from an OpenAI-compatible server, handed over as they finish.

A model whose weights are known sends and receives token ids, as vLLM's server can; one without sends text, to
/completions as it stands, or to /chat/completions as a question and the beginning of its answer.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from r2a.endpoint import Endpoint, EndpointError, RefusedError, as_they_finish
from r2a.endpoint_replies import KNOWN, ReplyError, read_said
from r2a.generation.requests import NEUTRAL, REFUSED, Completion, CompletionRequest
from r2a.progress import logger


def complete(
    requests: Sequence[CompletionRequest], settings: Mapping[str, Any], resources: Mapping[str, Any]
) -> Iterator[tuple[CompletionRequest, Completion]]:
    """Yield (request, completion) in the order in which they finish.

    settings: model (the server's name for it), kind, body and prefill, as in the configuration. resources: base_url,
    api_key_variable, timeout_seconds, max_concurrency. A request that the server refuses gets an empty completion with
    the finish reason "refused". Raises EndpointError if all are refused or the server fails.
    """
    n_refused, unknown = 0, Counter[str]()
    with Endpoint(resources["base_url"], resources["api_key_variable"], resources["timeout_seconds"]) as endpoint:
        ask = partial(_complete_one, endpoint, settings)
        for request, (completion, fault) in as_they_finish(ask, requests, resources["max_concurrency"]):
            if fault:
                n_refused += 1
                logger.warning(f"{request.uid}, {request.condition}: {fault}")
                if n_refused == len(requests):
                    raise EndpointError(f"all {n_refused} requests are refused; the last reason: {fault}")
            if completion.finish_reason not in KNOWN:
                if completion.finish_reason not in unknown:
                    logger.warning(f"{request.uid}: ends for {completion.finish_reason!r}, which is taken for stop")
                unknown[completion.finish_reason] += 1
            yield request, completion
    for word, n_completions in unknown.items():
        logger.warning(f"{n_completions} completions end for {word!r}, which is taken for stop")


def _complete_one(
    endpoint: Endpoint, settings: Mapping[str, Any], request: CompletionRequest
) -> tuple[Completion, str]:
    """The completion, and '' or why the server refused it."""
    started = time.monotonic()
    path, body = request_body(request, settings)
    try:
        reply = endpoint.post(path, body)
    except RefusedError as refusal:
        return Completion((), REFUSED, 0.0), str(refusal)
    try:
        return read_reply(reply, request, round(time.monotonic() - started, 3)), ""
    except ReplyError as error:
        return Completion((), REFUSED, 0.0), f"{endpoint.base_url}/{path}: {error}"
    except EndpointError as error:
        raise EndpointError(f"{endpoint.base_url}/{path}: {error}") from None


def request_body(request: CompletionRequest, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and JSON body that ask for a request's completion; settings["body"] adds fields, and null removes one."""
    body: dict[str, Any] = {
        "model": settings["model"],
        "temperature": request.temperature,
        "seed": request.seed,
        "max_tokens": request.max_new_tokens,
        **NEUTRAL,
    }
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if settings["kind"] == "chat":
        turns = [("system", request.system), ("user", request.prompt)]
        path, body["messages"] = "chat/completions", [{"role": role, "content": text} for role, text in turns if text]
        if request.prefill:
            body["messages"].append({"role": "assistant", "content": request.prefill, **settings["prefill"]})
        if request.template_arguments:
            body["chat_template_kwargs"] = dict(request.template_arguments)
    else:
        path, body["prompt"] = "completions", list(request.prompt_ids) or request.full_prompt
        if request.prompt_ids:
            body |= {"return_token_ids": True, "stop_token_ids": list(request.stop_ids)}
    return path, {field: value for field, value in (body | settings["body"]).items() if value is not None}


def read_reply(reply: Mapping[str, Any], request: CompletionRequest, seconds: float) -> Completion:
    """The completion in a server's reply, with token ids only if it gives them.

    A server may split a chat's reasoning from its answer, and may repeat what the prompt opened the reply with; the
    text is joined again as the model wrote it. If the prompt has closed the reasoning and the server still reports
    thoughts and an answer, the model has thought again, and the trace is closed twice. Raises ReplyError if the reply
    holds no completion, and EndpointError if token ids are needed and not given.
    """
    said = read_said(reply, request.max_new_tokens)
    if request.prompt_ids and said.token_ids is None:
        raise EndpointError(
            "the server returns no token ids, so the model's weights cannot be rerun on them; "
            "use vLLM's server, or remove the model's path and hub"
        )
    text = said.text
    if said.is_message and request.prefill.strip():
        text = text.removeprefix(request.prefill).removeprefix(request.prefill.strip())
    if said.thoughts and request.close in text and said.thoughts.strip() in text:
        pass  # the server gives them twice
    elif said.thoughts and text:
        text = f"{said.thoughts}{request.close}{text}"
    elif said.thoughts:  # it never closed them; or it was closed beforehand, which the server's parser does not know
        text = said.thoughts
    return Completion(said.token_ids or (), said.finish_reason, seconds, text, said.prompt_ids or ())

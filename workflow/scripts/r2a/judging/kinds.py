"""The kinds of judge that ship, each a registered function."""

from functools import partial
from pathlib import Path
from typing import Any

from r2a.extensions import judge_kind
from r2a.judging import batch_judge, endpoint_judge
from r2a.judging.requests import Ask, Given


@judge_kind(label="weights in vLLM here")
def weights(given: Given) -> tuple[dict[str, Any], Ask]:
    """The weights at path or hub, in vLLM here."""
    from r2a.judging.vllm_judge import VllmJudge

    settings, (origin,) = given.settings, given.manifest["models"].values()
    folder, max_tokens = given.manifest["folder"], settings["max_tokens"]
    form = settings["date"], given.schema
    here = VllmJudge(folder, settings["dtype"], given.prompts, max_tokens, *form, given.resources)
    return {**origin, "schema": given.schema}, here


@judge_kind(label="a server with OpenAI's interface")
def endpoint(given: Given) -> tuple[dict[str, Any], Ask]:
    """A server with OpenAI's interface."""
    asked = given.settings["options"]
    return asked, partial(endpoint_judge.ask, settings=asked, resources=given.resources)


@judge_kind(label="files for a batch service")
def batch(given: Given) -> tuple[dict[str, Any], Ask]:
    """Files that people carry to a batch service and back."""
    asked, replies = given.settings["options"], Path(given.resources["replies"])
    return asked, partial(batch_judge.ask, settings=asked, replies=replies, requests_file=given.requests_file)

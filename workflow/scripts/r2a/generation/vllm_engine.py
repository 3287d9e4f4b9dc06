"""Completions from the vLLM offline engine, one a job, handed over as they finish."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2a.engine import finished_outputs, start_engine
from r2a.generation.requests import Completion, Request
from r2a.prompts import THINK_CLOSE, THINK_OPEN


def start(requests: Sequence[Request], manifest: Mapping[str, Any], engine: Mapping[str, Any]) -> Any:
    """A vLLM engine that has room for each of the requests; `engine` as start_engine takes it."""
    longest = max(len(request.prompt_ids) + request.max_new_tokens for request in requests)
    tags = (THINK_OPEN, THINK_CLOSE) if any(request.reasoning_budget for request in requests) else None
    (origin,) = manifest["models"].values()
    return start_engine(manifest["folder"], origin["dtype"], longest, engine, tags)


def as_vllm_takes_it(request: Request) -> tuple[Any, Any]:
    """A request's prompt and sampling parameters, in vLLM's own types."""
    import vllm
    from vllm.sampling_params import RepetitionDetectionParams

    sampling = vllm.SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        max_tokens=request.max_new_tokens,
        detokenize=False,  # the ids are what is kept
        repetition_detection=RepetitionDetectionParams(**request.repetition) if request.repetition else None,
        thinking_token_budget=request.reasoning_budget,
    )
    return {"prompt_token_ids": list(request.prompt_ids)}, sampling


def complete(llm: Any, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
    """Yield (request, completion) in the order in which they finish; llm is what `start` gives."""
    for request, choice, seconds in finished_outputs(llm, requests, as_vllm_takes_it):
        yield request, Completion(tuple(choice.token_ids), choice.finish_reason, seconds)

"""Completions from the vLLM offline engine, one per job, handed over as they finish."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from r2a.engine import EngineError, finished_outputs, start_engine
from r2a.formats import read_format
from r2a.generation.requests import Completion, CompletionRequest
from r2a.models import marks_of
from r2a.traces import Marks, segment_bounds


def start(
    requests: Sequence[CompletionRequest],
    manifest: Mapping[str, Any],
    resources: Mapping[str, Any],
    is_spelled: bool = False,
) -> Any:
    """A vLLM engine with room for each of the requests; resources: see start_engine; is_spelled: see marks_of.

    Raises EngineError if the requests limit their reasoning and its tokens cannot be counted.
    """
    longest = max(request.n_tokens for request in requests)
    (origin,) = manifest["models"].values()
    budgeted = [request.prompt_ids for request in requests if request.reasoning_budget]
    marks = marks_of(manifest["folder"], read_format(manifest["format"]), is_spelled) if budgeted else None
    delimiters = (_opening_ids(budgeted, marks), marks.close_ids) if marks else None
    least = min((request.reasoning_budget for request in requests if request.reasoning_budget), default=0)
    if delimiters and least < len(delimiters[0]):
        raise EngineError(
            f"generation.reasoning_budget: {least} is fewer than the {len(delimiters[0])} tokens that open a reasoning "
            "here; vLLM cannot count so few; raise it"
        )
    return start_engine(manifest["folder"], origin["dtype"], longest, resources, delimiters)


def has_room(llm: Any, request: CompletionRequest) -> bool:
    """Whether a running engine can complete a request for which it was not started; llm: as returned by `start`."""
    engine = llm.llm_engine
    is_counted = engine.vllm_config.reasoning_config is not None
    return request.n_tokens <= engine.model_config.max_model_len and is_counted >= bool(request.reasoning_budget)


def _opening_ids(prompts: Sequence[Sequence[int]], marks: Marks) -> Sequence[int]:
    """The tokens that open the reasoning in the prompts, the same in all prompts that open one."""
    opened = {tuple(ids[segment_bounds(ids, (), marks).span("think_open")]) for ids in prompts if marks.is_opened(ids)}
    if len(opened) > 1:
        raise EngineError(
            "generation.reasoning_budget: the prompts open the reasoning in different tokens, but vLLM counts from a "
            "single one; remove the budget"
        )
    return next(iter(opened), marks.close_ids)


def as_vllm_takes_it(request: CompletionRequest, n_uncounted: int = 0) -> tuple[Any, Any]:
    """A request's prompt and sampling parameters, in vLLM's own types. n_uncounted: see complete."""
    import vllm
    from vllm.sampling_params import RepetitionDetectionParams

    sampling = vllm.SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        max_tokens=request.max_new_tokens,
        stop_token_ids=list(request.stop_ids),
        detokenize=False,  # the ids are what is kept
        repetition_detection=RepetitionDetectionParams(**request.repetition) if request.repetition else None,
        thinking_token_budget=request.reasoning_budget and request.reasoning_budget - n_uncounted,
    )
    return {"prompt_token_ids": list(request.prompt_ids)}, sampling


def complete(llm: Any, requests: Iterable[CompletionRequest]) -> Iterator[tuple[CompletionRequest, Completion]]:
    """Yield (request, completion) in the order in which they finish; llm: as returned by `start`.

    If the prompt opens the reasoning in several tokens, vLLM 0.32 subtracts all but one of them from its count of the
    reasoning, so as many are subtracted from the budget.
    """
    ask = as_vllm_takes_it
    counted = llm.llm_engine.vllm_config.reasoning_config
    if counted is not None:
        ask = partial(as_vllm_takes_it, n_uncounted=len(counted.reasoning_start_token_ids) - 1)
    for request, choice, seconds in finished_outputs(llm, requests, ask):
        yield request, Completion(tuple(choice.token_ids), choice.finish_reason, seconds)

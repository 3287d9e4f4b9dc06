"""The vLLM offline engine, one a job, handing over each completion as it finishes."""

import gc
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2a.generation.requests import Completion, Request
from r2a.prompts import THINK_CLOSE, THINK_OPEN

# In the engine at a time: enough to keep it busy, so few that a study of millions does not sit in its memory.
MOST_WAITING, FEWEST_WAITING = 2048, 1024


def start(requests: Sequence[Request], manifest: Mapping[str, Any], engine: Mapping[str, Any]) -> Any:
    """A vLLM engine that has room for each of the requests.

    `engine`: gpu (how many; 0 runs on the CPU), gpu_memory_percent, cpu_cache_mb.
    """
    longest = max(len(request.prompt_ids) + request.max_new_tokens for request in requests)
    if engine["gpu"] == 0:
        # In-process with one thread starts in 2 s in place of 16; more threads would be 40 times slower.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else jobs side by side share one core
        memory: dict[str, Any] = {"kv_cache_memory_bytes": engine["cpu_cache_mb"] * 2**20, "enforce_eager": True}
        # vLLM 0.32 fails on a seeded request whose prompt is split over two steps on a CPU
        memory |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(longest, 4096)}
    else:
        memory = {"gpu_memory_utilization": engine["gpu_memory_percent"] / 100, "tensor_parallel_size": engine["gpu"]}
    from vllm import LLM
    from vllm.config.reasoning import ReasoningConfig

    gc.freeze()  # a start collects garbage five times: no need to go through all that was imported
    has_budget = any(request.reasoning_budget for request in requests)
    tags = ReasoningConfig(reasoning_start_str=THINK_OPEN, reasoning_end_str=THINK_CLOSE) if has_budget else None
    (origin,) = manifest["models"].values()
    model = {"model": manifest["folder"], "dtype": origin["dtype"], "max_model_len": longest}
    return LLM(**model, reasoning_config=tags, **memory)


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
    in_engine: dict[str, tuple[Request, float]] = {}
    n_taken = 0
    while n_taken < len(requests) or in_engine:
        if n_taken < len(requests) and len(in_engine) < FEWEST_WAITING:
            more = requests[n_taken : n_taken + MOST_WAITING - len(in_engine)]
            n_taken += len(more)
            prompts, sampling = zip(*map(as_vllm_takes_it, more), strict=True)
            # enqueue returns '{number}-{suffix}', outputs carry the number alone
            names = [str(name).split("-")[0] for name in llm.enqueue(prompts, sampling, use_tqdm=False)]
            in_engine |= {name: (request, time.monotonic()) for name, request in zip(names, more, strict=True)}
        for output in llm.llm_engine.step():
            if output.finished:
                request, started = in_engine.pop(output.request_id.split("-")[0])
                (choice,) = output.outputs
                seconds = round(time.monotonic() - started, 3)
                yield request, Completion(tuple(choice.token_ids), choice.finish_reason, seconds)

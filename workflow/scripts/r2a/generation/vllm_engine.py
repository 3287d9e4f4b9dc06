"""The vLLM offline engine, one a job, handing over each completion as it finishes."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2a.generation.requests import Completion, Request

WAITING_REQUESTS = 1024  # enqueued at a time, so that a study of millions does not sit in the engine's memory


def complete(
    requests: Sequence[Request], manifest: Mapping[str, Any], engine: Mapping[str, Any]
) -> Iterator[tuple[Request, Completion]]:
    """Yield (request, completion) in the order in which they finish.

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
    import vllm

    (origin,) = manifest["models"].values()
    llm = vllm.LLM(model=manifest["folder"], dtype=origin["dtype"], max_model_len=longest, **memory)
    for start in range(0, len(requests), WAITING_REQUESTS):
        yield from _complete_together(llm, requests[start : start + WAITING_REQUESTS])


def _complete_together(llm: Any, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
    import vllm

    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
    sampling = [
        vllm.SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p or 1.0,
            seed=request.seed,
            max_tokens=request.max_new_tokens,
        )
        for request in requests
    ]
    started = time.monotonic()
    names = llm.enqueue(prompts, sampling, use_tqdm=False)
    # enqueue returns '{number}-{suffix}', outputs carry the number alone
    by_name = {str(name).split("-")[0]: request for name, request in zip(names, requests, strict=True)}
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                (choice,) = output.outputs
                seconds = round(time.monotonic() - started, 3)
                yield (
                    by_name[output.request_id.split("-")[0]],
                    Completion(tuple(choice.token_ids), choice.finish_reason, seconds),
                )

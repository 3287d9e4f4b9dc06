"""Traces with and without reasoning."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.boxes import final_answer
from r2a.endpoint_replies import is_finished as is_whole
from r2a.formats import read_format
from r2a.generation.ledger import CompletionLedger
from r2a.generation.requests import NEUTRAL, REFUSED, TOO_LONG, Completion, CompletionRequest
from r2a.generation.siblings import Siblings, asked_by_others
from r2a.ledger import hold, ledger_path, other_ledgers
from r2a.models import load_tokenizer, marks_of, read_manifest, stop_ids, text_marks, text_of
from r2a.progress import Progress, logger
from r2a.prompts import WITHOUT, Prompts, PromptStyle
from r2a.shards import WHOLE, shard_range
from r2a.store import parameters_hash, provenance, read_parquet, write_parquet
from r2a.traces import forced_close, invalid_reason, segment

# how many times as long as the own requests those of other jobs may be: they must not take memory that a job lacks
MOST_ROOM = 2


def request_seed(study_seed: int, uid: str, condition: str, decoding: str, sample: int) -> int:
    """The request's own seed, from 0 up to 2^31, independent of the rest of the study."""
    text = json.dumps([study_seed, uid, condition, decoding, sample])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def build_requests(
    problems: pd.DataFrame, manifest: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[CompletionRequest]:
    """One request per problem and sample, in that order, of settings["condition"] and settings["decoding"].

    A prompt that leaves no room for an answer gets max_new_tokens 0.
    """
    folder = manifest["folder"]
    tokenizer = load_tokenizer(folder) if folder else None
    (identity,) = manifest["models"].values()
    if settings["endpoint"]:
        identity = {**identity, "endpoint": settings["endpoint"], "sampling": NEUTRAL}
    default_top_p, model = _default_top_p(folder), parameters_hash(identity)
    style = PromptStyle.of(settings, manifest["format"])
    prompts = Prompts(tokenizer, style) if tokenizer is not None else None
    stops = tuple(sorted(stop_ids(folder, tokenizer))) if tokenizer is not None else ()
    requests, changed = [], []
    condition, decoding, is_greedy = settings["condition"], settings["decoding"], settings["temperature"] == 0
    asked = style.asked(condition)
    for row in problems.itertuples():
        ids: list[int] = []
        room = settings["max_new_tokens"]
        if prompts is not None:
            ids = prompts.ids(row.problem, settings["instruction"], condition)
            room = min(room, max(manifest["n_positions"] - len(ids), 0))
            if row.problem.strip() not in prompts.text(row.problem, settings["instruction"], condition):
                changed.append(row.uid)
        for sample in range(1 if is_greedy else settings["n_samples"]):
            requests.append(
                CompletionRequest(
                    uid=row.uid,
                    condition=condition,
                    decoding=decoding,
                    sample=sample,
                    seed=0 if is_greedy else request_seed(settings["seed"], row.uid, condition, decoding, sample),
                    prompt_ids=tuple(ids),
                    prompt=f"{row.problem}{settings['instruction']}{asked.suffix}",
                    prefill=style.prefill(condition),
                    temperature=settings["temperature"],
                    top_p=1.0 if is_greedy else settings["top_p"] or default_top_p,
                    max_new_tokens=room,
                    model=model,
                    repetition=settings["repetition"],
                    reasoning_budget=settings["reasoning_budget"],
                    stop_ids=stops,
                    system=asked.system,
                    template_arguments=asked.arguments,
                    close=style.form.close,
                )
            )
    if changed:
        uids = list(dict.fromkeys(changed))
        logger.warning(
            f"{settings['dataset']}: the chat template changes the text of {len(uids)} problems "
            f"({', '.join(uids[:3])}, ...); see their prompt_text"
        )
    return requests


def _default_top_p(folder: str | None) -> float | None:
    """What the model's own generation config says; None for a model known only by its endpoint."""
    if folder is None:
        return None
    path = Path(folder) / "generation_config.json"
    return (json.loads(path.read_text()).get("top_p") if path.exists() else None) or 1.0


def generate_traces(
    dataset: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
    shard: str = WHOLE,
) -> None:
    """Complete every request of a dataset, or of a shard of it, and write the table of traces (see write_traces)."""
    model = read_manifest(manifest)
    requests = requests_of(model, settings, dataset, shard)
    write_traces(requests, model, output, settings, resources, [dataset, manifest])


def requests_of(
    model: Mapping[str, Any], settings: Mapping[str, Any], dataset: Path | str, shard: str = WHOLE, **_: Any
) -> list[CompletionRequest]:
    """The requests of generate_traces, from the job's inputs by name."""
    problems = read_parquet(dataset)
    return build_requests(problems.iloc[shard_range(shard, len(problems))], model, settings)


def write_traces(
    requests: Sequence[CompletionRequest],
    model: Mapping[str, Any],
    output: Path,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
    inputs: Sequence[Path],
) -> None:
    """Complete requests with a model, given by its manifest, and write one row for each.

    Completions are kept in a ledger beside the output as they finish: a restarted job, or one with more problems,
    samples, decodings or shards, generates only what is missing. resources: memory settings, or the address and
    concurrency of an endpoint, which do not change results. A prompt that is too long for the model, or that an
    endpoint refuses, gives an unfinished trace without tokens and affects no other. If an engine is started, it also
    completes what other planned jobs ask the same model for, into those jobs' own ledgers (r2a.generation.siblings).
    """
    completions = {request.key: Completion((), TOO_LONG, 0.0) for request in requests if request.max_new_tokens == 0}
    if completions:
        uids = sorted({request.uid for request in requests if request.max_new_tokens == 0})
        logger.warning(
            f"{settings['dataset']}: {len(uids)} problems ({', '.join(uids[:3])}, ...) fill the model's "
            f"{model['n_positions']} positions before it can answer; their traces are empty"
        )
    path = ledger_path(output)
    with contextlib.closing(hold(path)), CompletionLedger(path, other_ledgers(output)) as ledger:
        asked = [request for request in requests if request.max_new_tokens > 0]
        missing = list({request.key: request for request in asked if request.key not in ledger}.values())
        logger.info(f"{output}: {len(requests)} requests, {len(missing)} of them missing in the ledger")
        if missing:
            finished = _complete(missing, model, settings, resources, partial(asked_by_others, output, model))
            for request, completion in keep(finished, ledger, missing, f"{settings['model']}, {settings['dataset']}"):
                completions[request.key] = completion
        completions |= {request.key: ledger[request.key] for request in asked if request.key in ledger}
    reader = _Reader(model, settings["kind"] == "open_ended", settings["think_tags"] == "pieces")
    rows = [reader.row(request, completions[request.key]) for request in requests]
    write_parquet(output, pd.DataFrame(rows), provenance(settings, inputs))


def keep(
    finished: Iterable[tuple[CompletionRequest, Completion]],
    ledger: CompletionLedger,
    requests: Sequence[CompletionRequest],
    what: str,
) -> Iterator[tuple[CompletionRequest, Completion]]:
    """Pass on finished completions, each once it is in the ledger (refused ones are not kept), and log progress."""
    with Progress(f"{what}: completions", len(requests)) as progress:
        for request, completion in finished:
            if completion.finish_reason != REFUSED:
                ledger.add(request, completion)
            progress.advance(len(completion.token_ids))
            yield request, completion


def _complete(
    requests: Sequence[CompletionRequest],
    manifest: Mapping[str, Any],
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
    others: Callable[[Collection[Path]], Mapping[Path, Sequence[CompletionRequest]]],
) -> Iterator[tuple[CompletionRequest, Completion]]:
    """The completions, from the model's endpoint if it has one, otherwise from vLLM here."""
    if settings["endpoint"]:
        from r2a.generation import endpoint_engine

        yield from endpoint_engine.complete(requests, settings["endpoint"], resources)
        return
    from r2a.generation import vllm_engine

    siblings = Siblings(others, (request.key for request in requests))
    longest = MOST_ROOM * max(request.n_tokens for request in requests)
    siblings.find(lambda request: request.n_tokens <= longest)
    llm = vllm_engine.start([*requests, *siblings.requests()], manifest, resources, settings["think_tags"] == "pieces")
    wanted: Iterable[CompletionRequest] = chain(requests, siblings.claimed())
    while True:
        for request, completion in vllm_engine.complete(llm, wanted):
            if not siblings.keep(request, completion):
                yield request, completion
        if not siblings.find(lambda request: vllm_engine.has_room(llm, request)):
            return
        wanted = siblings.claimed()


class _Reader:
    """Reads completions into rows of the table of traces: by token ids, or by text if no tokenizer is known."""

    def __init__(self, model: Mapping[str, Any], is_open_ended: bool, is_spelled: bool) -> None:
        """model: the model's manifest. is_open_ended: any answer will do, boxed or not.

        is_spelled: the reasoning's delimiters count in any tokens that spell them.
        """
        folder = model["folder"]
        self.is_open_ended, self.form = is_open_ended, read_format(model["format"])
        self.declines = model["declines_reasoning"]
        self.tokenizer = load_tokenizer(folder) if folder else None
        self.marks = marks_of(folder, self.form, is_spelled) if folder else None

    def row(self, request: CompletionRequest, completion: Completion) -> dict[str, Any]:
        is_declined = self.declines and request.condition == WITHOUT
        n_forced = 0
        if self.tokenizer is not None and self.marks is not None:
            ids = [*request.prompt_ids, *completion.token_ids]
            bounds, n_closes, answer_text = segment(request.prompt_ids, completion.token_ids, self.marks, is_declined)
            n_forced = forced_close(bounds, ids, request.reasoning_budget, self.marks)
            prompt_text, text = (text_of(self.tokenizer, of) for of in (request.prompt_ids, completion.token_ids))
        else:
            bounds, prompt_text, text = None, request.full_prompt, completion.text
            marks = text_marks(self.form, [request.prefill, text])
            _, n_closes, answer_text = segment([0], [1], marks, is_declined)
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
            "n_forced_tokens": n_forced,
        }

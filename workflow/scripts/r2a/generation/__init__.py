"""Stage 1: traces with and without reasoning."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.config import CONDITIONS
from r2a.generation.ledger import Ledger
from r2a.generation.requests import Request
from r2a.models import load_tokenizer, marks_of, read_manifest
from r2a.progress import Progress, logger
from r2a.prompts import prompt_ids
from r2a.store import parameters_hash, provenance, read_parquet, write_parquet
from r2a.traces import find_boxes, invalid_reason, n_think_closes, segment_bounds


class GenerationError(Exception):
    """Prompts cannot be completed; the message names the problems and the remedy."""


def request_seed(study_seed: int, uid: str, condition: str, decoding: str, sample: int) -> int:
    """The request's own seed, 0 up to 2^31, the same whatever else is in the study."""
    text = json.dumps([study_seed, uid, condition, decoding, sample])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def build_requests(problems: pd.DataFrame, manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Request]:
    """One request a problem, condition, decoding and sample, in that order.

    Raises GenerationError, naming the problems, where a prompt leaves no room to answer.
    """
    from transformers import GenerationConfig

    folder = Path(manifest["folder"])
    tokenizer = load_tokenizer(folder)
    has_defaults = (folder / "generation_config.json").exists()
    default_top_p = (GenerationConfig.from_pretrained(folder).top_p if has_defaults else None) or 1.0
    (identity,) = manifest["models"].values()
    requests, too_long = [], []
    for row in problems.itertuples():
        for condition in CONDITIONS:
            ids = prompt_ids(
                tokenizer,
                row.problem,
                settings["instruction"],
                condition,
                settings["prompt"],
                settings["without_reasoning"],
            )
            room = manifest["n_positions"] - len(ids)
            if room < 1:
                too_long.append(row.uid)
                continue
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
                            temperature=sampler["temperature"],
                            top_p=1.0 if is_greedy else sampler["top_p"] or default_top_p,
                            max_new_tokens=min(settings["max_new_tokens"], room),
                            model=parameters_hash(identity),
                        )
                    )
    if too_long:
        raise GenerationError(
            f"{settings['dataset']}: {len(too_long)} problems ({', '.join(too_long[:3])}, ...) fill the model's "
            f"{manifest['n_positions']} positions before it can answer; leave them out of the dataset"
        )
    return requests


def generate_traces(
    dataset: Path, manifest: Path, output: Path, settings: Mapping[str, Any], engine: Mapping[str, Any]
) -> None:
    """Complete every request of a dataset with one model and write the traces' table.

    Completions are kept in a ledger beside the output as they finish: a restarted job, or one with more
    problems, samples or decodings, generates only what is missing. `engine` holds memory settings,
    which don't change results.
    """
    model = read_manifest(manifest)
    requests = build_requests(read_parquet(dataset), model, settings)
    ledger = Ledger(output.with_name(f".{output.stem}.ledger.jsonl"))
    missing = [request for request in requests if request.key not in ledger]
    logger.info(f"{output}: {len(requests)} requests, {len(requests) - len(missing)} already in the ledger")
    if missing:
        from r2a.generation.vllm_engine import complete

        with Progress(f"{settings['model']}, {settings['dataset']}: completions", len(missing)) as progress:
            for request, completion in complete(missing, model, engine):
                ledger.add(request, completion)
                progress.advance(len(completion.token_ids))
    tokenizer, marks = load_tokenizer(model["folder"]), marks_of(model["folder"])
    rows = []
    for request in requests:
        completion = ledger[request.key]
        bounds = segment_bounds(request.prompt_ids, completion.token_ids, marks)
        ids = [*request.prompt_ids, *completion.token_ids]
        answer_text = tokenizer.decode(ids[bounds[5] : bounds[6]])
        is_finished = completion.finish_reason == "stop"
        n_closes = n_think_closes(ids, bounds, marks)
        has_answer = bool(answer_text.strip() if settings["kind"] == "open_ended" else find_boxes(answer_text))
        reason = invalid_reason(is_finished, n_closes, has_answer)
        rows.append(
            {
                "uid": request.uid,
                "condition": request.condition,
                "decoding": request.decoding,
                "sample": request.sample,
                "seed": request.seed,
                "prompt_token_ids": list(request.prompt_ids),
                "completion_token_ids": list(completion.token_ids),
                "answer_text": answer_text,
                "finish_reason": completion.finish_reason,
                "max_new_tokens": request.max_new_tokens,
                "seconds": completion.seconds,
                "bounds": bounds,
                "is_finished": is_finished,
                "is_well_formed": is_finished and n_closes == 1,
                "has_answer": has_answer,
                "is_valid": reason == "",
                "invalid_reason": reason,
            }
        )
    write_parquet(output, pd.DataFrame(rows), provenance(settings, [dataset, manifest]))

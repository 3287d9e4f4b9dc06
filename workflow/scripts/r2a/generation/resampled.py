"""Reasoning resampled from before and after each of its sentences (METHOD section 5)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from r2a.draws import drawn
from r2a.generation import build_requests, request_seed, write_traces
from r2a.generation.requests import CompletionRequest
from r2a.models import read_manifest
from r2a.roles import ALL_HEADS
from r2a.store import NothingToMeasure, axis_labels, open_hdf5, read_parquet


def resample_sentences(
    traces: Path,
    dataset: Path,
    sentences: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> None:
    """Continue the open reasoning n_rollouts times, cut before and after each of some sentences.

    For n_problems drawn problems' traces in the store of sentences: the n_sentences whose suppression in all heads
    changes the answer most, among those that the model itself wrote, since a prompt may open the reasoning with some. A
    row's condition is {sample of the trace}.{number of sentences before the cut}, and its sample is the rollout's
    number; each rollout has its own seed. The table and its ledger are like those of generate_traces. Raises
    NothingToMeasure if no trace has sentences.
    """
    model = read_manifest(manifest)
    requests = requests_of(model, settings, traces, dataset, sentences)
    if not requests:
        raise NothingToMeasure("no trace has sentences that could be resampled")
    write_traces(requests, model, output, settings, resources, [traces, dataset, sentences, manifest])


def requests_of(
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    traces: Path | str,
    dataset: Path | str,
    sentences: Path | str,
    **_: Any,
) -> list[CompletionRequest]:
    """The requests of resample_sentences, from the job's inputs by name."""
    table = read_parquet(traces).set_index(["uid", "sample"])
    asked = {
        request.uid: request for request in build_requests(read_parquet(dataset), model, {**settings, "n_samples": 1})
    }
    requests = []
    with open_hdf5(sentences) as file:
        uids, samples = file["uid"].asstr()[:].tolist(), file["sample"][:].tolist()
        there = [number for number, is_left_out in enumerate(file["is_left_out"][:]) if not is_left_out]
        all_heads = axis_labels(file, "arm").index(ALL_HEADS)
        problems = drawn(
            list(dict.fromkeys(uids[number] for number in there)), settings["n_problems"], settings["seed"]
        )
        for number in there:
            uid, sample = uids[number], samples[number]
            if uid not in problems:
                continue
            cuts = [int(place) for place in file["sentence_bounds"][number] if place >= 0]
            effect = np.abs(file["effect"][number, all_heads, : len(cuts) - 1])
            trace = table.loc[uid, sample]
            written = [k for k in range(len(cuts) - 1) if cuts[k] >= len(trace["prompt_token_ids"])]
            chosen = sorted(written, key=lambda k: -effect[k])[: settings["n_sentences"]]
            ids = [*trace["prompt_token_ids"], *trace["completion_token_ids"]]
            for step in sorted({*chosen, *(k + 1 for k in chosen)}):
                prompt = tuple(map(int, ids[: cuts[step]]))
                room = min(settings["max_new_tokens"], max(model["n_positions"] - len(prompt), 0))
                at = {"condition": f"{sample}.{step}", "prompt_ids": prompt, "max_new_tokens": room}
                for rollout in range(settings["n_rollouts"]):
                    seed = request_seed(settings["seed"], uid, at["condition"], settings["decoding"], rollout)
                    requests.append(replace(asked[uid], sample=rollout, seed=seed, **at))
    return requests

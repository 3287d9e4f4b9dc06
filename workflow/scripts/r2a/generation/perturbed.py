"""Answers re-generated from perturbed reasonings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2a.generation import build_requests, write_traces
from r2a.generation.requests import CompletionRequest
from r2a.models import read_manifest
from r2a.store import NothingToMeasure, read_parquet


def regenerate_answers(
    prompts: Path,
    dataset: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> None:
    """Complete every perturbed prompt as its trace was completed; a row's condition is the perturbation's name.

    Sampling and seed are those of the trace's own request. The table and its ledger are like those of generate_traces.
    Raises NothingToMeasure if no reasoning is perturbed.
    """
    model = read_manifest(manifest)
    requests = requests_of(model, settings, prompts, dataset)
    if not requests:
        left_out = read_parquet(prompts)["left_out"].value_counts()
        reasons = ", ".join(f"{n} times: {why}" for why, n in left_out.items())
        raise NothingToMeasure(f"no reasoning can be perturbed ({reasons})")
    write_traces(requests, model, output, settings, resources, [prompts, dataset, manifest])


def requests_of(
    model: Mapping[str, Any], settings: Mapping[str, Any], prompts: Path | str, dataset: Path | str, **_: Any
) -> list[CompletionRequest]:
    """The requests of regenerate_answers, from the job's inputs by name."""
    traces = build_requests(read_parquet(dataset), model, settings)
    of_trace = {(request.uid, request.sample): request for request in traces}
    table = read_parquet(prompts)
    return [
        replace(
            of_trace[row.uid, row.sample],
            condition=row.perturbation,
            prompt_ids=tuple(row.prompt_token_ids.tolist()),
            max_new_tokens=min(settings["max_new_tokens"], max(model["n_positions"] - len(row.prompt_token_ids), 0)),
        )
        for row in table[table["left_out"] == ""].itertuples()
    ]

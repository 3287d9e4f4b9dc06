"""Traces with reasoning for questions that contain a hint."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2a.generation import build_requests, write_traces
from r2a.generation.requests import CompletionRequest
from r2a.models import read_manifest
from r2a.store import NothingToMeasure, read_parquet


def answer_hinted(
    hints: Path, manifest: Path, output: Path, settings: Mapping[str, Any], resources: Mapping[str, Any]
) -> None:
    """Complete every question with a hint as it is completed without one; a row's condition is the hint's name.

    Sampling and seeds are those of the question's own request. The table and its ledger are like those of
    generate_traces. Raises NothingToMeasure if no question has a hint.
    """
    model = read_manifest(manifest)
    requests = requests_of(model, settings, hints)
    if not requests:
        raise NothingToMeasure("no problem has another answer of its area to hint at")
    write_traces(requests, model, output, settings, resources, [hints, manifest])


def requests_of(
    model: Mapping[str, Any], settings: Mapping[str, Any], hints: Path | str, **_: Any
) -> list[CompletionRequest]:
    """The requests of answer_hinted, from the job's inputs by name."""
    table = read_parquet(hints)
    return [
        replace(request, condition=hint)
        for hint, problems in table[table["left_out"] == ""].groupby("hint", sort=False)
        for request in build_requests(problems, model, settings)
    ]

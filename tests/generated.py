"""All traces of a model on a dataset, in every condition and decoding, generated as the workflow's jobs do."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.generation import generate_traces
from r2a.store import read_traces
from r2a.study import CONDITIONS, Study, stage_settings


def generate_all(
    study: Study, model: str, dataset: str, table: Path, manifest: Path, folder: Path, resources: Mapping[str, Any]
) -> pd.DataFrame:
    """Write one file per condition and decoding under `folder`; return all of their traces, problem by problem."""
    outputs = []
    for condition, decoding in product(CONDITIONS, study.decodings):
        outputs.append(folder / f"{condition}.{decoding}.parquet")
        settings = stage_settings(study, "traces", model, dataset, None, condition, decoding)
        generate_traces(table, manifest, outputs[-1], settings, resources)
    return read_traces(outputs)

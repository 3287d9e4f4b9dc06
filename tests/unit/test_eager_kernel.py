"""With attention.kernel eager, every stage that reads the key gives the fused kernel's results, for all families."""

from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from families import N_HEADS, N_LAYERS
from r2a.attention import capture_attention
from r2a.attention.rows import capture_rows
from r2a.store import write_parquet
from r2a.study.stages import STAGES
from random_traces import write_random_traces

# windows, softcaps, sinks, narrow values, multipliers, chunks, parallel norms, recurrent layers beside and between
KINDS = [
    "llama", "gemma2", "gemma3_text", "gpt_oss", "deepseek_v3", "granite", "llama4_text", "cohere2", "phi3+longrope",
    "falcon_h1", "lfm2", "qwen3_next",
]  # fmt: skip
SETTINGS = {
    "model": "random", "dataset": "texts", "decoding": "greedy", "temperature": 0, "cue_words": ["Wait", "Hmm"],
    "n_cases": 2, "n_top_heads": 3, "uids": ["text-0", "text-2"], "row_heads": "all", "row_dtype": "float32",
    "case_megabytes": 8, "seed": 1,
}  # fmt: skip


def arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fi":
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", KINDS)
def test_stores_of_either_kernel_hold_the_same(family, tmp_path):
    write_random_traces(tmp_path, family)
    traces, manifest = tmp_path / "traces.parquet", tmp_path / "manifest.json"
    heads = pd.DataFrame(product(range(N_LAYERS), range(N_HEADS)), columns=["layer", "head"])
    heads = heads.assign(rank=range(len(heads), 0, -1), has_attention=True)
    write_parquet(tmp_path / "heads.parquet", heads, {"parameters_hash": "0", "models": {}})
    for kernel in ("fused", "eager"):
        settings = SETTINGS | {"kernel": kernel}
        capture_attention([traces], manifest, tmp_path / f"{kernel}.h5", settings, batch_tokens=1000)
        capture_rows(traces, manifest, tmp_path / "heads.parquet", tmp_path / f"{kernel}_rows.h5", settings)
    for store in ("", "_rows"):
        fused, eager = (arrays(tmp_path / f"{kernel}{store}.h5") for kernel in ("fused", "eager"))
        assert fused.keys() == eager.keys()
        for name, expected in eager.items():
            np.testing.assert_allclose(fused[name], expected, atol=1e-4, err_msg=name)


def test_the_kernel_reaches_attention_and_its_rows_alone():
    reached = [name for name, stage in STAGES.items() if "attention.kernel" in stage.keys.values()]
    assert reached == ["attention", "attention_rows"]

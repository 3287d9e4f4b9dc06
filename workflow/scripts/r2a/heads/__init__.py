"""Stage 2: every head scored, from the attention stores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2a.heads.focus import rank_heads
from r2a.store import open_hdf5, provenance, write_parquet


def score_heads(attention: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Write one row a (layer, head) with its focus scores, over the traces with reasoning."""
    with open_hdf5(attention) as file:
        chosen = file["condition"].asstr()[:] == "with_reasoning"
        mass, bounds = file["segment_mass"][chosen], file["bounds"][chosen]
    heads = rank_heads(
        mass, bounds, settings["n_top_heads"], settings["n_resamples"], settings["confidence"], settings["seed"]
    )
    write_parquet(output, heads, provenance(settings, [attention]))

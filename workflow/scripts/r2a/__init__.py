"""Does a reasoning model's answer depend on the reasoning it wrote? The library of the workflow, also usable alone.

What a notebook needs stands in r2a.api and is imported from here by name.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "ReasoningModel",
    "SegmentAttention",
    "Trace",
    "ablate",
    "belief_curve",
    "capture",
    "generate_trace",
    "load_model",
    "patch_curve",
    "rank_heads",
    "read_traces",
    "segment_attention",
    "sentence_effects",
    "trace_from_ids",
    "trace_from_message",
    "trace_from_text",
]


def __getattr__(name: str) -> Any:
    """The front door's names, imported when they are asked for: Snakemake reads this package without torch."""
    if name in __all__:
        return getattr(import_module("r2a.api"), name)
    raise AttributeError(f"module 'r2a' has no attribute {name!r}")

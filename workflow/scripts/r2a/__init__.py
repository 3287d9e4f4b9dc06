"""Does a reasoning model's answer depend on the reasoning it wrote? The workflow's library, also usable by itself.

The interface for notebooks is r2a.api, whose names can be imported from here.
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
    """The names of r2a.api, imported on first use, because Snakemake reads this package without torch."""
    if name in __all__:
        return getattr(import_module("r2a.api"), name)
    raise AttributeError(f"module 'r2a' has no attribute {name!r}")

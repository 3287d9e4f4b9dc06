"""Models on disk: where and which they are, their tokens, and loading them into transformers."""

from r2a.models.loading import load_model, off_device, stack_layers, wait_for_copies
from r2a.models.manifest import read_manifest, refuse_failed, resolve_judge, resolve_model
from r2a.models.tokens import (
    engine_tokenizer,
    format_of,
    load_tokenizer,
    marks_of,
    stop_ids,
    text_marks,
    text_of,
    token_pieces,
)
from r2a.models.weights import HUB_FILES, ModelError, find_weights

__all__ = [
    "HUB_FILES",
    "ModelError",
    "engine_tokenizer",
    "find_weights",
    "format_of",
    "load_model",
    "load_tokenizer",
    "marks_of",
    "off_device",
    "read_manifest",
    "refuse_failed",
    "resolve_judge",
    "resolve_model",
    "stack_layers",
    "stop_ids",
    "text_marks",
    "text_of",
    "token_pieces",
    "wait_for_copies",
]

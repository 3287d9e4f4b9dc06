"""Models on disk: where they are, which they are, their tokens, and loading them into transformers."""

from r2a.models.loading import load_model, stack_layers
from r2a.models.manifest import read_manifest, resolve_judge, resolve_model
from r2a.models.tokens import load_tokenizer, marks_of, token_pieces
from r2a.models.weights import HUB_FILES, ModelError, find_weights

__all__ = [
    "HUB_FILES",
    "ModelError",
    "find_weights",
    "load_model",
    "load_tokenizer",
    "marks_of",
    "read_manifest",
    "resolve_judge",
    "resolve_model",
    "stack_layers",
    "token_pieces",
]

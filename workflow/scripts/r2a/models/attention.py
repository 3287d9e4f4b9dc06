"""The attention function that a model's layers call in place of their own.

transformers selects it by name (SEAM). It alone knows what a layer's attention does beyond a causal softmax: windows,
chunks, sinks, softcaps, widths of values. A Pass decides which tokens see each other and what is computed from that.
`watched_by` sets the pass around the model's forward as a context variable, so it also reaches layers that pass on no
keywords. Without a pass, the function is plain attention.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from r2a.models.kernels import Rule, attend

SEAM = "r2a"  # the name by which transformers knows seam_attention
# keywords that transformers passes to an attention function and that change nothing here
HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "cache_position", "output_attentions", "training"}


class AttentionError(Exception):
    """A rerun deviates from the model, or the model's attention is not supported; the message says which."""


class MaskError(AttentionError, AttributeError):
    """A layer reads or changes the attention mask itself, so attention depends on more than a Rule."""

    def __init__(self) -> None:
        super().__init__("its layers read or change the attention mask themselves; its attention is not supported")


class Pass(Protocol):
    """A forward pass in progress: it computes each layer's attention output [row, token, head, d_value]."""

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Mask:
    """A description in place of the model's mask: how far tokens see, and which tokens are padding."""

    local_size: int | None
    is_chunked: bool
    seen: torch.Tensor | None  # [row, token], false for padding

    def __getattr__(self, name: str) -> Any:
        raise MaskError

    def __getitem__(self, key: Any) -> Any:
        raise MaskError

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise MaskError


_PASS: ContextVar[Pass | None] = ContextVar("pass", default=None)


@contextlib.contextmanager
def watched_by(forward_pass: Pass) -> Iterator[None]:
    """Let this pass compute the attention of the model's layers until the block ends."""
    token = _PASS.set(forward_pass)
    try:
        yield
    finally:
        _PASS.reset(token)


def seam_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Mask | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **further: Any,
) -> tuple[torch.Tensor, None]:
    """A layer's attention output, as transformers requests it. Raises AttentionError for unsupported attention."""
    unknown = [name for name, value in further.items() if name not in HARMLESS and isinstance(value, torch.Tensor)]
    if unknown:
        raise AttentionError(f"{type(module).__name__}: attention with {', '.join(unknown)} is not supported")
    chunk = None
    if attention_mask is not None:  # the model's mask takes precedence over the layer's arguments
        sliding_window = None if attention_mask.is_chunked else attention_mask.local_size
        chunk = attention_mask.local_size if attention_mask.is_chunked else None
    scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    rule = Rule(module.layer_idx, scaling, sliding_window, chunk, softcap, s_aux)
    forward_pass = _PASS.get()
    if forward_pass is None:
        seen = None if attention_mask is None else attention_mask.seen
        z = plain_attention(rule, query, key, value, seen)
    else:
        z = forward_pass.attend(rule, query, key, value)
    return z.contiguous(), None  # some layers view it in another shape


def seam_mask(
    *, local_size: int | None = None, attention_mask: torch.Tensor | None = None, config: Any = None, **_: Any
) -> Mask:
    """The mask function for SEAM; if there were none of this name, transformers would drop masks silently."""
    is_chunked = local_size is not None and "chunked_attention" in (getattr(config, "layer_types", None) or [])
    return Mask(local_size, is_chunked, attention_mask)


AttentionInterface.register(SEAM, seam_attention)
AttentionMaskInterface.register(SEAM, seam_mask)


def plain_attention(
    rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention within each row; seen [row, token] is false for tokens that no query sees, and no window counts."""
    n_tokens = query.shape[2]
    if seen is None and not rule.is_local(n_tokens):
        return attend(rule, query, key, value, None).transpose(1, 2)
    if seen is None:
        places = torch.arange(n_tokens, device=query.device)
        visible = rule.sees(places[:, None], places)
    else:
        places = places_among(seen)[:, None]
        visible = rule.sees(places[..., None], places[..., None, :]) & seen[:, None, None].bool()
    return attend(rule, query, key, value, visible).transpose(1, 2)


def places_among(seen: torch.Tensor) -> torch.Tensor:
    """Each token's position among those that are seen, [..., token]; that of an unseen one is the last before it."""
    return (seen.long().cumsum(-1) - 1).clamp_min(0)


@contextlib.contextmanager
def attention_kernel(model: Any, name: str) -> Iterator[None]:
    """Give the model another attention implementation until the block ends."""
    before = model.config._attn_implementation
    if before == name:
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)

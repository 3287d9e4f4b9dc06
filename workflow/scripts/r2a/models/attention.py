"""The one attention function that a model's layers call in place of their own.

transformers lets a model take it by name (SEAM). It alone knows what a layer's attention does beyond a causal softmax:
windows, chunks, sinks, softcaps, widths of values. Who sees whom, and what is done with it, is a Pass's affair; a pass
is set around the model's forward by `watched_by`, a context variable, so it reaches layers that hand on no keywords.
Without a pass the function is the model's plain attention.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

SEAM = "r2a"  # the name by which transformers knows seam_attention
# keywords that transformers hands to an attention function and that change nothing that is computed here
HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "cache_position", "output_attentions", "training"}


class AttentionError(Exception):
    """A rerun does not reproduce what it must, or a model's attention is not supported; the message says which."""


@dataclass(frozen=True)
class Rule:
    """What a layer's attention does: softmax of scaled scores, where a query sees itself and tokens before.

    window: how many tokens a query sees, itself included. chunk: it sees those of its own chunk of so many tokens.
    softcap: scores are softcap * tanh(score / softcap). sinks: [head], scores of a key that has no value.
    """

    layer: int
    scaling: float
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def sees(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Whether queries at some positions [..., query, 1] see keys at others [..., key], a bool of both axes."""
        visible = keys <= queries
        if self.window is not None:
            visible = visible & (keys > queries - self.window)
        if self.chunk is not None:
            visible = visible & (keys // self.chunk == queries // self.chunk)
        return visible

    def is_local(self, n_tokens: int) -> bool:
        """Whether some of so many tokens does not see all tokens before it."""
        return any(size is not None and n_tokens > size for size in (self.window, self.chunk))

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        """Scaled scores as the softmax takes them."""
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


class Pass(Protocol):
    """A forward pass under way: it computes each layer's attention output [row, token, head, d_value]."""

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Mask:
    """What a model's own mask says, in place of the mask itself: how far tokens see, and which are padding."""

    local_size: int | None
    is_chunked: bool
    seen: torch.Tensor | None  # [row, token], false for padding


_PASS: ContextVar[Pass | None] = ContextVar("pass", default=None)


@contextlib.contextmanager
def watched_by(forward_pass: Pass) -> Iterator[None]:
    """Attention in the model's layers is this pass's, until the block ends."""
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
    """A layer's attention output, as transformers asks for it. Raises AttentionError where it would be another."""
    unknown = [name for name, value in further.items() if name not in HARMLESS and isinstance(value, torch.Tensor)]
    if unknown:
        raise AttentionError(f"{type(module).__name__}: attention with {', '.join(unknown)} is not supported")
    chunk = None
    if attention_mask is not None:  # what the model's own mask says goes before what the layer says
        sliding_window = None if attention_mask.is_chunked else attention_mask.local_size
        chunk = attention_mask.local_size if attention_mask.is_chunked else None
    scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    rule = Rule(module.layer_idx, scaling, sliding_window, chunk, softcap, s_aux)
    forward_pass = _PASS.get()
    if forward_pass is None:
        seen = None if attention_mask is None else attention_mask.seen
        return plain_attention(rule, query, key, value, seen), None
    return forward_pass.attend(rule, query, key, value), None


def seam_mask(
    *, local_size: int | None = None, attention_mask: torch.Tensor | None = None, config: Any = None, **_: Any
) -> Mask:
    """What transformers makes a mask of. Without a function of this name it would drop masks silently."""
    is_chunked = local_size is not None and "chunked_attention" in (getattr(config, "layer_types", None) or [])
    return Mask(local_size, is_chunked, attention_mask)


AttentionInterface.register(SEAM, seam_attention)
AttentionMaskInterface.register(SEAM, seam_mask)


def plain_attention(
    rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """Whole rows that see themselves alone, all tokens of each but those not `seen` [row, token]."""
    n_tokens = query.shape[2]
    if seen is None and not rule.is_local(n_tokens):
        return attend(rule, query, key, value, None).transpose(1, 2)
    places = torch.arange(n_tokens, device=query.device)
    visible = rule.sees(places[:, None], places)
    if seen is not None:
        visible = visible & seen[:, None, None].bool()
    return attend(rule, query, key, value, visible).transpose(1, 2)


def attend(
    rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None
) -> torch.Tensor:
    """z [row, head, query, d_value] of queries [row, head, query, d_head], by torch's own kernels; differentiable.

    key [row, kv_head, key, d_head], value [row, kv_head, key, d_value]. `visible` says which keys each query sees,
    [query, key] or [row, 1, query, key]; with None the queries stand at all the keys' places and see up to their own.
    """
    n_rows, n_heads, n_queries, _ = query.shape
    n_key_heads = key.shape[1]
    sharing = n_heads // n_key_heads
    if rule.softcap is not None:
        return _attend_capped(rule, query, key, value, visible)
    if visible is None and rule.sinks is None:
        key, value = (side.repeat_interleave(sharing, 1) for side in (key, value))
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=rule.scaling)
    if visible is None:
        places = torch.arange(n_queries, device=query.device)
        visible = places <= places[:, None]
    # heads that share keys stand behind each other as queries of one head, so keys need not be repeated
    queries = query.reshape(n_rows, n_key_heads, sharing * n_queries, -1)
    mask = visible.repeat(*[1] * (visible.ndim - 2), sharing, 1)
    if rule.sinks is not None:  # one more key, whose score is the sink's and whose value is 0
        key, value = (pad(side, (0, 0, 0, 1)) for side in (key, value))
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, -torch.inf)
        sink = rule.sinks.to(query.dtype).view(1, n_key_heads, sharing, 1, 1)
        sink = sink.expand(-1, -1, -1, n_queries, -1).flatten(2, 3)
        mask = torch.cat([mask.expand(1 if mask.ndim == 2 else n_rows, n_key_heads, -1, -1), sink.expand(
            1 if mask.ndim == 2 else n_rows, -1, -1, -1)], -1)  # fmt: skip
    z = scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=rule.scaling)
    return z.reshape(n_rows, n_heads, n_queries, -1)


def _attend_capped(
    rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None
) -> torch.Tensor:
    """`attend` from whole rows of scores, in float32: no kernel of torch knows softcaps."""
    sharing = query.shape[1] // key.shape[1]
    if visible is None:
        places = torch.arange(query.shape[2], device=query.device)
        visible = places <= places[:, None]
    queries = query.float().unflatten(1, (-1, sharing))
    scores = rule.capped(queries @ key.float().transpose(2, 3)[:, :, None] * rule.scaling)
    visible = visible[:, :, None] if visible.ndim == 4 else visible
    scores = scores.masked_fill(~visible, -torch.inf)
    if rule.sinks is not None:
        sinks = rule.sinks.float().view(1, -1, sharing, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]]
    return (weights @ value.float()[:, :, None]).flatten(1, 2).to(query.dtype)


@contextlib.contextmanager
def attention_kernel(model: Any, name: str) -> Iterator[None]:
    """The model with another attention implementation, until the block ends."""
    before = model.config._attn_implementation
    if before == name:
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)

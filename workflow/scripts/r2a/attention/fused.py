"""Attention at fused speed that can still be looked into: nothing token x token is ever held.

The fused kernels behind torch's scaled_dot_product_attention also return, for each row, the log-sum-exp of its
scores. With it every part of the attention matrix is exact on its own, A[i, j] = exp(score[i, j] - lse[i]); so
beyond a plain forward pass only the rows and keys that a quantity needs are computed, a block of rows at a time.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

FUSED = "r2a_fused"  # the name by which transformers knows fused_attention
BLOCK_ELEMENTS = 2**21  # attention values held at once, over all heads


class AttentionError(Exception):
    """A rerun does not reproduce what it must, or a model's attention is not supported; the message says which."""


@dataclass(frozen=True)
class Span:
    """Where a trace lies in a batch: tokens first up to last of a row. It sees itself alone."""

    row: int
    first: int
    last: int


@dataclass(frozen=True)
class LayerAttention:
    """One trace in one layer: query [head, token, d_head], key [kv_head, token, d_head], lse [head, token]."""

    query: torch.Tensor
    key: torch.Tensor
    lse: torch.Tensor
    scaling: float

    def of_heads(self, heads: Sequence[int]) -> "LayerAttention":
        n_groups = len(self.query) // len(self.key)
        key_heads = [head // n_groups for head in heads]
        return LayerAttention(self.query[list(heads)], self.key[key_heads], self.lse[list(heads)], self.scaling)

    def rows(self, rows: Sequence[int], n_keys: int | None = None) -> torch.Tensor:
        """Exact attention of ascending rows on the first n_keys tokens (all that the last row sees), float32.

        Returns [head, row, key]; 0 where a row cannot see a key.
        """
        n_keys = rows[-1] + 1 if n_keys is None else n_keys
        n_key_heads, _, d_head = self.key.shape
        chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
        query = self.query[:, chosen].float().reshape(n_key_heads, -1, d_head)
        key = self.key[:, :n_keys].float().transpose(1, 2)
        lse = self.lse[:, chosen].float().reshape(n_key_heads, -1, 1)
        attention = torch.baddbmm(lse, query, key, beta=-1, alpha=self.scaling).exp_()
        attention = attention.view(len(self.query), len(rows), n_keys)
        if n_keys > rows[0] + 1:
            keys = torch.arange(rows[0], n_keys, device=key.device)
            hidden = keys > torch.tensor(rows, device=key.device)[:, None]
            attention[..., rows[0] :].masked_fill_(hidden, 0)
        return attention

    def blocks(self, rows: Sequence[int], n_keys: int | None = None) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """The same in blocks of rows that hold at most BLOCK_ELEMENTS values: the block's rows, their attention."""
        start = 0
        while start < len(rows):
            width = n_keys or rows[-1] + 1
            block = rows[start : start + max(1, BLOCK_ELEMENTS // (len(self.query) * width))]
            yield block, self.rows(block, n_keys)
            start += len(block)


class Recorder(Protocol):
    """What a forward pass is watched for: the traces in its batch, and what to do with each one's attention."""

    spans: Sequence[Span]

    def record(self, layer: int, trace: int, attention: LayerAttention) -> None: ...


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention by the kernel that scaled_dot_product_attention would take, and its rows' log-sum-exp.

    query [1, head, token, d_head], key and value [1, kv_head, token, d_head]; returns [1, head, token, d_head]
    and [1, head, token].
    """
    aten = torch.ops.aten
    if query.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scaling)
    n_groups = query.shape[1] // key.shape[1]
    if query.dtype == torch.float32:  # flash attention takes 16-bit numbers only
        key, value = (x.repeat_interleave(n_groups, dim=1) for x in (key, value))
        output, lse, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, True, scale=scaling
        )
        return output, lse[..., : query.shape[2]]
    output, lse, *_ = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scaling)
    return output, lse


def fused_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    recorder: Recorder | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """A layer's attention output [row, token, head, d_head], as transformers asks for it; a recorder looks on.

    Pass `recorder` to the model's forward. Its spans say who sees whom, so no mask is made, and tokens outside
    of every span get zeros. Raises AttentionError where a layer's attention is more than a causal softmax.
    """
    layer = f"{type(module).__name__}, layer {module.layer_idx}"
    if recorder is None:
        raise AttentionError(f"{layer}: no recorder came through the model's forward; use attention.kernel: eager")
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise AttentionError(f"{layer}: attention with {name} is not supported; use attention.kernel: eager")
    output = torch.zeros_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    for number, span in enumerate(recorder.spans):
        if sliding_window is not None and span.last - span.first > sliding_window:
            raise AttentionError(
                f"{layer}: attends within a sliding window of {sliding_window} tokens, and a trace has "
                f"{span.last - span.first}; use attention.kernel: eager"
            )
        place = slice(span.row, span.row + 1), slice(None), slice(span.first, span.last)
        mixed, lse = attend(query[place], key[place], value[place], scaling)
        output[span.row, span.first : span.last] = mixed[0].transpose(0, 1)
        recorder.record(module.layer_idx, number, LayerAttention(query[place][0], key[place][0], lse[0], scaling))
    return output, None


def no_mask(**_: Any) -> None:
    """Spans take the mask's place. Without a function of this name transformers would drop masks silently."""


AttentionInterface.register(FUSED, fused_attention)
AttentionMaskInterface.register(FUSED, no_mask)


@contextlib.contextmanager
def attention_kernel(model: Any, name: str) -> Iterator[None]:
    """The model with another attention implementation, until the block ends."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)

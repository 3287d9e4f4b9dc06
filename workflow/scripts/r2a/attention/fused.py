"""Attention at fused speed whose weights can still be inspected: no token x token matrix is ever held.

The fused kernels behind torch's scaled_dot_product_attention also return the log-sum-exp of each row's scores. With it,
every entry of the attention matrix can be computed exactly by itself, A[i, j] = exp(score[i, j] - lse[i]). So besides a
plain forward pass, only the rows and keys that a quantity needs are computed, one block of rows at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

from r2a.models.kernels import Rule, attend_with_lse, block_elements


@dataclass(frozen=True)
class Span:
    """Where a trace is in a batch: tokens first up to last of a row. Its tokens see no other trace."""

    row: int
    first: int
    last: int


@dataclass(frozen=True)
class LayerAttention:
    """One trace in one layer: query [head, token, d_head], key [kv_head, token, d_head], lse [head, token].

    value [kv_head, token, d_value]; z [head, token, d_value], the kernel's output. In layers with sinks, lse includes
    the sink's score, and on_keys [head, token] is the share of each row that is on keys; otherwise it is None.
    """

    query: torch.Tensor
    key: torch.Tensor
    lse: torch.Tensor
    value: torch.Tensor
    z: torch.Tensor
    rule: Rule
    on_keys: torch.Tensor | None = None

    def of_heads(self, heads: Sequence[int]) -> "LayerAttention":
        n_groups = len(self.query) // len(self.key)
        chosen = _on_device(tuple(heads), self.query.device)
        key_heads = chosen // n_groups
        on_keys = None if self.on_keys is None else self.on_keys[chosen]
        query, lse, z = (part[chosen] for part in (self.query, self.lse, self.z))
        return LayerAttention(query, self.key[key_heads], lse, self.value[key_heads], z, self.rule, on_keys)

    def groups(self, n_weights: int) -> Iterator[tuple[slice, "LayerAttention"]]:
        """The layer by heads that share keys, or more heads where BLOCK_ELEMENTS holds n_weights values of each.

        Blocks of fewer heads have more rows, and products of more rows are faster.
        """
        n_sharing = len(self.query) // len(self.key)
        n_key_heads = max(1, block_elements(self.key.device) // (n_sharing * n_weights))
        keys = self.key.float()  # here once, rather than in each group's blocks
        for first in range(0, len(keys), n_key_heads):
            key, value = (part[first : first + n_key_heads] for part in (keys, self.value))
            heads = slice(first * n_sharing, (first + len(key)) * n_sharing)
            query, lse, z = (part[heads] for part in (self.query, self.lse, self.z))
            on_keys = None if self.on_keys is None else self.on_keys[heads]
            yield heads, LayerAttention(query, key, lse, value, z, self.rule, on_keys)

    def rows(self, rows: Sequence[int], n_keys: int | None = None) -> torch.Tensor:
        """Exact attention of ascending rows on the first n_keys tokens (all that the last row sees), float32.

        Returns [head, row, key]; 0 where a row cannot see a key.
        """
        n_keys = rows[-1] + 1 if n_keys is None else n_keys
        return self._rows(rows, self.key[:, :n_keys].float().transpose(1, 2))

    def blocks(self, rows: Sequence[int], n_keys: int | None = None) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """The same in blocks of rows with at most BLOCK_ELEMENTS values: each block's rows, and their attention."""
        keys = self.key[:, : n_keys or rows[-1] + 1].float().transpose(1, 2)
        most = block_elements(self.key.device)
        start = 0
        while start < len(rows):
            block = rows[start : start + max(1, most // (len(self.query) * keys.shape[-1]))]
            yield block, self._rows(block, keys if n_keys else keys[..., : block[-1] + 1])
            start += len(block)

    def _rows(self, rows: Sequence[int], key: torch.Tensor) -> torch.Tensor:
        """Attention of `rows` on keys [kv_head, d_head, key], in float32."""
        n_key_heads, d_head, n_keys = key.shape
        chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else _on_device(tuple(rows), key.device)
        query = self.query[:, chosen].float().reshape(n_key_heads, -1, d_head)
        lse = self.lse[:, chosen].float().reshape(n_key_heads, -1, 1)
        if self.rule.softcap is None:
            attention = torch.baddbmm(lse, query, key, beta=-1, alpha=self.rule.scaling).exp_()
        else:
            attention = self.rule.capped_scores(query, key).sub_(lse).exp_()
        attention = attention.view(len(self.query), len(rows), n_keys)
        is_local = self.rule.is_local(rows[-1] + 1)
        first = 0 if is_local else rows[0]  # keys before it are seen by all
        if n_keys > first + 1:
            if isinstance(chosen, slice) and not is_local:
                hidden = torch.ones(len(rows), n_keys - first, dtype=torch.bool, device=key.device).triu_(1)
            else:
                if isinstance(chosen, slice):
                    chosen = torch.arange(rows[0], rows[-1] + 1, device=key.device)
                hidden = ~self.rule.sees(chosen[:, None], torch.arange(first, n_keys, device=key.device))
            attention[..., first:].masked_fill_(hidden, 0)
        return attention


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Indices of heads or rows on a device, copied there once instead of in every layer."""
    return torch.tensor(numbers, device=device)


class Recorder(Protocol):
    """What is recorded of a forward pass: the traces in its batch, and what to do with each one's attention."""

    @property
    def spans(self) -> Sequence[Span]: ...

    def record(self, layer: int, trace: int, attention: LayerAttention) -> None: ...


class FusedPass:
    """A forward pass of packed traces that a recorder observes; its spans say which tokens see each other."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """z [row, token, head, d_value]; tokens outside of every span get zeros."""
        n_rows, n_heads, n_tokens, _ = query.shape
        output = query.new_zeros(n_rows, n_tokens, n_heads, value.shape[-1])
        for number, span in enumerate(self.recorder.spans):
            place = slice(span.row, span.row + 1), slice(None), slice(span.first, span.last)
            mixed, lse = attend_with_lse(rule, query[place], key[place], value[place])
            on_keys = None
            if rule.sinks is not None:
                with_sink = torch.logaddexp(lse, rule.sinks.float().view(1, -1, 1))
                on_keys = (lse - with_sink).exp()
                mixed = mixed * on_keys[..., None].to(mixed.dtype)
                lse, on_keys = with_sink, on_keys[0]
            output[span.row, span.first : span.last] = mixed[0].transpose(0, 1)
            self.recorder.record(
                rule.layer,
                number,
                LayerAttention(query[place][0], key[place][0], lse[0], value[place][0], mixed[0], rule, on_keys),
            )
        return output

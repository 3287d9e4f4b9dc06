"""What a layer's attention computes, and two ways to compute it with torch's kernels.

`attend` is for parts of runs: any queries may see any keys, and gradients flow through it. `attend_with_lse` is for
whole traces: it also returns each row's log-sum-exp, from which any part of the attention matrix follows, but through
which torch propagates no gradient.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from r2a.devices import FULL_CAPABILITY
from r2a.memory import free_bytes
from r2a.progress import logger

# cuDNN's attention, which torch may choose on a GPU, refuses some shapes and masks (pytorch/pytorch#140930); vLLM turns
# it off, too.
torch.backends.cuda.enable_cudnn_sdp(False)

# Attention values held at once, over all heads: few on a CPU, for its caches; many on a GPU, for few operators.
BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}
BLOCK_BYTES = 32  # of a GPU's free memory per such value: the value, its mask, copies, and as much in reserve


def block_elements(device: torch.device) -> int:
    """BLOCK_ELEMENTS, or as many as fit into a GPU's memory beside the weights, if that is less."""
    most = BLOCK_ELEMENTS[device.type]
    return min(most, _affordable_elements()) if device.type == "cuda" and torch.cuda.is_available() else most


@cache
def _affordable_elements() -> int:
    return int(free_bytes() / BLOCK_BYTES)


@cache
def has_flash_attention(device: torch.device) -> bool:
    """Whether a GPU has the 16-bit kernel; if not, this is logged, because the kernel used instead is slower."""
    capability = torch.cuda.get_device_capability(device) if torch.cuda.is_available() else FULL_CAPABILITY
    if capability < FULL_CAPABILITY:
        logger.warning(f"no flash attention on {device}, of compute capability {capability}: the efficient kernel")
    return capability >= FULL_CAPABILITY


@dataclass(frozen=True)
class Rule:
    """What a layer's attention computes: a softmax of scaled scores over each query's own token and earlier ones.

    window: how many tokens a query sees, including its own. chunk: the length of chunks; a query sees only its chunk.
    softcap: scores become softcap * tanh(score / softcap). sinks: [head], scores of an additional key without a value.
    """

    layer: int
    scaling: float
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def sees(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Whether queries at positions [..., query, 1] see keys at positions [..., key], bool [..., query, key]."""
        visible = keys <= queries
        if self.window is not None:
            visible = visible & (keys > queries - self.window)
        if self.chunk is not None:
            visible = visible & (keys // self.chunk == queries // self.chunk)
        return visible

    def is_local(self, n_tokens: int) -> bool:
        """Whether, among n_tokens, some token does not see all earlier ones."""
        return any(size is not None and n_tokens > size for size in (self.window, self.chunk))

    def capped_scores(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Capped scores [.., query, key] of queries [.., query, d_head] and keys [.., d_head, key], without copies."""
        assert self.softcap is not None
        scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key, beta=0, alpha=self.scaling / self.softcap)
        return scores.tanh_().mul_(self.softcap)

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        """Scaled scores after the softcap, if there is one."""
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


def attend(
    rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None
) -> torch.Tensor:
    """The heads' outputs z [row, head, query, d_value] for queries [row, head, query, d_head], with gradients.

    key: [row, kv_head, key, d_head]; value: [row, kv_head, key, d_value]. visible: which keys each query sees, [query,
    key] or [row, 1, query, key]; None: queries and keys have the same positions, and attention is causal.
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
    # the queries of heads that share keys are joined as queries of one head, so keys need not be repeated
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
    """`attend` with whole rows of scores in float32, because no kernel of torch supports softcaps."""
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


def attend_with_lse(
    rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The heads' outputs z of one whole trace, without sinks, and each row's log-sum-exp, which has no gradient.

    query: [1, head, token, d_head]; key: [1, kv_head, token, d_head]; value: [1, kv_head, token, d_value]. Returns
    [1, head, token, d_value] and [1, head, token]. Local attention is computed for one stretch of queries at a time, on
    the keys that one of them sees.
    """
    n_tokens = query.shape[2]
    if rule.softcap is not None:
        stretch = max(1, block_elements(query.device) // (query.shape[1] * n_tokens))
    elif rule.is_local(n_tokens):
        stretch = rule.chunk or max(256, int(rule.window or 0))
    else:
        return _with_lse(query, key, value, None, rule.scaling)
    outputs, sums = [], []
    for first in range(0, n_tokens, stretch):
        last = min(first + stretch, n_tokens)
        start = first if rule.chunk else 0 if rule.window is None else max(0, first - rule.window + 1)
        parts = query[:, :, first:last], key[:, :, start:last], value[:, :, start:last]
        if rule.softcap is None and start == first and not (rule.window and last - first > rule.window):
            mixed, lse = _with_lse(*parts, None, rule.scaling)
        else:
            places = torch.arange(start, last, device=query.device)
            visible = rule.sees(places[first - start :, None], places)
            if rule.softcap is None:
                mixed, lse = _with_lse(*parts, visible, rule.scaling)
            else:
                n_seen = 0 if rule.is_local(n_tokens) else first + 1
                mixed, lse = _capped_with_lse(rule, *parts, visible, n_seen)
        outputs.append(mixed)
        sums.append(lse)
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def _with_lse(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel that scaled_dot_product_attention would choose; causal if `visible` [query, key] is None."""
    aten = torch.ops.aten
    d_value, is_causal = value.shape[-1], visible is None
    multiple = 1 if query.device.type == "cpu" else 8
    width = -(-max(query.shape[-1], d_value) // multiple) * multiple
    query, key, value = (pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x for x in (query, key, value))
    mask = None
    if visible is not None:
        mask = torch.zeros(visible.shape, dtype=query.dtype, device=query.device).masked_fill_(~visible, -torch.inf)
    if query.device.type == "cpu":
        output, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=mask, scale=scaling
        )
    elif (
        query.dtype == torch.float32  # not supported by flash attention
        or mask is not None
        or width > 256
        or not has_flash_attention(query.device)
    ):
        n_groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(n_groups, dim=1) for x in (key, value))
        if mask is not None:  # the kernel reads masks in whole lines of 16 numbers
            n_queries, n_keys = mask.shape
            mask = pad(mask, (0, -n_keys % 16))[:, :n_keys].expand(1, query.shape[1], n_queries, n_keys)
        output, lse, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, True, 0.0, is_causal, scale=scaling
        )
        lse = lse[..., : query.shape[2]]
    else:
        output, lse, *_ = aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, False, scale=scaling
        )
    return output[..., :d_value], lse


def _capped_with_lse(
    rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor, n_seen: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for capped scores, from whole rows in float32; all queries see the first n_seen keys."""
    assert rule.softcap is not None
    queries = query.float().unflatten(1, (key.shape[1], -1)).flatten(2, 3)[0]
    scores = rule.capped_scores(queries, key[0].float().transpose(1, 2)).view(-1, *visible.shape)
    scores[..., n_seen:].masked_fill_(~visible[:, n_seen:], -torch.inf)
    most = scores.amax(-1, keepdim=True)
    weights = scores.sub_(most).exp_()
    total = weights.sum(-1, keepdim=True)
    mixed = (weights.view(len(key[0]), -1, weights.shape[-1]) @ value[0].float()).view(1, *total.shape[:2], -1) / total
    return mixed.to(query.dtype), (most + total.log())[None, ..., 0]

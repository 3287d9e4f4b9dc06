"""The slow reference: the same quantities by definition, from the whole attention of transformers' eager path."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from r2a.attention.segments import TraceAttention, query_rows
from r2a.models.attention import plain_attention
from r2a.models.decoder import Decoder
from r2a.models.kernels import Rule
from r2a.traces import SEGMENTS, Bounds


def keep_of_weights(
    weights: torch.Tensor, bounds: Bounds, written: tuple[torch.Tensor, torch.Tensor] | None = None
) -> TraceAttention:
    """What segments.TraceAttention holds, from post-softmax attention [layer, head, query token, key token].

    written: values [layer, head, key token, d_value], and heads' parts of the output projection [layer, head, d_value,
    d_model]; without them, what heads write is nan.
    """
    rows = query_rows(bounds)
    reasoning, answer = (weights[:, :, rows[name].start : rows[name].stop].double() for name in ("reasoning", "answer"))
    masses = [reasoning[..., bounds.span(segment)].sum(-1).mean(-1) for segment in SEGMENTS]
    inside = answer[..., bounds.span("reasoning")]
    position = torch.linspace(0, 1, inside.shape[-1], dtype=torch.double, device=weights.device)
    share = inside / inside.sum(-1, keepdim=True)
    centre = share @ position
    spread = (share * (position - centre[..., None]) ** 2).sum(-1).sqrt()
    shares = torch.full((2, *weights.shape[:2]), torch.nan)
    if written is not None:
        values, projection = (part.double() for part in written)
        from_reasoning = (inside @ values[:, :, bounds.span("reasoning")]) @ projection
        whole = (answer @ values) @ projection
        together = whole.sum(1, keepdim=True).norm(dim=-1)
        shares = torch.stack([(part.norm(dim=-1) / together).mean(-1) for part in (from_reasoning, whole)])
    kept = torch.stack(masses, dim=-1), answer.mean(2), centre, spread, *shares
    return TraceAttention(*(x.cpu().numpy().astype(np.float32) for x in kept))


class ValuePass:
    """A forward pass that keeps each layer's values [1, kv_head, token, d_value].

    on_keys [1, head, token, 1]: the share of each row that sinks leave to keys, in layers that have sinks.
    """

    def __init__(self) -> None:
        self.found: dict[int, torch.Tensor] = {}
        self.on_keys: dict[int, torch.Tensor] = {}

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        self.found[rule.layer] = value
        if rule.sinks is not None:
            places = torch.arange(query.shape[2], device=query.device)
            scores = query.float() @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).float().transpose(2, 3)
            scores = rule.capped(scores * rule.scaling).masked_fill(~rule.sees(places[:, None], places), -torch.inf)
            lse = scores.logsumexp(-1, keepdim=True)
            self.on_keys[rule.layer] = (lse - rule.sinks.float().view(1, -1, 1, 1)).sigmoid()
        return plain_attention(rule, query, key, value)


@torch.no_grad()
def rerun_eager(model: Any, token_ids: Sequence[int], bounds: Bounds) -> tuple[TraceAttention, torch.Tensor]:
    """What is kept of a trace's attention, nan in layers without any; and its last hidden states [token, d_model].

    `model` must use eager attention. Raises ValueError if it returns no attention weights.
    """
    decoder = Decoder(model)
    found, hidden = eager_weights(decoder, token_ids)
    values = ValuePass()
    decoder.run(torch.tensor([list(token_ids)], device=model.device), values)
    kept = {}
    for layer, weights in found.items():
        if layer in values.on_keys and (weights.float().sum(-1) - 1).abs().max() < 1e-3:
            weights = weights * values.on_keys[layer]  # some families return them before the sink takes its share
        projection = decoder.output_weights(layer)
        value = values.found[layer].repeat_interleave(weights.shape[1] // values.found[layer].shape[1], 1)
        kept[layer] = keep_of_weights(weights, bounds, None if projection is None else (value, projection[None]))
    layers = []
    for name in TraceAttention.__dataclass_fields__:
        arrays = np.concatenate([getattr(k, name) for k in kept.values()])
        layers.append(np.full((decoder.n_layers, *arrays.shape[1:]), np.nan, np.float32))
        layers[-1][list(kept)] = arrays
    return TraceAttention(*layers), hidden


@torch.no_grad()
def eager_weights(decoder: Decoder, token_ids: Sequence[int]) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Attention [1, head, token, token] of each layer that has one, and the last hidden states [token, d_model].

    Raises ValueError if the model returns none.
    """
    ids = torch.tensor([list(token_ids)], device=decoder.model.device)
    output = decoder.body(input_ids=ids, output_attentions=True, use_cache=False)
    weights = list(output.attentions or ())
    if len(weights) == decoder.n_layers:
        weights = [weights[layer] for layer in decoder.attending]
    if len(weights) != len(decoder.attending):
        raise ValueError("the model returned no attention weights; load it with attn_implementation='eager'")
    return dict(zip(decoder.attending, weights, strict=True)), output.last_hidden_state[0]

"""The slow reference: the same by definition, from the whole attention that transformers' eager path returns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from r2a.attention.segments import TraceAttention, query_rows
from r2a.traces import SEGMENTS, Bounds


def keep_of_weights(weights: torch.Tensor, bounds: Bounds) -> TraceAttention:
    """What segments.TraceAttention keeps, from post-softmax attention [layer, head, query token, key token]."""
    rows = query_rows(bounds)
    reasoning, answer = (weights[:, :, rows[name].start : rows[name].stop].double() for name in ("reasoning", "answer"))
    masses = [reasoning[..., bounds.span(segment)].sum(-1).mean(-1) for segment in SEGMENTS]
    inside = answer[..., bounds.span("reasoning")]
    position = torch.linspace(0, 1, inside.shape[-1], dtype=torch.double, device=weights.device)
    share = inside / inside.sum(-1, keepdim=True)
    centre = share @ position
    spread = (share * (position - centre[..., None]) ** 2).sum(-1).sqrt()
    kept = torch.stack(masses, dim=-1), answer.mean(2), centre, spread
    return TraceAttention(*(x.cpu().numpy().astype(np.float32) for x in kept))


@torch.no_grad()
def rerun_eager(model: Any, token_ids: Sequence[int], bounds: Bounds) -> tuple[TraceAttention, torch.Tensor]:
    """What is kept of a trace's attention, and its last hidden states [token, d_model].

    `model` must use eager attention. Raises ValueError where it returns no attention weights.
    """
    ids = torch.tensor([list(token_ids)], device=model.device)
    output = model.model(input_ids=ids, output_attentions=True, use_cache=False)
    if not output.attentions:
        raise ValueError("the model returned no attention weights; load it with attn_implementation='eager'")
    kept = [keep_of_weights(weights, bounds) for weights in output.attentions]
    layers = (np.concatenate([getattr(k, name) for k in kept]) for name in TraceAttention.__dataclass_fields__)
    return TraceAttention(*layers), output.last_hidden_state[0]

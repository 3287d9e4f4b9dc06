"""Attention by segment (METHOD section 3; Zhang et al. 2025, section 4)."""

from collections.abc import Sequence

import torch

from r2a.traces import QUERY_SEGMENTS, SEGMENTS


class EmptySegment(ValueError):
    """A query segment of a trace has no token, so its mean attention is undefined."""


def segment_mass(weights: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
    """Mean attention that each query segment pays to each key segment, in one layer.

    weights: post-softmax attention [head, query token, key token]; bounds: the trace's segment bounds.
    Returns float32 [head, query_segment, key_segment], over traces.QUERY_SEGMENTS and traces.SEGMENTS;
    the key segments tile the trace, so rows sum to 1. Raises EmptySegment.
    """
    indicator = torch.zeros(weights.shape[-1], len(SEGMENTS), device=weights.device)
    for k in range(len(SEGMENTS)):
        indicator[bounds[k] : bounds[k + 1], k] = 1
    means = []
    for name in QUERY_SEGMENTS:
        k = SEGMENTS.index(name)
        if bounds[k] == bounds[k + 1]:
            raise EmptySegment(f"segment {name} is empty")
        means.append((weights[:, bounds[k] : bounds[k + 1]].float() @ indicator).mean(dim=1))
    return torch.stack(means, dim=1)

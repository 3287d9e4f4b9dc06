"""The rerun of one trace through transformers' eager attention: the slow reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from r2a.attention.segments import segment_mass


@torch.no_grad()
def rerun_trace(model: Any, token_ids: Sequence[int], bounds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Segment masses [layer, head, query_segment, key_segment] float32, and the arg-max next token [token].

    `model` must use eager attention. Raises ValueError where it returns no attention weights.
    """
    ids = torch.tensor([list(token_ids)], device=model.device)
    output = model(ids, output_attentions=True, use_cache=False)
    if not output.attentions:
        raise ValueError("the model returned no attention weights; load it with attn_implementation='eager'")
    masses = torch.stack([segment_mass(weights[0], bounds) for weights in output.attentions])
    return masses.cpu().numpy(), output.logits[0].argmax(-1).cpu().numpy()

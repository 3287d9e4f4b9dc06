"""Whether logits are the model's own, but for rounding."""

from collections.abc import Sequence
from typing import Any

import torch

from r2a.models.attention import attention_kernel
from r2a.models.decoder import Decoder
from r2a.models.weights import ModelError

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # of the logits' spread
MOST = 0.5  # of their spread; whoever is further away computes something else
N_NUDGES = 4


@torch.no_grad()
def own_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """The model's own logits [vocabulary] after the last token, float32 on the CPU."""
    with attention_kernel(model, Decoder(model).own_attention):
        return model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0, -1].float().cpu()


def distance(found: torch.Tensor, own: torch.Tensor) -> float:
    """Root mean square of the differences of logits found [..., vocabulary] from own [vocabulary], over their spread.

    Of several rows, the largest.
    """
    found, own = found.float().cpu(), own.float().cpu()
    return float((found - own).square().mean(-1).sqrt().max() / own.std().clamp_min(1e-6))


def rounding(model: Any, ids: Sequence[int]) -> float:
    """The distance by which rounding may move the logits after these tokens.

    In 16 bits, a step of rounding in the embeddings can make a mixture choose other experts, or grow where a model
    amplifies it. So the limit is TOLERANCES, or twice the most that N_NUDGES random steps do, up to MOST.
    """
    limit = TOLERANCES[model.dtype]
    if model.dtype == torch.float32:
        return limit
    own, random = own_logits(model, ids), torch.Generator().manual_seed(0)

    def nudge(_embedding: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        signs = 2 * torch.randint(2, output.shape, generator=random).to(output.device) - 1
        return (output.float() * (1 + torch.finfo(output.dtype).eps * signs)).to(output.dtype)

    hook = Decoder(model).embedding.register_forward_hook(nudge)
    try:
        moved = max(distance(own_logits(model, ids), own) for _ in range(N_NUDGES))
    finally:
        hook.remove()
    return min(max(limit, 2 * moved), MOST)


def refuse_beyond_rounding(model: Any, ids: Sequence[int], found: torch.Tensor, own: torch.Tensor, what: str) -> None:
    """Raise ModelError if logits found [..., vocabulary] after these tokens are not own [vocabulary] but for rounding.

    what: what cannot be done then, in words.
    """
    away = distance(found, own)
    if away <= TOLERANCES[model.dtype]:
        return
    limit = rounding(model, ids)
    if not away <= limit:
        raise ModelError(
            f"{type(model).__name__}: {what}: logits come out {away:.2g} of their spread away from the model's own, "
            f"and {limit:.2g} is rounding"
        )

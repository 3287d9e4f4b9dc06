"""Whole forward passes with transformers' own eager attention, in which some tokens are hidden from later ones."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from r2a.models.attention import attention_kernel
from r2a.models.decoder import Decoder


@torch.no_grad()
def whole_logits(
    model: Any,
    token_ids: Sequence[int],
    hidden: tuple[int, int] = (0, 0),
    heads: Collection[tuple[int, int]] | None = None,
) -> torch.Tensor:
    """Logits [token, vocabulary], float32, while tokens first to last are hidden from everything after them.

    heads: the heads that they are hidden from; None: all.
    """
    decoder = Decoder(model)
    first, last = hidden

    def hide(layer: int) -> Any:
        at = list(range(decoder.n_heads)) if heads is None else [h for at_layer, h in heads if at_layer == layer]

        def hook(_module: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
            mask = options["attention_mask"].expand(1, decoder.n_heads, -1, -1).clone()
            for head in at:
                mask[0, head, last:, first:last] = torch.finfo(mask.dtype).min
            return inputs, options | {"attention_mask": mask}

        return hook

    with attention_kernel(model, "eager"), ExitStack() as hooks:
        if first < last:
            for layer, attention in enumerate(decoder.attentions):
                hooks.callback(attention.register_forward_pre_hook(hide(layer), with_kwargs=True).remove)
        return model(torch.tensor([list(token_ids)]), use_cache=False).logits[0].float()

"""The slow reference for patching: one whole forward pass of the model per patch, with torch hooks."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch


@torch.no_grad()
def last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """The model's own logits at the last token, float32 [vocabulary]."""
    return model(torch.tensor([list(ids)]), use_cache=False, logits_to_keep=1).logits[0, -1].float()


def hooked_patch(
    model: Any, ids: Sequence[int], component: str, layer: int, position: int, vector: torch.Tensor, head: int = 0
) -> torch.Tensor:
    """Last logits of the run in which a layer's component is replaced by `vector` at one position (z: for one head)."""
    module = model.model.layers[layer]
    entered: list[torch.Tensor] = []  # resid_pre

    def put(hidden: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        hidden[0, position] = value
        return hidden

    def resid_pre(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        entered.append(inputs[0])
        return (put(inputs[0], vector), *inputs[1:]) if component == "resid_pre" else inputs

    def attention(_module: Any, _inputs: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # resid_mid = resid_pre + attn_out
        value = vector if component == "attn_out" else vector - entered[0][0, position]
        return (put(output[0], value), *output[1:])

    def mlp(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return put(output, vector)

    def z(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        heads = inputs[0].unflatten(-1, (-1, len(vector))).clone()
        heads[0, position, head] = vector
        return (heads.flatten(2), *inputs[1:])

    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(resid_pre).remove)
        if component in ("attn_out", "resid_mid"):
            hooks.callback(module.self_attn.register_forward_hook(attention).remove)
        elif component == "mlp_out":
            hooks.callback(module.mlp.register_forward_hook(mlp).remove)
        elif component == "z":
            hooks.callback(module.self_attn.o_proj.register_forward_pre_hook(z).remove)
        return last_logits(model, ids)

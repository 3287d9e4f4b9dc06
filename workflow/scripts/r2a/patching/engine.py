"""Capture and replacement of residual-stream activations, by hooks on transformers' decoder layers."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch


def _layers(model: Any) -> Any:
    return model.model.layers


def _last_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits at the last token, float32 [row, vocabulary]."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
    return model.lm_head(hidden).float()


@torch.no_grad()
def capture_resid_pre(
    model: Any, token_ids: Sequence[int], positions: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One run's resid_pre at the given positions, and its last logits.

    Returns float32 [layer, position, d_model] and float32 [vocabulary], on the CPU.
    """
    kept: list[torch.Tensor] = []

    def keep(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        kept.append(inputs[0][0, list(positions)].float().cpu())

    with ExitStack() as hooks:
        for layer in _layers(model):
            hooks.callback(layer.register_forward_pre_hook(keep).remove)
        logits = _last_logits(model, torch.tensor([list(token_ids)], device=model.device))
    return torch.stack(kept), logits[0].cpu()


@torch.no_grad()
def patch_resid_pre(
    model: Any, corrupted_ids: Sequence[int], positions: Sequence[int], vectors: torch.Tensor, batch_tokens: int
) -> torch.Tensor:
    """Last logits of the corrupted run under every single patch (METHOD section 4).

    vectors: [layer, position, d_model]. Entry [l, p] of the result, float32 [layer, position, vocabulary] on
    the CPU, is the run in which resid_pre of layer l at positions[p] alone is replaced by vectors[l, p].
    `batch_tokens` bounds the tokens of one forward pass.
    """
    n_layers, n_positions, _ = vectors.shape
    ids = torch.tensor(list(corrupted_ids), device=model.device)
    patches = [(layer, p) for layer in range(n_layers) for p in range(n_positions)]
    size = max(1, batch_tokens // len(ids))
    logits = []
    for start in range(0, len(patches), size):
        batch = patches[start : start + size]

        def replace_in(layer: int, batch: list[tuple[int, int]] = batch) -> Callable[..., tuple[torch.Tensor, ...]]:
            rows = [row for row, (patched_layer, _) in enumerate(batch) if patched_layer == layer]
            columns = [batch[row][1] for row in rows]

            def replace(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                hidden = inputs[0].clone()
                hidden[rows, [positions[p] for p in columns]] = vectors[layer, columns].to(hidden)
                return (hidden, *inputs[1:])

            return replace

        with ExitStack() as hooks:
            for layer in {layer for layer, _ in batch}:
                hooks.callback(_layers(model)[layer].register_forward_pre_hook(replace_in(layer)).remove)
            logits.append(_last_logits(model, ids.expand(len(batch), -1)).cpu())
    return torch.cat(logits).reshape(n_layers, n_positions, -1)

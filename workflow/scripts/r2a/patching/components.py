"""The components of a model that can be patched: where they are in its layers, and how they are captured from a run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from r2a.models import ModelError, off_device, stack_layers
from r2a.models.attention import places_among
from r2a.models.decoder import Decoder

COMPONENTS = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z")


class HookPoints:
    """Where each component is in a model's layers.

    resid_pre enters a layer; attn_out leaves its attention and mlp_out its MLP, both before any norm or factor that
    follows; z enters attention's output projection. resid_mid, the residual stream between attention and MLP, enters
    the module that `mid` names in each layer; it is None where attention and MLP run in parallel.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.mid = _middles(decoder)

    @property
    def components(self) -> list[str]:
        """The components that the model has in every layer."""
        decoder = self.decoder
        missing = set()
        if None in decoder.attentions:
            missing |= {"attn_out", "z", "resid_mid"}
        if None in decoder.mlps:
            missing |= {"mlp_out", "resid_mid"}
        if None in self.mid:
            missing.add("resid_mid")
        return [component for component in COMPONENTS if component not in missing]

    def those_of(self, components: Sequence[str]) -> list[str]:
        """Those of some components that the model has in every layer."""
        return [component for component in components if component in self.components]

    def refuse_missing(self, components: Sequence[str]) -> None:
        """Raise ModelError where a component is not in every layer."""
        missing = [component for component in components if component not in self.components]
        if missing:
            raise ModelError(
                f"{self.decoder.name}: has no {', '.join(missing)} in every layer; give patching.components without "
                f"{'it' if len(missing) == 1 else 'them'}: {', '.join(self.components)}"
            )

    @contextmanager
    def hooked(self, number: int, component: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Replace a component [row, token, ...] of a layer by what `change` returns for it, until the block ends.

        resid_mid is changed in place, since the layer later adds to the same tensor.
        """
        layer = self.decoder.layers[number]

        def enters(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (change(inputs[0]), *inputs[1:])

        def enters_in_place(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            changed = change(inputs[0])
            if changed is not inputs[0]:
                inputs[0].copy_(changed)

        def leaves(_module: Any, _inputs: Any, output: Any) -> Any:
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        if component == "resid_pre":
            hook = layer.register_forward_pre_hook(enters)
        elif component == "resid_mid":
            hook = self.mid[number].register_forward_pre_hook(enters_in_place)
        elif component == "attn_out":
            hook = self.decoder.attentions[number].register_forward_hook(leaves)
        elif component == "mlp_out":
            hook = self.decoder.mlps[number].register_forward_hook(leaves)
        else:
            hook = self.decoder.projections[number].register_forward_pre_hook(enters)
        try:
            yield
        finally:
            hook.remove()


_HOOK_POINTS: WeakKeyDictionary[Any, HookPoints] = WeakKeyDictionary()


def hook_points_of(model: Any) -> HookPoints:
    """A model's HookPoints, computed once."""
    if model not in _HOOK_POINTS:
        _HOOK_POINTS[model] = HookPoints(Decoder(model))
    return _HOOK_POINTS[model]


@torch.no_grad()
def _middles(decoder: Decoder) -> list[Any]:
    """The module of each layer that resid_mid enters, found by its effect: if the MLP returns 0, that module's input
    equals the layer's output.
    """
    entering: list[list[tuple[Any, torch.Tensor]]] = [[] for _ in decoder.layers]
    leaving: list[torch.Tensor] = []

    def first_of(output: Any) -> torch.Tensor:
        return output[0] if isinstance(output, tuple) else output

    def zero(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    def note(number: int) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor):
                entering[number].append((module, inputs[0].clone()))

        return hook

    def forget(number: int) -> Callable[..., None]:
        return lambda *_: entering[number].clear()

    with ExitStack() as hooks:
        for number, layer in enumerate(decoder.layers):
            for child in layer.children():
                if child is decoder.attentions[number]:  # any module before it does not receive resid_mid
                    hooks.callback(child.register_forward_hook(forget(number)).remove)
                else:
                    hooks.callback(child.register_forward_pre_hook(note(number)).remove)
            if decoder.mlps[number] is not None:
                hooks.callback(decoder.mlps[number].register_forward_hook(zero).remove)
            hooks.callback(layer.register_forward_hook(lambda *io: leaving.append(first_of(io[2]).clone())).remove)
        decoder.run(torch.tensor([[2, 3, 5]], device=decoder.model.device))
    return [
        next((module for module, hidden in noted if hidden.shape == left.shape and torch.equal(hidden, left)), None)
        for noted, left in zip(entering, leaving, strict=True)
    ]


@torch.no_grad()
def capture(
    model: Any,
    token_ids: Sequence[int],
    positions: Sequence[int],
    components: Sequence[str],
    masked: Sequence[int] = (),
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One run's activations at the given positions, and its last logits, by the model's own forward pass.

    `masked` positions are padding: attention does not see them, and they do not count in other tokens' positions.
    Returns float32 [layer, position, d_model] per component, for z [layer, position, head, d_head] (0 beyond the width
    of a layer with narrower heads), and float32 logits [vocabulary], on the CPU.
    """
    hook_points = hook_points_of(model)
    hook_points.refuse_missing(components)
    decoder = hook_points.decoder
    kept: dict[str, list[torch.Tensor]] = {component: [] for component in components}
    chosen = torch.tensor(list(positions), device=model.device)

    def keep(component: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def look(found: torch.Tensor) -> torch.Tensor:
            at = found[0, chosen.to(found.device)].float()
            kept[component].append(as_heads(decoder, at) if component == "z" else at)
            return found

        return look

    last: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for number in range(decoder.n_layers):
            for component in components:
                hooks.enter_context(hook_points.hooked(number, component, keep(component)))
        hooks.callback(decoder.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0][0, -1:])).remove)
        seen, numbers = seen_and_positions(model, len(token_ids), masked)
        decoder.run(batch_of_one(model, token_ids), attention_mask=seen if len(masked) else None, position_ids=numbers)
    *found, logits = off_device([*map(stack_layers, kept.values()), decoder.final_logits(last[-1])[0]])
    return dict(zip(kept, found, strict=True)), logits


def as_heads(decoder: Decoder, joined: torch.Tensor) -> torch.Tensor:
    """z with its heads as an axis, [..., head, d_head], where d_head is that of the widest layer."""
    heads = joined.unflatten(-1, (decoder.n_heads, -1))
    return torch.nn.functional.pad(heads, (0, max(decoder.d_values) - heads.shape[-1]))


def batch_of_one(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(token_ids)], device=model.device)


def seen_and_positions(model: Any, n_tokens: int, masked: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens attention sees, and each one's position among those, both [1, token]."""
    seen = torch.ones(1, n_tokens, dtype=torch.bool, device=model.device)
    seen[0, list(masked)] = False
    return seen, places_among(seen)

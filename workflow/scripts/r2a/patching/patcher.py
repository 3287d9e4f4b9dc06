"""Patches into kept runs, each of which restarts from the run that it changes (METHOD section 4).

A patch at layer l and positions from p on changes nothing below layer l and nothing before p. So the patched run is
kept once, with its keys, values and residual stream, and every patch restarts from it: only the tail from p on is
recomputed, from layer l on, and in the last layer only the last token. The tails of all patches are packed into one
list of tokens, so that layers, positions and runs share every matrix product.

Tails pass through the model's own layers; only attention is ours, which joins the kept keys and values with a tail's
own. A patch of any component at layer l and some positions equals a patch of resid_pre at layer l + 1 and the same
positions, because everything after attention in a layer works on each token separately. So there is only one kind of
job, a Patch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

import torch

from r2a.memory import by_tokens, in_batches
from r2a.models import ModelError, off_device, stack_layers
from r2a.models.attention import SEAM, watched_by
from r2a.models.decoder import Decoder
from r2a.models.rounding import own_logits, refuse_beyond_rounding
from r2a.patching.components import COMPONENTS, as_heads, batch_of_one, hook_points_of, seen_and_positions
from r2a.patching.restarts import (
    Elsewhere,
    Enough,
    Keeping,
    KeptRun,
    Patch,
    Paths,
    Place,
    Restart,
    Shapes,
    Tails,
    options_of,
    pack,
    patched_tail,
    tokens_of,
    unpack,
)

INEXACT = "patching cannot restart runs of this architecture"


class Patcher:
    """Patches into kept runs of one model."""

    def __init__(self, model: Any) -> None:
        """Raises ModelError, naming the architecture, if restarts do not reproduce the model's own logits."""
        self.model = model.requires_grad_(False)
        self.decoder = Decoder(model)
        reason = self.decoder.apart or _beyond_the_stream(self.decoder)
        if reason:
            raise ModelError(f"{self.decoder.name}: patching cannot restart its runs: {reason}")
        self.hook_points = hook_points_of(model)
        self._check()

    @property
    def n_layers(self) -> int:
        return self.decoder.n_layers

    @property
    def n_heads(self) -> int:
        return self.decoder.n_heads

    @property
    def d_head(self) -> int:
        """The width of z in the layer where it is widest."""
        return max(self.decoder.d_values)

    @property
    def bytes_per_token(self) -> int:
        """Approximate memory per token of a pair: its runs are kept, and their tails computed layer by layer."""
        decoder = self.decoder
        kept = decoder.n_kept + decoder.n_layers * decoder.d_model
        return self.model.dtype.itemsize * kept + 2 * decoder.bytes_in_a_layer

    @torch.no_grad()
    def keep(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        start: int | None = None,
        masked: Sequence[int] = (),
        path_start: int | None = None,
    ) -> KeptRun:
        """Run the tokens once and keep what patches need at the given positions, or anywhere from `start` on.

        masked: as in `capture`. path_start: where the answer's side begins, for patches with a path.
        """
        seen, numbers = seen_and_positions(self.model, len(token_ids), masked)
        first = min(positions) if start is None else start
        at = torch.tensor(list(positions), device=self.model.device)
        kept = KeptRun(tuple(positions), first, len(token_ids), seen[0] if len(masked) else None, at, path_start)

        def enter(layer: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            handed = signature(layer.forward).bind(*inputs, **options).arguments
            kept.resid_pre.append(handed.pop(next(iter(handed)))[0, first:].clone())
            kept.options.append(handed.pop("kwargs", {}) | handed)

        def keep_z(z: torch.Tensor) -> torch.Tensor:
            kept.z.append(z[0, at.to(z.device)])
            return z

        def keep_mlp(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
            def look(written: torch.Tensor) -> torch.Tensor:
                kept.mlp_out[number] = written[0, path_start:].clone()
                return written

            return look

        left: list[torch.Tensor] = []  # the last one is the last layer's; some families norm the embedding, too

        def leave(_norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            left.append(inputs[0][0, -1:].clone())

        with ExitStack() as hooks:
            for number, layer in enumerate(self.decoder.layers):
                hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.enter_context(self.hook_points.hooked(number, "z", keep_z))
                if path_start is not None and self.decoder.mlps[number] is not None:
                    hooks.enter_context(self.hook_points.hooked(number, "mlp_out", keep_mlp(number)))
            hooks.callback(self.decoder.norm.register_forward_pre_hook(leave).remove)
            self.decoder.run(batch_of_one(self.model, token_ids), Keeping(kept), position_ids=numbers)
        kept.resid_pre.append(left[-1])
        return kept

    @torch.no_grad()
    def finish(
        self, patches: Sequence[Patch], batch_tokens: int, tell: Callable[[float], None] = lambda share: None
    ) -> torch.Tensor:
        """The last layer's output at the last token under each patch, of one run or several: [patch, d_model].

        batch_tokens: the maximum number of tokens computed at a time; it is halved when memory runs out. tell: called
        after each batch with the completed share of the work, from 0 to 1. Raises torch.OutOfMemoryError if a single
        patch does not fit.
        """
        resid_post = torch.cat([patch.run.resid_pre[-1] for patch in patches])
        n_done = sum(patch.layer == self.n_layers for patch in patches)
        for number, patch in enumerate(patches):
            last = patch.run.n_tokens - 1
            if patch.layer == self.n_layers and last in patch.positions:
                resid_post[number] = patch.vectors[patch.positions.index(last)].to(resid_post)

        def leave(layer: int, rows: Mapping[Place, list[int]], tails: Tails) -> None:
            nonlocal n_done
            if layer == self.n_layers - 1:
                for place, tail in tails.items():
                    resid_post[rows[place]] = tail[:, -1].to(resid_post)
                    n_done += len(rows[place])
                tell(n_done / len(patches))

        self._walk(patches, batch_tokens, leave)
        return resid_post

    @torch.no_grad()
    def follow(self, patches: Sequence[Patch], batch_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What each patch changes at the last token: in each layer's output, and in each head's z.

        Float32 [patch, layer, d_model] and [patch, layer, head, d_head], on the CPU; 0 in layers below the patch. The
        last token must be among the runs' positions.
        """
        stream = torch.zeros(len(patches), self.n_layers, self.decoder.d_model)
        heads = torch.zeros(len(patches), self.n_layers, self.n_heads, self.d_head)
        z: list[torch.Tensor] = []

        def look(found: torch.Tensor) -> torch.Tensor:
            z.append(found[0])
            return found

        def leave(layer: int, rows: Mapping[Place, list[int]], tails: Tails) -> None:
            shapes = {place: (tail.shape[0], tail.shape[1]) for place, tail in tails.items()}
            for place, of_place in unpack(z.pop(), shapes).items():
                kept, numbers = place[0], rows[place]
                last = kept.positions.index(kept.n_tokens - 1)
                stream[numbers, layer] = (tails[place][:, -1] - kept.resid_pre[layer + 1][-1]).float().cpu()
                changed = (of_place[:, -1] - kept.z[layer][last]).float().cpu()
                heads[numbers, layer] = as_heads(self.decoder, changed)

        with ExitStack() as hooks:
            for number in range(self.n_layers):
                hooks.enter_context(self.hook_points.hooked(number, "z", look))
            self._walk(patches, batch_tokens, leave)
        return stream, heads

    def _walk(
        self,
        patches: Sequence[Patch],
        batch_tokens: int,
        leave: Callable[[int, Mapping[Place, list[int]], Tails], None],
    ) -> None:
        """Go through batches and layers; a batch that does not fit into memory is split in two and repeated.

        leave: called with the layer, the patches' numbers at each place, and the layer's output; in the last layer,
        with that of the last token only.
        """
        walking = [number for number, patch in enumerate(patches) if patch.layer < self.n_layers]
        # sorted by run, so that patches with the same keys and values share a batch
        runs = {run: number for number, run in enumerate(dict.fromkeys(patch.run for patch in patches))}
        walking.sort(key=lambda number: (runs[patches[number].run], patches[number].layer))

        def through(batch: Sequence[int], batch_tokens: int) -> bool:
            joining: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
            for number in batch:
                patch = patches[number]
                joining[patch.layer][patch.run, patch.start].append(number)
            tails: Tails = {}
            rows: dict[Place, list[int]] = defaultdict(list)
            for layer in range(min(patches[number].layer for number in batch), self.n_layers):
                for place, numbers in joining[layer].items():
                    tail = patched_tail([patches[number] for number in numbers])
                    tails[place] = torch.cat([tails[place], tail.to(tails[place])]) if place in tails else tail
                    rows[place] += numbers
                paths = {place: [patches[number].path for number in numbers] for place, numbers in rows.items()}
                restart = self._layer if layer < self.n_layers - 1 else self._last_layer
                tails = restart(layer, tails, batch_tokens, paths)
                leave(layer, rows, tails)
            return True

        take = by_tokens([patch.n_tokens for patch in patches])
        for batch, is_through in in_batches(walking, take, batch_tokens, through):
            if not is_through:
                raise torch.OutOfMemoryError(f"a patch of {patches[batch[0]].n_tokens} tokens does not fit alone")

    def patches(
        self,
        kept: KeptRun,
        component: str,
        vectors: torch.Tensor,
        places: Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
    ) -> list[Patch]:
        """Every single patch of a component, by layer and position; for z, also by head.

        vectors: [layer, position, d_model], for z [layer, position, head, d_head]; for the positions of `kept`, or for
        those of them that `places` numbers. layers: the patched ones; by default all.
        """
        self.hook_points.refuse_missing([component])
        places = range(len(kept.positions)) if places is None else places
        chosen, vectors = (side.to(self.model.device) for side in (torch.tensor(list(places)), vectors))
        later = 0 if component == "resid_pre" else 1
        return [
            Patch(kept, layer + later, (kept.positions[place],), vector[None])
            for layer in (range(self.n_layers) if layers is None else layers)
            for place, at_place in zip(places, self._entering(kept, component, layer, vectors, chosen), strict=True)
            for vector in at_place.reshape(-1, at_place.shape[-1])
        ]

    def patch(
        self,
        kept: KeptRun,
        component: str,
        vectors: torch.Tensor,
        batch_tokens: int,
        layers: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The last layer's output at the last token under every single patch of a component.

        vectors and layers: as in `patches`. Returns [layer, position, d_model], for z [layer, position, head, d_model].
        """
        layers = range(self.n_layers) if layers is None else layers
        resid_post = self.finish(self.patches(kept, component, vectors, layers=layers), batch_tokens)
        return resid_post.reshape(len(layers), *vectors.shape[1 : 3 if component == "z" else 2], -1)

    @torch.no_grad()
    def logits(self, resid_post: torch.Tensor) -> torch.Tensor:
        """Float32 logits [..., vocabulary] from the last layer's output, on the CPU."""
        return self.decoder.final_logits(resid_post).cpu()

    def gradients(
        self, kept: KeptRun, answer_a: int, answer_b: int, components: Sequence[str] = COMPONENTS
    ) -> dict[str, torch.Tensor]:
        """Gradient of logit(a) - logit(b) at the last token with respect to components, at the kept positions.

        Float32 [layer, position, d_model], for z [layer, position, head, d_head], on the CPU. Layers are processed from
        the last to the first, and each is recomputed from its input, so that memory holds one at a time.
        """
        self.hook_points.refuse_missing(components)
        first = min(kept.positions)
        place, at = (kept, first), kept.at - first
        leaving = kept.resid_pre[-1].clone().requires_grad_()
        logits = self.decoder.final_logits(leaving, [answer_a, answer_b])[0]
        (gradient,) = torch.autograd.grad(logits[0] - logits[1], leaving)
        upstream = gradient.new_zeros(1, kept.n_tokens - first, gradient.shape[-1])
        upstream[0, -1] = gradient[0]
        of_layers: dict[str, list[torch.Tensor]] = {component: [] for component in components}
        for number in reversed(range(self.n_layers)):
            found: dict[str, torch.Tensor] = {}
            with torch.enable_grad(), ExitStack() as hooks:
                tail = kept.resid_pre[number][first - kept.start :][None].clone().requires_grad_()

                def note(component: str, found: dict[str, torch.Tensor] = found) -> Callable[..., torch.Tensor]:
                    def look(tensor: torch.Tensor) -> torch.Tensor:
                        found[component] = tensor
                        return tensor

                    return look

                for component in components:
                    if component != "resid_pre":
                        hooks.enter_context(self.hook_points.hooked(number, component, note(component)))
                resid_post = self._layer(number, {place: tail}, 0, {place: [None]})[place]
                asked = {"resid_pre": tail, **found}
                gradients = torch.autograd.grad(resid_post, list(asked.values()), upstream.to(resid_post))
            by_name = dict(zip(asked, gradients, strict=True))
            upstream = by_name["resid_pre"]
            for component in components:
                of_place = by_name[component].flatten(0, -2)[at.to(by_name[component].device)].float()
                of_layers[component].append(as_heads(self.decoder, of_place) if component == "z" else of_place)
        found_of = off_device([stack_layers(layers[::-1]) for layers in of_layers.values()])
        return dict(zip(of_layers, found_of, strict=True))

    @torch.no_grad()
    def _entering(
        self, kept: KeptRun, component: str, number: int, vectors: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """The input of the next layer (for resid_pre, of this one) at some kept positions when a component is replaced.

        [position, d_model], for z [position, head, d_model]; `vectors` and `places` as in `patches`. The layer runs on
        the patched tokens alone, with their kept attention.
        """
        stream, device = kept.resid_pre[number], kept.z[number].device
        places = places.to(device)
        z = kept.z[number][places]
        new = vectors[number].to(z)
        if component == "resid_pre":
            return new
        at = kept.at.to(device)[places]
        if component == "z":  # a token per head
            n_heads, width = self.n_heads, z.shape[-1] // self.n_heads
            replaced = z.unflatten(-1, (n_heads, width))[:, None].repeat(1, n_heads, 1, 1)
            heads = torch.arange(n_heads, device=z.device)
            replaced[:, heads, heads] = new[..., :width]
            z, at = replaced.flatten(2).flatten(0, 1), at.repeat_interleave(n_heads)
        states = stream[(at - kept.start).to(stream.device)].to(device)
        with ExitStack() as hooks:
            hooks.enter_context(self.hook_points.hooked(number, "z", lambda old: z[None].to(old.device)))
            if component != "z":
                hooks.enter_context(self.hook_points.hooked(number, component, lambda old: new[None].to(old.device)))
            resid_post = self._through(number, states, [(kept, at)], Elsewhere())
        return resid_post.unflatten(0, (-1, self.n_heads)) if component == "z" else resid_post

    def at_last_token(self, kept: KeptRun, number: int, z: torch.Tensor) -> torch.Tensor:
        """A layer's output [1, d_model] at the last token of a kept run whose heads' outputs are z [head * d_value]."""
        at = torch.tensor([kept.n_tokens - 1], device=z.device)
        with self.hook_points.hooked(number, "z", lambda old: z[None, None].to(old.device)):
            return self._through(number, kept.resid_pre[number][-1:].to(z.device), [(kept, at)], Elsewhere())

    def _layer(self, number: int, tails: Tails, batch_tokens: int, paths: Paths) -> Tails:
        """From the tails of resid_pre of a layer to those of the next one."""
        packed, shapes = pack(self._moved(number, tails))
        restart = Restart(shapes, batch_tokens, paths)
        with self._mlps_off_path(number, shapes, paths):
            return unpack(self._through(number, packed, tokens_of(shapes, packed.device), restart), shapes)

    def _last_layer(self, number: int, tails: Tails, batch_tokens: int, paths: Paths) -> Tails:
        """The same for the tails' last tokens only: keys and values are computed first, then the layer for those
        tokens.
        """
        tails = self._moved(number, tails)
        packed, shapes = pack(tails)
        restart = Restart(shapes, batch_tokens, paths, is_enough=True)
        try:
            self._through(number, packed, tokens_of(shapes, packed.device), restart)
        except Enough:
            restart.is_enough = False
        lasts, last_shapes = pack({place: tail[:, -1:] for place, tail in tails.items()})
        at = [
            (kept, torch.full((rows,), kept.n_tokens - 1, device=packed.device))
            for (kept, _), (rows, _) in last_shapes.items()
        ]
        with self._mlps_off_path(number, last_shapes, paths):
            return unpack(self._through(number, lasts, at, restart), last_shapes)

    @contextmanager
    def _mlps_off_path(self, number: int, shapes: Shapes, paths: Paths) -> Iterator[None]:
        """Until the block ends, a layer's MLP writes what it writes in the kept run if a patch's path excludes it."""
        off = {place: [k for k, path in enumerate(of) if path and not path.mlps[number]] for place, of in paths.items()}
        if not any(off.values()):
            yield
            return

        def change(written: torch.Tensor) -> torch.Tensor:
            changed = written.clone()
            for place, tail in unpack(changed.reshape(-1, changed.shape[-1]), shapes).items():
                kept = place[0].mlp_out[number]
                n = min(tail.shape[1], len(kept))
                for row in off[place]:
                    tail[row, -n:] = kept[-n:].to(tail)
            return changed

        with self.hook_points.hooked(number, "mlp_out", change):
            yield

    def _moved(self, number: int, tails: Tails) -> Tails:
        """The tails on the GPU of a layer, since the layer before may be on another."""
        device = next(self.decoder.layers[number].parameters()).device
        return {place: tail.to(device) for place, tail in tails.items()}

    def _through(
        self, number: int, states: torch.Tensor, tokens: Sequence[tuple[KeptRun, torch.Tensor]], forward_pass: Any
    ) -> torch.Tensor:
        """States [token, d_model] of tokens at some positions of runs, passed through one of the model's own layers."""
        with watched_by(forward_pass):
            output = self.decoder.layers[number](states[None], **options_of(number, tokens))
        return (output[0] if isinstance(output, tuple) else output)[0]

    @torch.no_grad()
    def _check(self) -> None:
        """Compare a short run, and a restart of it that changes nothing, with the model's own forward pass."""
        name = self.decoder.name
        n_vocabulary = self.decoder.config.vocab_size
        ids = torch.randint(n_vocabulary, (12,), generator=torch.Generator().manual_seed(0)).tolist()
        try:
            own = own_logits(self.model, ids)
            self.model.set_attn_implementation(SEAM)
            kept = self.keep(ids, [5])
            layer = self.n_layers // 2
            null = self.finish([Patch(kept, layer, (5,), kept.resid_pre[layer][:1])], len(ids))
            found = self.logits(torch.cat([kept.resid_pre[-1], null]))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ModelError(f"{name}: {INEXACT} ({error})") from error
        refuse_beyond_rounding(self.model, ids, found, own, INEXACT)


def _beyond_the_stream(decoder: Decoder) -> str:
    """Why what leaves a layer does not follow from one residual stream and the layer's own keys; empty if it does."""
    n_sharing = getattr(decoder.config, "num_kv_shared_layers", None)
    if decoder.look.n_streams > 1:
        return f"{decoder.look.n_streams} residual streams enter each layer"
    return f"its last {n_sharing} layers attend to the keys of earlier ones" if n_sharing else ""

"""Activations captured from one run and patched into another (METHOD section 4).

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
from dataclasses import dataclass, field
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch

from r2a.memory import by_tokens, in_batches
from r2a.models import ModelError, off_device, stack_layers
from r2a.models.attention import SEAM, attention_kernel, watched_by
from r2a.models.decoder import Decoder
from r2a.models.kernels import Rule, attend

COMPONENTS = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z")
# How far the patcher's logits may be from the model's own: root mean square, relative to the logits'.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


# ---- where components are


class Places:
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


_PLACES: WeakKeyDictionary[Any, Places] = WeakKeyDictionary()


def places_of(model: Any) -> Places:
    """A model's Places, computed once."""
    if model not in _PLACES:
        _PLACES[model] = Places(Decoder(model))
    return _PLACES[model]


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


# ---- capture


def final_logits(model: Any, resid_post: torch.Tensor) -> torch.Tensor:
    """Logits from the last layer's output, float32 throughout: [..., d_model] -> [..., vocabulary]."""
    return Decoder(model).final_logits(resid_post)


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
    places = places_of(model)
    places.refuse_missing(components)
    decoder = places.decoder
    kept: dict[str, list[torch.Tensor]] = {component: [] for component in components}
    chosen = torch.tensor(list(positions), device=model.device)

    def keep(component: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def look(found: torch.Tensor) -> torch.Tensor:
            at = found[0, chosen.to(found.device)].float()
            kept[component].append(_as_heads(decoder, at) if component == "z" else at)
            return found

        return look

    last: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for number in range(decoder.n_layers):
            for component in components:
                hooks.enter_context(places.hooked(number, component, keep(component)))
        hooks.callback(decoder.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0][0, -1:])).remove)
        seen, numbers = _seen_and_places(model, len(token_ids), masked)
        decoder.run(_batch_of_one(model, token_ids), attention_mask=seen if len(masked) else None, position_ids=numbers)
    *found, logits = off_device([*map(stack_layers, kept.values()), decoder.final_logits(last[0])[0]])
    return dict(zip(kept, found, strict=True)), logits


def _as_heads(decoder: Decoder, joined: torch.Tensor) -> torch.Tensor:
    """z with its heads as an axis, [..., head, d_head], where d_head is that of the widest layer."""
    heads = joined.unflatten(-1, (decoder.n_heads, -1))
    return torch.nn.functional.pad(heads, (0, max(decoder.d_values) - heads.shape[-1]))


def capture_resid_pre(
    model: Any, token_ids: Sequence[int], positions: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One run's resid_pre, float32 [layer, position, d_model], and its last logits, float32 [vocabulary]."""
    found, logits = capture(model, token_ids, positions, ["resid_pre"])
    return found["resid_pre"], logits


# ---- patching


@dataclass(frozen=True, eq=False)
class KeptRun:
    """What patches need from the run that they restart from; the lists have one entry per layer.

    start: the first position that can be patched. keys [1, kv_head, token, d_head], after rotation, and values [1,
    kv_head, token, d_value]. resid_pre: [token from `start` on, d_model], and one more entry for the last layer's
    output at the last token, [1, d_model]. z [position, head * d_value], at `positions`. mlp_out: each MLP's output
    [token from `path_start` on, d_model]; not kept if path_start is None. options: what the model passes to the layer
    besides the residual stream. seen: [token], false for tokens hidden from attention; None if it sees all. at:
    `positions` on the model's device.
    """

    positions: tuple[int, ...]
    start: int
    n_tokens: int
    seen: torch.Tensor | None
    at: torch.Tensor
    path_start: int | None = None
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    resid_pre: list[torch.Tensor] = field(default_factory=list)
    z: list[torch.Tensor] = field(default_factory=list)
    mlp_out: dict[int, torch.Tensor] = field(default_factory=dict)
    options: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class PatchPath:
    """The heads [layer, head] and MLPs [layer] through which a patch reaches the answer's side; true where it does.

    The answer's side is the run's positions from its path_start on. There, other heads attend to the kept run's state
    of what comes before it, and other MLPs write what they write in the kept run; everything else follows from the
    patch.
    """

    heads: torch.Tensor
    mlps: torch.Tensor


@dataclass(frozen=True, eq=False)
class Patch:
    """Vectors [position, d_model] that replace resid_pre of a layer at some positions of one run.

    `layer` may be the number of layers, which stands for the last one's output. Without a path, the patch reaches
    everything that sees it.
    """

    run: KeptRun
    layer: int
    positions: tuple[int, ...]
    vectors: torch.Tensor
    path: PatchPath | None = None

    @property
    def start(self) -> int:
        return min(self.positions)

    @property
    def n_tokens(self) -> int:
        """Number of recomputed tokens."""
        return self.run.n_tokens - self.start


Place = tuple[KeptRun, int]  # the run that tails belong to, and the position where they begin
Paths = dict[Place, list[PatchPath | None]]  # one per row
Tails = dict[Place, torch.Tensor]  # [row, token from there on, ...], one row per patch
Shapes = dict[Place, tuple[int, int]]  # rows and tokens of each of several packed tails, [token, ...]


class _Enough(Exception):
    """Raised when keys and values have been computed and the rest of the layer is not needed."""


class _Keeping:
    """The pass of a whole run that keeps its keys and values."""

    def __init__(self, kept: KeptRun) -> None:
        self.kept = kept

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        self.kept.keys.append(key)
        self.kept.values.append(value)
        return _see(rule, self.kept, range(self.kept.n_tokens), query, key, value)


@dataclass
class _Restart:
    """The pass of packed tails through one layer. A tail sees the kept keys and values before its start, then its own.

    own: the tails' keys and values if they are already computed and the pass holds the tails' last tokens only;
    otherwise those of the pass are used. batch_tokens: the maximum number of tokens whose keys are seen at a time.
    paths: one per tail.
    """

    shapes: Shapes
    batch_tokens: int
    paths: Paths
    own: tuple[Tails, Tails] | None = None
    is_enough: bool = False

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if self.is_enough:
            self.own = self._heads(key), self._heads(value)
            raise _Enough
        keys, values = self.own or (self._heads(key), self._heads(value))
        parts = []
        lasts = {place: (rows, 1) for place, (rows, _) in self.shapes.items()}
        for place, queries in self._heads(query, lasts if self.own else None).items():
            kept, start = place
            at = range(kept.n_tokens - queries.shape[2], kept.n_tokens)
            before = [side[rule.layer][:, :, :start] for side in (kept.keys, kept.values)]
            tails = keys[place], values[place]
            most = min(len(queries), max(1, self.batch_tokens // kept.n_tokens))
            # what all rows see before their start is copied once
            joined = [
                torch.cat([side.expand(most, -1, -1, -1), tail[:most]], 2)
                for side, tail in zip(before, tails, strict=True)
            ]
            for first in range(0, len(queries), most):
                rows = slice(first, first + most)
                own = [tail[rows] for tail in tails]
                if first:
                    for side, tail in zip(joined, own, strict=True):
                        side[: len(tail), :, start:] = tail
                z = _see(rule, kept, at, queries[rows], *(side[: len(own[0])] for side in joined))
                if any(self.paths[place][rows]):
                    self._off_path(rule, place, rows, queries[rows], own, z)
                parts.append(z.flatten(0, 1))
        return torch.cat(parts)[None]

    def _off_path(
        self, rule: Rule, place: Place, rows: slice, queries: torch.Tensor, own: list[torch.Tensor], z: torch.Tensor
    ) -> None:
        """Replace z [row, query, head, d_value] of heads that are on no path by what the kept keys and values give.

        queries: [row, head, query, d_head] of the tails' last tokens; own: the tails' keys and values.
        """
        kept, start = place
        side = kept.path_start or 0
        first = max(start, side)
        at = range(max(kept.n_tokens - queries.shape[2], side), kept.n_tokens)
        both = (
            torch.cat(
                [before[rule.layer][:, :, :first].expand(len(queries), -1, -1, -1), tail[:, :, first - start :]], 2
            )
            for before, tail in zip((kept.keys, kept.values), own, strict=True)
        )
        off = _see(rule, kept, at, queries[:, :, -len(at) :], *both)
        on_path = torch.stack(
            [
                torch.ones(off.shape[2], dtype=torch.bool) if path is None else path.heads[rule.layer]
                for path in self.paths[place][rows]
            ]
        )
        z[:, -len(at) :] = torch.where(on_path[:, None, :, None].to(z.device), z[:, -len(at) :], off)

    def _heads(self, packed: torch.Tensor, shapes: Shapes | None = None) -> Tails:
        """[1, head, token, d] of all tails as [row, head, token, d] by place."""
        unpacked = _unpack(packed[0].transpose(0, 1), shapes or self.shapes)
        return {place: part.transpose(1, 2) for place, part in unpacked.items()}


class _Elsewhere:
    """A pass whose attention output is inserted afterwards, at the output projection."""

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])


def _see(
    rule: Rule, kept: KeptRun, at: range, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """z [row, query, head, d_value] of queries at some positions of a run, over the keys of all its tokens."""
    visible = None
    if len(at) < kept.n_tokens or kept.seen is not None or rule.is_local(kept.n_tokens):
        places = torch.arange(kept.n_tokens, device=query.device)
        visible = rule.sees(places[at.start :, None], places)
        if kept.seen is not None:
            visible = visible & kept.seen.to(query.device)
    return attend(rule, query, key, value, visible).transpose(1, 2)


class Patcher:
    """Patches into kept runs of one model."""

    def __init__(self, model: Any) -> None:
        """Raises ModelError, naming the architecture, if restarts do not reproduce the model's own logits."""
        self.model = model.requires_grad_(False)
        self.decoder = Decoder(model)
        if self.decoder.apart:
            raise ModelError(f"{self.decoder.name}: patching cannot restart its runs: {self.decoder.apart}")
        self.places = places_of(model)
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
        seen, numbers = _seen_and_places(self.model, len(token_ids), masked)
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

        def leave(_norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            kept.resid_pre.append(inputs[0][0, -1:].clone())

        with ExitStack() as hooks:
            for number, layer in enumerate(self.decoder.layers):
                hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.enter_context(self.places.hooked(number, "z", keep_z))
                if path_start is not None and self.decoder.mlps[number] is not None:
                    hooks.enter_context(self.places.hooked(number, "mlp_out", keep_mlp(number)))
            hooks.callback(self.decoder.norm.register_forward_pre_hook(leave).remove)
            self.decoder.run(_batch_of_one(self.model, token_ids), _Keeping(kept), position_ids=numbers)
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
            for place, of_place in _unpack(z.pop(), shapes).items():
                kept, numbers = place[0], rows[place]
                last = kept.positions.index(kept.n_tokens - 1)
                stream[numbers, layer] = (tails[place][:, -1] - kept.resid_pre[layer + 1][-1]).float().cpu()
                changed = (of_place[:, -1] - kept.z[layer][last]).float().cpu()
                heads[numbers, layer] = _as_heads(self.decoder, changed)

        with ExitStack() as hooks:
            for number in range(self.n_layers):
                hooks.enter_context(self.places.hooked(number, "z", look))
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
                    tail = _patched_tail([patches[number] for number in numbers])
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
        self.places.refuse_missing([component])
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
        return final_logits(self.model, resid_post).cpu()

    def gradients(
        self, kept: KeptRun, answer_a: int, answer_b: int, components: Sequence[str] = COMPONENTS
    ) -> dict[str, torch.Tensor]:
        """Gradient of logit(a) - logit(b) at the last token with respect to components, at the kept positions.

        Float32 [layer, position, d_model], for z [layer, position, head, d_head], on the CPU. Layers are processed from
        the last to the first, and each is recomputed from its input, so that memory holds one at a time.
        """
        self.places.refuse_missing(components)
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
                        hooks.enter_context(self.places.hooked(number, component, note(component)))
                resid_post = self._layer(number, {place: tail}, 0, {place: [None]})[place]
                asked = {"resid_pre": tail, **found}
                gradients = torch.autograd.grad(resid_post, list(asked.values()), upstream.to(resid_post))
            by_name = dict(zip(asked, gradients, strict=True))
            upstream = by_name["resid_pre"]
            for component in components:
                of_place = by_name[component].flatten(0, -2)[at.to(by_name[component].device)].float()
                of_layers[component].append(_as_heads(self.decoder, of_place) if component == "z" else of_place)
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
            hooks.enter_context(self.places.hooked(number, "z", lambda old: z[None].to(old.device)))
            if component != "z":
                hooks.enter_context(self.places.hooked(number, component, lambda old: new[None].to(old.device)))
            resid_post = self._through(number, states, [(kept, at)], _Elsewhere())
        return resid_post.unflatten(0, (-1, self.n_heads)) if component == "z" else resid_post

    def as_heads(self, joined: torch.Tensor) -> torch.Tensor:
        """z with its heads as an axis, [..., head, d_head], 0 beyond the width of a layer with narrower heads."""
        return _as_heads(self.decoder, joined)

    def at_last_token(self, kept: KeptRun, number: int, z: torch.Tensor) -> torch.Tensor:
        """A layer's output [1, d_model] at the last token of a kept run when its heads give z [head * d_value]."""
        at = torch.tensor([kept.n_tokens - 1], device=z.device)
        with self.places.hooked(number, "z", lambda old: z[None, None].to(old.device)):
            return self._through(number, kept.resid_pre[number][-1:].to(z.device), [(kept, at)], _Elsewhere())

    def _layer(self, number: int, tails: Tails, batch_tokens: int, paths: Paths) -> Tails:
        """From the tails of resid_pre of a layer to those of the next one."""
        packed, shapes = _pack(self._moved(number, tails))
        restart = _Restart(shapes, batch_tokens, paths)
        with self._mlps_off_path(number, shapes, paths):
            return _unpack(self._through(number, packed, _tokens_of(shapes, packed.device), restart), shapes)

    def _last_layer(self, number: int, tails: Tails, batch_tokens: int, paths: Paths) -> Tails:
        """The same for the tails' last tokens only: keys and values are computed first, then the layer for those
        tokens.
        """
        tails = self._moved(number, tails)
        packed, shapes = _pack(tails)
        restart = _Restart(shapes, batch_tokens, paths, is_enough=True)
        try:
            self._through(number, packed, _tokens_of(shapes, packed.device), restart)
        except _Enough:
            restart.is_enough = False
        lasts, last_shapes = _pack({place: tail[:, -1:] for place, tail in tails.items()})
        at = [
            (kept, torch.full((rows,), kept.n_tokens - 1, device=packed.device))
            for (kept, _), (rows, _) in last_shapes.items()
        ]
        with self._mlps_off_path(number, last_shapes, paths):
            return _unpack(self._through(number, lasts, at, restart), last_shapes)

    @contextmanager
    def _mlps_off_path(self, number: int, shapes: Shapes, paths: Paths) -> Iterator[None]:
        """Until the block ends, a layer's MLP writes what it writes in the kept run if a patch's path excludes it."""
        off = {place: [k for k, path in enumerate(of) if path and not path.mlps[number]] for place, of in paths.items()}
        if not any(off.values()):
            yield
            return

        def change(written: torch.Tensor) -> torch.Tensor:
            changed = written.clone()
            for place, tail in _unpack(changed.reshape(-1, changed.shape[-1]), shapes).items():
                kept = place[0].mlp_out[number]
                n = min(tail.shape[1], len(kept))
                for row in off[place]:
                    tail[row, -n:] = kept[-n:].to(tail)
            return changed

        with self.places.hooked(number, "mlp_out", change):
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
            output = self.decoder.layers[number](states[None], **_options(number, tokens))
        return (output[0] if isinstance(output, tuple) else output)[0]

    @torch.no_grad()
    def _check(self) -> None:
        """Compare a short run, and a restart of it that changes nothing, with the model's own forward pass."""
        name = self.decoder.name
        n_vocabulary = self.decoder.config.vocab_size
        ids = torch.randint(n_vocabulary, (12,), generator=torch.Generator().manual_seed(0)).tolist()
        try:
            with attention_kernel(self.model, "eager"):
                own = self.model(_batch_of_one(self.model, ids), use_cache=False).logits[0, -1].float().cpu()
            self.model.set_attn_implementation(SEAM)
            kept = self.keep(ids, [5])
            layer = self.n_layers // 2
            null = self.finish([Patch(kept, layer, (5,), kept.resid_pre[layer][:1])], len(ids))
            found = self.logits(torch.cat([kept.resid_pre[-1], null]))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ModelError(f"{name}: patching cannot restart runs of this architecture ({error})") from error
        refuse_deviating(name, found, own, self.model.dtype)


def refuse_deviating(name: str, found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise ModelError if logits [..., vocabulary] differ from those expected [vocabulary] by more than rounding."""
    scale = (expected - expected.mean()).square().mean().sqrt().clamp_min(1)
    deviation = float((found - expected).square().mean().sqrt() / scale)
    if not deviation <= TOLERANCES[dtype]:
        raise ModelError(
            f"{name}: patching cannot restart runs of this architecture: logits come out {deviation:.2g} of their "
            f"spread away from the model's own, and {TOLERANCES[dtype]} is rounding"
        )


@torch.no_grad()
def patch_resid_pre(
    model: Any, corrupted_ids: Sequence[int], positions: Sequence[int], vectors: torch.Tensor, batch_tokens: int
) -> torch.Tensor:
    """Last logits of the corrupted run under every single patch of resid_pre.

    vectors: [layer, position, d_model]. Entry [l, p] of the result, float32 [layer, position, vocabulary] on the CPU,
    is for the run in which only resid_pre of layer l at positions[p] is replaced, by vectors[l, p].
    """
    with attention_kernel(model, SEAM):  # a patcher's; afterwards the model has its own again
        patcher = Patcher(model)
        return patcher.logits(patcher.patch(patcher.keep(corrupted_ids, positions), "resid_pre", vectors, batch_tokens))


# ---- tails and batches


def _batch_of_one(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(token_ids)], device=model.device)


def _seen_and_places(model: Any, n_tokens: int, masked: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens attention sees, and each one's position among those, both [1, token]."""
    seen = torch.ones(1, n_tokens, dtype=torch.bool, device=model.device)
    seen[0, list(masked)] = False
    return seen, (seen.cumsum(1) - 1).clamp_min(0)


def _patched_tail(patches: Sequence[Patch]) -> torch.Tensor:
    """The run's tail with each patch's vectors in it, [patch, token, d_model]; all have one run, layer and start."""
    kept, start, n_positions = patches[0].run, patches[0].start, len(patches[0].positions)
    tail = kept.resid_pre[patches[0].layer][start - kept.start :].repeat(len(patches), 1, 1)
    vectors = [patch.vectors.to(tail) for patch in patches]
    if {patch.positions for patch in patches} == {tuple(range(start, start + n_positions))}:
        tail[:, :n_positions] = torch.stack(vectors)  # one operator for all, and no indexing that makes a GPU wait
        return tail
    for row, patch in enumerate(patches):
        tail[row, [position - start for position in patch.positions]] = vectors[row]
    return tail


def _pack(tails: Tails) -> tuple[torch.Tensor, Shapes]:
    """All tokens of all tails in one list, [token, ...]."""
    shapes = {place: (tail.shape[0], tail.shape[1]) for place, tail in tails.items()}
    return torch.cat([tail.flatten(0, 1) for tail in tails.values()]), shapes


def _unpack(packed: torch.Tensor, shapes: Shapes) -> Tails:
    """Views of a list of tokens, one per tail."""
    parts = packed.split([rows * tokens for rows, tokens in shapes.values()])
    return {place: part.unflatten(0, shape) for (place, shape), part in zip(shapes.items(), parts, strict=True)}


def _tokens_of(shapes: Shapes, device: torch.device) -> list[tuple[KeptRun, torch.Tensor]]:
    """The positions of all tokens of packed tails, a place each."""
    return [
        (kept, torch.arange(start, kept.n_tokens, device=device).repeat(rows))
        for (kept, start), (rows, _) in shapes.items()
    ]


def _options(number: int, tokens: Sequence[tuple[KeptRun, torch.Tensor]]) -> dict[str, Any]:
    """What the model passed to a layer in the kept runs, for tokens at some positions of them, packed.

    Everything with one entry per token is indexed: rotations, positions, per-layer inputs.
    """
    first, _ = tokens[0]

    def taken(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(taken(each) for each in zip(*values, strict=True))
        if not isinstance(values[0], torch.Tensor):
            return values[0]
        axis = 0 if values[0].ndim == 1 else 1
        if values[0].shape[axis] != first.n_tokens:
            return values[0]
        parts = [value.index_select(axis, at.to(value.device)) for value, (_, at) in zip(values, tokens, strict=True)]
        return torch.cat(parts, axis)

    return {name: taken([kept.options[number][name] for kept, _ in tokens]) for name in first.options[number]}

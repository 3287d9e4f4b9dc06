"""Activations captured from one run and patched into another (METHOD section 4).

A patch at layer l and positions from p on changes nothing below layer l and nothing before p. So the run that is
patched is kept once, with its keys, values and residual stream, and every patch restarts from it: only the tail
from p on is computed again, from layer l on, and of the last layer only the last token. The tails of all patches
are packed into one list of tokens, so layers, positions and runs share every matrix product.

Any component's patch at layer l and some positions is a patch of resid_pre at layer l + 1 and the same positions:
what follows attention in a layer works on each token by itself. So there is one kind of job, a Patch.

Works on decoders that are built as Qwen2, Qwen3 and Llama are; an engine compares itself with the model's own forward
pass when it is made, and refuses any other model by name.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from r2a.models import ModelError, stack_layers

COMPONENTS = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z")
# How far the engine's logits may be from the model's own: root mean square, relative to the logits'.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
VOCABULARY_ROWS = 16_384  # of the unembedding, turned into float32 at a time


# ---- capture


def final_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of what leaves the last layer, in float32 throughout: [..., d_model] -> [..., vocabulary]."""
    unembedding = model.lm_head.weight
    normed = model.model.norm(hidden.float()).float().to(unembedding.device)
    return torch.cat([normed @ rows.float().T for rows in unembedding.split(VOCABULARY_ROWS)], -1)


@torch.no_grad()
def capture(
    model: Any,
    token_ids: Sequence[int],
    positions: Sequence[int],
    components: Sequence[str],
    hidden: Sequence[int] = (),
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One run's activations at the given positions, and its last logits, by the model's own forward pass.

    `hidden` positions are padding: attention does not see them, and they count for no other token's place.
    Returns float32 [layer, position, d_model] a component, [layer, position, head, d_head] for z, and float32
    [vocabulary], on the CPU.
    """
    kept: dict[str, list[torch.Tensor]] = {component: [] for component in components}
    last: list[torch.Tensor] = []

    def keep(component: str) -> Callable[..., None]:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: Any = None) -> None:
            found = inputs[0] if output is None else output[0] if isinstance(output, tuple) else output
            kept[component].append(found[0, list(positions)].float().cpu())

        return hook

    with ExitStack() as hooks:
        for layer in model.model.layers:
            attention = layer.self_attn
            places = {
                "resid_pre": layer.register_forward_pre_hook,
                "resid_mid": layer.post_attention_layernorm.register_forward_pre_hook,
                "attn_out": attention.register_forward_hook,
                "mlp_out": layer.mlp.register_forward_hook,
                "z": attention.o_proj.register_forward_pre_hook,
            }
            for component in components:
                hooks.callback(places[component](keep(component)).remove)
        hooks.callback(
            model.model.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0][0, -1])).remove
        )
        seen, numbers = _seen_and_places(model, len(token_ids), hidden)
        model.model(
            input_ids=_batch_of_one(model, token_ids), attention_mask=seen, position_ids=numbers, use_cache=False
        )
    found = {component: torch.stack(layers) for component, layers in kept.items()}
    if "z" in found:
        found["z"] = found["z"].unflatten(-1, (model.config.num_attention_heads, -1))
    return found, final_logits(model, last[0]).cpu()


def capture_resid_pre(
    model: Any, token_ids: Sequence[int], positions: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One run's resid_pre, float32 [layer, position, d_model], and its last logits, float32 [vocabulary]."""
    found, logits = capture(model, token_ids, positions, ["resid_pre"])
    return found["resid_pre"], logits


# ---- patching


@dataclass(frozen=True, eq=False)
class KeptRun:
    """What patches need of the run that they restart from; the lists have an entry a layer.

    start: the first position that can be patched. keys, values: [1, kv_head, token, d_head], keys with their rotation.
    resid_pre: [token from `start` on, d_model], and once more what leaves the last layer, [1, d_model], of the last
    token alone. resid_mid [position, d_model] and z [position, head, d_head], at `positions`. rotation: cosines and
    sines, [token, d_head]. seen: [token], false where attention does not see a token.
    """

    positions: tuple[int, ...]
    start: int
    n_tokens: int
    rotation: tuple[torch.Tensor, torch.Tensor]
    seen: torch.Tensor
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    resid_pre: list[torch.Tensor] = field(default_factory=list)
    resid_mid: list[torch.Tensor] = field(default_factory=list)
    z: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Patch:
    """Vectors [position, d_model] put in place of resid_pre of a layer, at some positions of one run.

    `layer` may be the number of layers: what leaves the last one.
    """

    run: KeptRun
    layer: int
    positions: tuple[int, ...]
    vectors: torch.Tensor

    @property
    def start(self) -> int:
        return min(self.positions)

    @property
    def n_tokens(self) -> int:
        """Tokens that are computed again."""
        return self.run.n_tokens - self.start


Place = tuple[KeptRun, int]  # the run that tails belong to, and the position where they begin
Tails = dict[Place, torch.Tensor]  # [row, token from there on, ...], a row a patch
Shapes = dict[Place, tuple[int, int]]  # rows and tokens of each of several tails that are packed, [token, ...]


class Attended(NamedTuple):
    """What a layer's attention makes of tails: resid_mid and z (heads joined), packed; keys and values, heads apart."""

    mid: torch.Tensor
    z: torch.Tensor
    keys: Tails
    values: Tails
    shapes: Shapes  # of mid and z


class Engine:
    """Patches into kept runs of one model."""

    def __init__(self, model: Any) -> None:
        """Raises ModelError, naming the architecture, where restarts don't give the model's own logits."""
        self.model = model.requires_grad_(False)
        self._check()

    @property
    def n_layers(self) -> int:
        return len(self.model.model.layers)

    @property
    def n_heads(self) -> int:
        return self.model.config.num_attention_heads

    @property
    def d_head(self) -> int:
        return self.model.model.layers[0].self_attn.head_dim

    @torch.no_grad()
    def keep(
        self, token_ids: Sequence[int], positions: Sequence[int], start: int | None = None, hidden: Sequence[int] = ()
    ) -> KeptRun:
        """Run the tokens once and keep what patches at the given positions need, or anywhere from `start` on.

        hidden: as in `capture`.
        """
        n_tokens, at = len(token_ids), list(positions)
        states = self.model.model.embed_tokens(_batch_of_one(self.model, token_ids))
        seen, places = _seen_and_places(self.model, n_tokens, hidden)
        cos, sin = self.model.model.rotary_emb(states, places)
        first = min(at) if start is None else start
        kept = KeptRun(tuple(positions), first, n_tokens, (cos[0], sin[0]), seen[0])
        place = (kept, 0)
        for number in range(self.n_layers):
            kept.resid_pre.append(states[0, kept.start :].clone())
            is_last = number == self.n_layers - 1
            found = self._attention(number, {place: states}, [*at, n_tokens - 1] if is_last else None)
            kept.keys.append(found.keys[place])
            kept.values.append(found.values[place])
            rows = slice(len(at)) if is_last else at
            kept.resid_mid.append(found.mid[rows])
            kept.z.append(found.z[rows].unflatten(-1, (-1, found.keys[place].shape[-1])))
            states = self._mlp(number, found.mid)[None]
        kept.resid_pre.append(states[0, -1:])
        return kept

    @torch.no_grad()
    def finish(self, patches: Sequence[Patch], batch_tokens: int) -> torch.Tensor:
        """What leaves the last layer at the last token under each patch, of one run or of several: [patch, d_model].

        `batch_tokens` bounds the tokens that are computed at a time.
        """
        left = torch.cat([patch.run.resid_pre[-1] for patch in patches])
        walking = []
        for number, patch in enumerate(patches):
            last = patch.run.n_tokens - 1
            if patch.layer < self.n_layers:
                walking.append(number)
            elif last in patch.positions:
                left[number] = patch.vectors[patch.positions.index(last)].to(left)
        # run by run, so that patches that share keys and values share a batch
        runs = {run: number for number, run in enumerate(dict.fromkeys(patch.run for patch in patches))}
        walking.sort(key=lambda number: (runs[patches[number].run], patches[number].layer))
        for batch in batches(walking, [patch.n_tokens for patch in patches], batch_tokens):
            joining: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
            for number in batch:
                patch = patches[number]
                joining[patch.layer][patch.run, patch.start].append(number)
            tails: Tails = {}
            rows: dict[Place, list[int]] = defaultdict(list)
            for layer in range(min(patches[number].layer for number in batch), self.n_layers):
                for place, numbers in joining[layer].items():
                    tail = _patched_tail([patches[number] for number in numbers])
                    tails[place] = torch.cat([tails[place], tail]) if place in tails else tail
                    rows[place] += numbers
                found = self._attention(layer, tails, [-1] if layer == self.n_layers - 1 else None, batch_tokens)
                tails = _unpack(self._mlp(layer, found.mid), found.shapes)
            for place, tail in tails.items():
                left[rows[place]] = tail[:, 0]
        return left

    def patches(
        self, kept: KeptRun, component: str, vectors: torch.Tensor, places: Sequence[int] | None = None
    ) -> list[Patch]:
        """Every single patch of a component, layer by layer, position by position, and of z head by head.

        vectors: [layer, position, d_model], [layer, position, head, d_head] for z; for the positions of `kept`, or
        for those of them that `places` numbers.
        """
        places = range(len(kept.positions)) if places is None else places
        later = 0 if component == "resid_pre" else 1
        return [
            Patch(kept, layer + later, (kept.positions[place],), vector[None])
            for layer in range(self.n_layers)
            for place, at_place in zip(places, self._entering(kept, component, layer, vectors, places), strict=True)
            for vector in at_place.reshape(-1, at_place.shape[-1])
        ]

    def patch(self, kept: KeptRun, component: str, vectors: torch.Tensor, batch_tokens: int) -> torch.Tensor:
        """What leaves the last layer at the last token under every single patch of a component.

        vectors as in `patches`. Returns [layer, position, d_model], for z [layer, position, head, d_model].
        """
        left = self.finish(self.patches(kept, component, vectors), batch_tokens)
        return left.reshape(*vectors.shape[: 3 if component == "z" else 2], -1)

    @torch.no_grad()
    def logits(self, left: torch.Tensor) -> torch.Tensor:
        """Float32 logits [..., vocabulary] of what leaves the last layer, on the CPU."""
        return final_logits(self.model, left).cpu()

    def gradients(self, kept: KeptRun, answer_a: int, answer_b: int) -> dict[str, torch.Tensor]:
        """Gradient of logit(a) - logit(b) at the last token with respect to each component, at the kept positions.

        Float32 [layer, position, d_model], [layer, position, head, d_head] for z, on the CPU. What follows attention
        in a layer works on each token by itself, so three of the components' are another one's, or linear in it.
        """
        first = min(kept.positions)
        place, at = (kept, first), [position - first for position in kept.positions]
        tail = kept.resid_pre[0][first - kept.start :][None].requires_grad_()
        streams, mids = [tail], []
        for number in range(self.n_layers):
            found = self._attention(number, {place: streams[-1]}, None)
            mids.append(found.mid)
            streams.append(self._mlp(number, found.mid)[None])
        rows = self.model.lm_head.weight[[answer_a, answer_b]].float()
        logits = self.model.model.norm(streams[-1][0, -1].float()).float().to(rows.device) @ rows.T
        gradients = torch.autograd.grad(logits[0] - logits[1], [*mids, *streams])
        of_mids, of_streams = gradients[: self.n_layers], gradients[self.n_layers :]
        found_at = {
            "resid_pre": [gradient[0, at] for gradient in of_streams[:-1]],
            "mlp_out": [gradient[0, at] for gradient in of_streams[1:]],
            "resid_mid": [gradient[at] for gradient in of_mids],
        }
        found_at["attn_out"] = found_at["resid_mid"]
        found_at["z"] = [
            (gradient @ layer.self_attn.o_proj.weight).unflatten(-1, (-1, layer.self_attn.head_dim))
            for gradient, layer in zip(found_at["attn_out"], self.model.model.layers, strict=True)
        ]
        return {component: stack_layers(layers).float().cpu() for component, layers in found_at.items()}

    @torch.no_grad()
    def _entering(
        self, kept: KeptRun, component: str, number: int, vectors: torch.Tensor, places: Sequence[int]
    ) -> torch.Tensor:
        """What enters the next layer (resid_pre: this layer) at some kept positions when a component is replaced.

        [position, d_model], for z [position, head, d_model]; `vectors` and `places` as in `patches`.
        """
        at, layer = list(places), self.model.model.layers[number]
        mid, new = kept.resid_mid[number][at], vectors[number].to(kept.resid_mid[number])
        if component == "resid_pre":
            return new
        if component == "mlp_out":
            return mid + new
        if component == "attn_out":
            mid = kept.resid_pre[number][[kept.positions[place] - kept.start for place in at]].to(new.device) + new
        elif component == "resid_mid":
            mid = new
        else:
            written_by = layer.self_attn.o_proj.weight.unflatten(1, new.shape[1:])  # [d_model, head, d_head]
            mid = mid[:, None] + torch.einsum("phe,dhe->phd", new - kept.z[number][at], written_by)
        return self._mlp(number, mid)

    def _mlp(self, number: int, mid: torch.Tensor) -> torch.Tensor:
        """The second half of a layer: resid_mid to the next layer's resid_pre, [..., d_model]."""
        layer = self.model.model.layers[number]
        return mid + layer.mlp(layer.post_attention_layernorm(mid))

    def _attention(self, number: int, tails: Tails, asked: list[int] | None, batch_tokens: int = 0) -> Attended:
        """The first half of a layer, for tails of resid_pre; mid and z only at the positions asked for, if any are.

        A tail sees the kept keys and values before its start, then its own. `batch_tokens` bounds the keys seen at a
        time, in tokens.
        """
        layer = self.model.model.layers[number]
        attention = layer.self_attn
        device = attention.o_proj.weight.device
        tails = {place: tail.to(device) for place, tail in tails.items()}  # the layer before may be on another GPU
        packed, shapes = _pack(tails)
        normed = layer.input_layernorm(packed)
        all_keys, all_values = (_unpack(side(normed), shapes) for side in (attention.k_proj, attention.v_proj))
        if asked is not None:
            (packed, _), (normed, shapes) = _pack(_at(tails, asked)), _pack(_at(_unpack(normed, shapes), asked))
        keys, values, parts = {}, {}, []
        for (kept, start), queries in _unpack(attention.q_proj(normed), shapes).items():
            place, own = (kept, start), slice(start, None)
            asked_for = own if asked is None else [position % kept.n_tokens for position in asked]
            queries = _heads(queries, attention, "q_norm", kept.rotation, asked_for)
            keys[place] = _heads(all_keys[place], attention, "k_norm", kept.rotation, own)
            values[place] = all_values[place].unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            before = [side[number][:, :, :start] for side in (kept.keys, kept.values)] if start else []
            every_place = torch.arange(kept.n_tokens, device=device)
            is_whole = not before and asked is None and bool(kept.seen.all())
            visible = None if is_whole else kept.seen.to(device) & (every_place <= every_place[asked_for, None])
            rows_at_a_time = max(1, batch_tokens // kept.n_tokens)
            for first in range(0, len(queries), rows_at_a_time):
                rows = slice(first, first + rows_at_a_time)
                own_sides = (queries[rows], keys[place][rows], values[place][rows])
                found = _attend(*own_sides, before, visible, attention.scaling)
                parts.append(found.transpose(1, 2).flatten(2).flatten(0, 1))
        z = torch.cat(parts)
        return Attended(packed + attention.o_proj(z), z, keys, values, shapes)

    @torch.no_grad()
    def _check(self) -> None:
        """Compare a short run, and a restart of it that changes nothing, with the model's own forward pass."""
        name = type(self.model).__name__
        ids = torch.randint(self.model.config.vocab_size, (12,), generator=torch.Generator().manual_seed(0)).tolist()
        try:
            own = self.model(_batch_of_one(self.model, ids), use_cache=False).logits[0, -1].float().cpu()
            kept = self.keep(ids, [5])
            layer = self.n_layers // 2
            null = self.finish([Patch(kept, layer, (5,), kept.resid_pre[layer][:1])], len(ids))
            found = self.logits(torch.cat([kept.resid_pre[-1], null]))
        except (AttributeError, IndexError, RuntimeError, TypeError) as error:
            raise ModelError(f"{name}: patching cannot restart runs of this architecture ({error})") from error
        refuse_deviating(name, found, own, self.model.dtype)


def refuse_deviating(name: str, found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Raises ModelError where logits [..., vocabulary] are not, within rounding, those expected [vocabulary]."""
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

    vectors: [layer, position, d_model]. Entry [l, p] of the result, float32 [layer, position, vocabulary] on
    the CPU, is the run in which resid_pre of layer l at positions[p] alone is replaced by vectors[l, p].
    """
    engine = Engine(model)
    return engine.logits(engine.patch(engine.keep(corrupted_ids, positions), "resid_pre", vectors, batch_tokens))


# ---- tails and batches


def _batch_of_one(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(token_ids)], device=model.device)


def _seen_and_places(model: Any, n_tokens: int, hidden: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens attention sees, and each one's place among those, both [1, token]."""
    seen = torch.ones(1, n_tokens, dtype=torch.bool, device=model.device)
    seen[0, list(hidden)] = False
    return seen, (seen.cumsum(1) - 1).clamp_min(0)


def batches(order: Sequence[int], tokens: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Split `order` into runs of at most `batch_tokens` tokens each, or of one."""
    batch: list[int] = []
    total = 0
    for number in order:
        total += tokens[number]
        if batch and total > batch_tokens:
            yield batch
            batch, total = [], tokens[number]
        batch.append(number)
    if batch:
        yield batch


def _patched_tail(patches: Sequence[Patch]) -> torch.Tensor:
    """The run's tail with each patch's vectors in it, [patch, token, d_model]; all of one run, layer and start."""
    kept, start = patches[0].run, patches[0].start
    tail = kept.resid_pre[patches[0].layer][start - kept.start :].repeat(len(patches), 1, 1)
    for row, patch in enumerate(patches):
        tail[row, [position - start for position in patch.positions]] = patch.vectors.to(tail)
    return tail


def _pack(tails: Tails) -> tuple[torch.Tensor, Shapes]:
    """All tokens of all tails in one list, [token, ...]."""
    shapes = {place: (tail.shape[0], tail.shape[1]) for place, tail in tails.items()}
    return torch.cat([tail.flatten(0, 1) for tail in tails.values()]), shapes


def _unpack(packed: torch.Tensor, shapes: Shapes) -> Tails:
    """Views of a list of tokens, one a tail."""
    parts = packed.split([rows * tokens for rows, tokens in shapes.values()])
    return {place: part.unflatten(0, shape) for (place, shape), part in zip(shapes.items(), parts, strict=True)}


def _at(tails: Tails, positions: Sequence[int]) -> Tails:
    """The tokens of tails at positions of their runs; -1 is the last."""
    return {
        (kept, start): tail[:, [position % kept.n_tokens - start for position in positions]]
        for (kept, start), tail in tails.items()
    }


def _heads(
    joined: torch.Tensor,
    attention: Any,
    norm: str,
    rotation: tuple[torch.Tensor, torch.Tensor],
    places: slice | list[int],
) -> torch.Tensor:
    """Queries or keys [row, token, d] at the given places, normed if the model norms them, and rotated.

    Returns [row, head, token, d_head].
    """
    heads = joined.unflatten(-1, (-1, attention.head_dim))
    if hasattr(attention, norm):
        heads = getattr(attention, norm)(heads)
    heads = heads.transpose(1, 2)
    cos, sin = (side[places].to(heads.device) for side in rotation)
    half = attention.head_dim // 2
    rotated = heads * cos
    rotated[..., :half] -= heads[..., half:] * sin[..., :half]
    rotated[..., half:] += heads[..., :half] * sin[..., half:]
    return rotated


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    before: Sequence[torch.Tensor], visible: torch.Tensor | None, scaling: float,
) -> torch.Tensor:  # fmt: skip
    """z of queries, both [row, head, query, d_head].

    Keys are those `before`, as the values [1, kv_head, token, d_head], then the row's own; `visible` says which of
    them each query sees, [query, token]. With None the queries stand at all the keys' places and see up to their own.
    """
    n_rows, n_heads, n_queries, d_head = queries.shape
    sharing = n_heads // keys.shape[1]
    if before:
        keys, values = (
            torch.cat([prefix.expand(n_rows, -1, -1, -1), own], 2)
            for prefix, own in zip(before, (keys, values), strict=True)
        )
    if visible is None:
        keys, values = (side.repeat_interleave(sharing, 1) for side in (keys, values))
        return scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scaling)
    # heads that share keys stand behind each other as queries of one head, so keys need not be repeated
    z = scaled_dot_product_attention(
        queries.reshape(n_rows, -1, sharing * n_queries, d_head), keys, values,
        attn_mask=visible.repeat(sharing, 1), scale=scaling,
    )  # fmt: skip
    return z.reshape(queries.shape)

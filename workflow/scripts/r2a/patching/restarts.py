"""Runs that are kept, the patches into them, and the tails of tokens that patches recompute (see patcher).

A tail begins at a patch's first position. The tails of several patches are packed into one list of tokens, and pass
through a layer together; each sees the keys and values that its run has before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from r2a.models.attention import places_among
from r2a.models.kernels import Rule, attend


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


class Enough(Exception):
    """Raised when keys and values have been computed and the rest of the layer is not needed."""


class Keeping:
    """The pass of a whole run that keeps its keys and values."""

    def __init__(self, kept: KeptRun) -> None:
        self.kept = kept

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        self.kept.keys.append(key)
        self.kept.values.append(value)
        return _see(rule, self.kept, range(self.kept.n_tokens), query, key, value)


@dataclass
class Restart:
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
            raise Enough
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
        unpacked = unpack(packed[0].transpose(0, 1), shapes or self.shapes)
        return {place: part.transpose(1, 2) for place, part in unpacked.items()}


class Elsewhere:
    """A pass whose attention output is inserted afterwards, at the output projection."""

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])


def _see(
    rule: Rule, kept: KeptRun, at: range, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """z [row, query, head, d_value] of queries at some positions of a run, over the keys of all its tokens."""
    visible = None
    if len(at) < kept.n_tokens or kept.seen is not None or rule.is_local(kept.n_tokens):
        seen = None if kept.seen is None else kept.seen.to(query.device)
        places = torch.arange(kept.n_tokens, device=query.device) if seen is None else places_among(seen)
        visible = rule.sees(places[at.start :, None], places)
        if seen is not None:
            visible = visible & seen
    return attend(rule, query, key, value, visible).transpose(1, 2)


def patched_tail(patches: Sequence[Patch]) -> torch.Tensor:
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


def pack(tails: Tails) -> tuple[torch.Tensor, Shapes]:
    """All tokens of all tails in one list, [token, ...]."""
    shapes = {place: (tail.shape[0], tail.shape[1]) for place, tail in tails.items()}
    return torch.cat([tail.flatten(0, 1) for tail in tails.values()]), shapes


def unpack(packed: torch.Tensor, shapes: Shapes) -> Tails:
    """Views of a list of tokens, one per tail."""
    parts = packed.split([rows * tokens for rows, tokens in shapes.values()])
    return {place: part.unflatten(0, shape) for (place, shape), part in zip(shapes.items(), parts, strict=True)}


def tokens_of(shapes: Shapes, device: torch.device) -> list[tuple[KeptRun, torch.Tensor]]:
    """The positions of all tokens of packed tails, a place each."""
    return [
        (kept, torch.arange(start, kept.n_tokens, device=device).repeat(rows))
        for (kept, start), (rows, _) in shapes.items()
    ]


def options_of(number: int, tokens: Sequence[tuple[KeptRun, torch.Tensor]]) -> dict[str, Any]:
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

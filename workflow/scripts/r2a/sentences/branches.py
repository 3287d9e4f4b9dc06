"""Branches that continue one kept run from any of its tokens, packed into one forward pass.

A branch is a sequence of tokens after the first `start` tokens of the kept run: another ending, or the rest of the run
with a part of it hidden. All branches share what precedes `start`, so its keys and values are computed once. The
branches of a batch follow each other in one row, each with its own positions; each sees the kept tokens before its
start, and its own tokens.

Branches pass through the model's own layers; only attention is replaced. Attention is computed for one block of queries
at a time, on the keys that one of them sees, so no token x token array is held for all branches at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from r2a.head_sets import Head
from r2a.models import ModelError
from r2a.models.attention import Pass, plain_attention
from r2a.models.decoder import Decoder
from r2a.models.kernels import Rule, attend
from r2a.models.rounding import own_logits, refuse_beyond_rounding

BLOCK_QUERIES = 512  # whose attention is computed at a time
CHECK_TOKENS = 64  # tokens of a trace on which branches are checked


@dataclass(frozen=True)
class Branch:
    """Tokens that continue the kept run after its first `start` tokens.

    hidden: the half-open range of kept tokens that the branch's tokens do not see, in `heads`, or in all heads if
    `heads` is None.
    """

    start: int
    token_ids: tuple[int, ...]
    hidden: tuple[int, int] = (0, 0)
    heads: frozenset[Head] | None = None


@dataclass
class KeptRun:
    """The keys [1, kv_head, token, d_head] and values [1, kv_head, token, d_value] of a run, by layer.

    leaving: the last layer's output, [token, d_model].
    """

    token_ids: tuple[int, ...]
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    leaving: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        self.keys[rule.layer], self.values[rule.layer] = key, value
        n_tokens = query.shape[2]
        if rule.softcap is None and rule.sinks is None and not rule.is_local(n_tokens):
            return plain_attention(rule, query, key, value)
        parts = []
        for first in range(0, n_tokens, BLOCK_QUERIES):
            last, low = min(first + BLOCK_QUERIES, n_tokens), _first_seen(rule, first)
            places = torch.arange(low, last, device=query.device)
            visible = rule.sees(places[first - low :, None], places)
            parts.append(attend(rule, query[:, :, first:last], key[:, :, low:last], value[:, :, low:last], visible))
        return torch.cat(parts, 2).transpose(1, 2)


@torch.no_grad()
def keep_run(model: Any, token_ids: Sequence[int]) -> KeptRun:
    """Run the tokens once and keep their keys and values.

    Raises ModelError if runs of this architecture cannot be continued exactly.
    """
    decoder = Decoder(model)
    if decoder.apart:
        raise ModelError(f"{decoder.name}: its reasoning's sentences cannot be hidden exactly: {decoder.apart}")
    kept = KeptRun(tuple(map(int, token_ids)))
    kept.leaving = _leaving(decoder, kept.token_ids, torch.arange(len(token_ids)), kept)
    return kept


@dataclass(frozen=True)
class _Block:
    """Some queries of a pass and the branch tokens that one of them sees, both by index.

    places [query], own_places [own]: positions. starts [query]: where each query's branch starts. is_same [query, own]:
    whether both belong to one branch. low: the first position. high: the last start. branch: the branch of all queries
    if it hides something, otherwise None.
    """

    queries: torch.Tensor
    own: torch.Tensor
    places: torch.Tensor
    own_places: torch.Tensor
    starts: torch.Tensor
    is_same: torch.Tensor
    low: int
    high: int
    branch: Branch | None

    def visible(self, rule: Rule, low: int) -> torch.Tensor:
        """Which keys each query sees, [query, key]: the kept tokens from `low` up to `high`, then the branches' own."""
        kept_places = torch.arange(low, self.high, device=self.places.device)
        sees_kept = rule.sees(self.places[:, None], kept_places) & (kept_places < self.starts[:, None])
        return torch.cat([sees_kept, rule.sees(self.places[:, None], self.own_places) & self.is_same], 1)

    def attend(
        self, rule: Rule, query: torch.Tensor, kept: Sequence[torch.Tensor], own: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """z [head, query, d_value] for the queries [1, head, query, d_head], over kept and own keys and values."""
        low = min(_first_seen(rule, self.low), self.high)
        key, value = (
            torch.cat([before[:, :, low : self.high], after.index_select(2, self.own.to(after.device))], 2)
            for before, after in zip(kept, own, strict=True)
        )
        visible = self.visible(rule, low).to(query.device)
        if self.branch is None:
            return attend(rule, query, key, value, visible)[0]
        without = visible.clone()
        first, last = (min(max(place - low, 0), self.high - low) for place in self.branch.hidden)
        without[:, first:last] = False
        if self.branch.heads is None:
            return attend(rule, query, key, value, without)[0]
        z = attend(rule, query, key, value, visible)[0]
        heads = sorted(head for layer, head in self.branch.heads if layer == rule.layer)
        if heads:
            sharing = query.shape[1] // key.shape[1]
            key_heads = [head // sharing for head in heads]
            own_rule = rule if rule.sinks is None else replace(rule, sinks=rule.sinks[heads])
            z[heads] = attend(own_rule, query[:, heads], key[:, key_heads], value[:, key_heads], without)[0]
        return z


class Branches:
    """Branches of one kept run, read in one forward pass; each can then be continued token by token."""

    def __init__(self, model: Any, kept: KeptRun, branches: Sequence[Branch]) -> None:
        self.decoder, self.kept, self.branches = Decoder(model), kept, branches
        # for each token read so far: its branch (-1 if it is forgotten) and its position
        self.owners = torch.empty(0, dtype=torch.long)
        self.places = torch.empty(0, dtype=torch.long)
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.blocks: list[_Block] = []

    def read(self) -> list[torch.Tensor]:
        """The last layer's output at each branch's tokens, one [token, d_model] per branch."""
        sizes = [len(branch.token_ids) for branch in self.branches]
        owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        places = torch.cat([branch.start + torch.arange(len(branch.token_ids)) for branch in self.branches])
        tokens = [token for branch in self.branches for token in branch.token_ids]
        return list(self._run(tokens, owners, places).split(sizes))

    def forget(self, branch: int, n_left: int) -> None:
        """Drop all but the first `n_left` tokens of a branch."""
        self.owners[(self.owners == branch) & (self.places >= self.branches[branch].start + n_left)] = -1

    def go_on(self, branches: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each of some branches; return the last layer's output there, [branch, d_model]."""
        places = [self.branches[branch].start + int((self.owners == branch).sum()) for branch in branches]
        return self._run(tokens, torch.tensor(list(branches)), torch.tensor(places))

    def greedy_answers(
        self,
        chosen: Sequence[Sequence[int]],
        target: Sequence[int],
        is_whole: Callable[[Sequence[int]], bool],
        max_tokens: int,
    ) -> list[list[int]]:
        """The first branches' greedy answers in place of the target, with which each of these branches ends.

        chosen: for each of these branches, the arg-max tokens at the positions that predict the target's tokens and the
        token after it. They count as long as they equal the target's; from the first difference on, the branch is
        continued token by token until `is_whole` or max_tokens. The rest of the target is dropped from the branch.
        """
        answers: list[list[int]] = []
        for number, tokens in enumerate(chosen):
            n_same = next((k for k, token in enumerate(target) if token != tokens[k]), len(target))
            found = [*target[:n_same], tokens[n_same]]
            whole = (found[:n] for n in range(1, len(found)) if n == max_tokens or is_whole(found[:n]))
            answers.append(next(whole, found))
            self.forget(number, len(self.branches[number].token_ids) - len(target) + n_same)
        while True:
            going_on = [k for k, ids in enumerate(answers) if len(ids) < max_tokens and not is_whole(ids)]
            if not going_on:
                return answers
            leaving = self.go_on(going_on, [answers[k][-1] for k in going_on])
            for k, token in zip(going_on, self.decoder.final_logits(leaving).argmax(-1).tolist(), strict=True):
                answers[k].append(token)

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        layer = rule.layer
        if layer in self.keys:
            key, value = torch.cat([self.keys[layer], key], 2), torch.cat([self.values[layer], value], 2)
        self.keys[layer], self.values[layer] = key, value
        z = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
        kept = self.kept.keys[layer], self.kept.values[layer]
        for block in self.blocks:
            queries = block.queries.to(query.device)
            found = block.attend(rule, query.index_select(2, queries), kept, (key, value))
            z[0, queries] = found.transpose(0, 1)
        return z

    @torch.no_grad()
    def _run(self, tokens: Sequence[int], owners: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        n_before = len(self.owners)
        self.owners, self.places = torch.cat([self.owners, owners]), torch.cat([self.places, places])
        self.blocks = list(self._blocks(n_before))
        return _leaving(self.decoder, tokens, places, self)

    def _blocks(self, n_before: int) -> Iterator[_Block]:
        """Blocks of the tokens from n_before on: of several branches, or a part of one that is long or hides tokens."""
        together: list[int] = []
        n_together = 0
        # sorted by start, so that the branches of a block see about the same number of kept tokens
        for branch in sorted(set(self.owners[n_before:].tolist()), key=lambda branch: self.branches[branch].start):
            own = (self.owners == branch).nonzero()[:, 0]
            new = own[own >= n_before]
            hidden = self.branches[branch].hidden
            if hidden[0] < hidden[1] or len(new) > BLOCK_QUERIES:
                for queries in new.split(BLOCK_QUERIES):
                    yield self._block(queries, own[own <= queries[-1]], n_before, self.branches[branch])
                continue
            if n_together + len(new) > BLOCK_QUERIES:
                yield self._shared(together, n_before)
                together, n_together = [], 0
            together.append(branch)
            n_together += len(new)
        if together:
            yield self._shared(together, n_before)

    def _shared(self, branches: Sequence[int], n_before: int) -> _Block:
        own = torch.isin(self.owners, torch.tensor(branches)).nonzero()[:, 0]
        return self._block(own[own >= n_before], own, n_before, None)

    def _block(self, queries: torch.Tensor, own: torch.Tensor, n_before: int, branch: Branch | None) -> _Block:
        starts = torch.tensor([branch.start for branch in self.branches])[self.owners[queries]]
        device = self.decoder.model.device
        return _Block(
            (queries - n_before).to(device),
            own.to(device),
            self.places[queries].to(device),
            self.places[own].to(device),
            starts.to(device),
            (self.owners[queries][:, None] == self.owners[own]).to(device),
            int(self.places[queries].min()),
            int(starts.max()),
            branch,
        )


def _first_seen(rule: Rule, place: int) -> int:
    """The first token that a query at some place can see."""
    if rule.chunk is not None:
        return place // rule.chunk * rule.chunk
    return 0 if rule.window is None else max(0, place - rule.window + 1)


def _leaving(decoder: Decoder, tokens: Sequence[int], places: torch.Tensor, forward_pass: Pass) -> torch.Tensor:
    """The last layer's output, [token, d_model], for tokens at the given positions of one row."""
    device = decoder.model.device
    left: list[torch.Tensor] = []
    hook = decoder.norm.register_forward_pre_hook(lambda _, inputs: left.append(inputs[0][0]))
    try:
        ids = torch.tensor([list(tokens)], device=device)
        decoder.run(ids, forward_pass, position_ids=places[None].to(device))
    finally:
        hook.remove()
    return left[-1]  # some families norm the embedding, too


@torch.no_grad()
def refuse_inexact_branches(model: Any, token_ids: Sequence[int]) -> None:
    """Raise ModelError if a branch of a trace's first tokens does not reproduce the model's own logits."""
    ids = list(map(int, token_ids[:CHECK_TOKENS]))
    decoder, start = Decoder(model), len(ids) // 2
    (leaving,) = Branches(model, keep_run(model, ids[:start]), [Branch(start, tuple(ids[start:]))]).read()
    found = decoder.final_logits(leaving[-1:])[0]
    what = "runs of this architecture cannot be continued exactly"
    refuse_beyond_rounding(model, ids, found, own_logits(model, ids), what)

"""Runs that go on from the kept keys and values of one run, from any of its tokens, packed into one forward pass.

A branch is some tokens after the first `start` of the kept run: another ending, or the rest of the run itself with a
part of it hidden. What stands before `start` is the same in all branches, so it is computed once. The branches of a
batch follow each other in one row, each with its own positions; each sees kept tokens before its start, and itself.

Branches go through the model's own layers; only attention is ours. It takes queries a block at a time, on those keys
that one of them sees, so nothing token x token is held for all branches at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from r2a.head_sets import Head
from r2a.models import ModelError
from r2a.models.attention import Pass, attention_kernel, plain_attention
from r2a.models.decoder import Decoder
from r2a.models.kernels import Rule, attend

BLOCK_QUERIES = 512  # whose attention is computed at a time
CHECK_TOKENS = 64  # of a trace that branches are tried on
# how far logits of a branch may be from the model's own: root mean square, relative to the logits' spread
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


@dataclass(frozen=True)
class Branch:
    """Tokens that go on from the first `start` tokens of the kept run.

    hidden: the first and past-the-last of the kept tokens that the branch's tokens do not see, in these heads, or in
    all of them where `heads` is None.
    """

    start: int
    token_ids: tuple[int, ...]
    hidden: tuple[int, int] = (0, 0)
    heads: frozenset[Head] | None = None


@dataclass
class KeptRun:
    """Keys [1, kv_head, token, d_head] and values [1, kv_head, token, d_value] of a run, by layer.

    leaving: what leaves the last layer, [token, d_model].
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
    """Run the tokens once. Raises ModelError where runs of this architecture cannot be gone on from."""
    decoder = Decoder(model)
    if decoder.apart:
        raise ModelError(f"{decoder.name}: no sentence of its reasoning can be hidden exactly: {decoder.apart}")
    kept = KeptRun(tuple(map(int, token_ids)))
    kept.leaving = _leaving(decoder, kept.token_ids, torch.arange(len(token_ids)), kept)
    return kept


@dataclass(frozen=True)
class _Block:
    """Queries of a pass, by their number in it, and the branches' tokens that one of them sees, by number.

    places [query] and own_places [own]; starts [query], of the queries' branches; is_same [query, own]: of one branch.
    low: the first place; high: the last start. branch: the one that the queries are of, where it hides something.
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
        """Which keys each query sees, [query, key]: kept tokens from `low` up to `high`, then own ones."""
        kept_places = torch.arange(low, self.high, device=self.places.device)
        sees_kept = rule.sees(self.places[:, None], kept_places) & (kept_places < self.starts[:, None])
        return torch.cat([sees_kept, rule.sees(self.places[:, None], self.own_places) & self.is_same], 1)

    def attend(
        self, rule: Rule, query: torch.Tensor, kept: Sequence[torch.Tensor], own: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """z [head, query, d_value] of the block's queries [1, head, query, d_head], on kept and own keys and values."""
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
    """Branches of one kept run, read in one forward pass; each can then be gone on with, token by token."""

    def __init__(self, model: Any, kept: KeptRun, branches: Sequence[Branch]) -> None:
        self.decoder, self.kept, self.branches = Decoder(model), kept, branches
        # of every token of a branch, in the order in which they come: its branch, -1 where none sees it, and its place
        self.owners = torch.empty(0, dtype=torch.long)
        self.places = torch.empty(0, dtype=torch.long)
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.blocks: list[_Block] = []

    def read(self) -> list[torch.Tensor]:
        """What leaves the last layer at each branch's tokens, [token, d_model] a branch."""
        sizes = [len(branch.token_ids) for branch in self.branches]
        owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        places = torch.cat([branch.start + torch.arange(len(branch.token_ids)) for branch in self.branches])
        tokens = [token for branch in self.branches for token in branch.token_ids]
        return list(self._run(tokens, owners, places).split(sizes))

    def forget(self, branch: int, n_left: int) -> None:
        """Leave a branch its first tokens alone."""
        self.owners[(self.owners == branch) & (self.places >= self.branches[branch].start + n_left)] = -1

    def go_on(self, branches: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Append a token to each of some branches; returns what leaves the last layer there, [branch, d_model]."""
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

        chosen: a list for each of these branches, the arg-max tokens where the target's are predicted, and after it.
        They hold as far as they are the target's; from there on each branch goes on by itself, until `is_whole` or
        max_tokens. What else stands in a branch after its first other token is forgotten.
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
        """The tokens from the n_before-th on in blocks: of several branches, or of a part of a long or a hiding one."""
        together: list[int] = []
        n_together = 0
        # by start, so that the branches of a block see about as many kept tokens
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
    """What leaves the last layer, [token, d_model], of tokens at some places of one row."""
    device = decoder.model.device
    left: list[torch.Tensor] = []
    hook = decoder.norm.register_forward_pre_hook(lambda _, inputs: left.append(inputs[0][0]))
    try:
        ids = torch.tensor([list(tokens)], device=device)
        decoder.run(ids, forward_pass, position_ids=places[None].to(device))
    finally:
        hook.remove()
    return left[0]


@torch.no_grad()
def refuse_deviating(model: Any, token_ids: Sequence[int]) -> None:
    """Raise ModelError where a branch of a trace's first tokens does not give the model's own logits."""
    ids = list(map(int, token_ids[:CHECK_TOKENS]))
    decoder, start = Decoder(model), len(ids) // 2
    (leaving,) = Branches(model, keep_run(model, ids[:start]), [Branch(start, tuple(ids[start:]))]).read()
    found = decoder.final_logits(leaving[-1:])[0].cpu()
    with attention_kernel(model, "eager"):
        own = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].float().cpu()
    deviation = float((found - own).square().mean().sqrt() / (own - own.mean()).square().mean().sqrt().clamp_min(1e-6))
    if not deviation <= TOLERANCES[model.dtype]:
        raise ModelError(
            f"{decoder.name}: runs of this architecture cannot be gone on from: logits come out {deviation:.2g} of "
            f"their spread away from the model's own, and {TOLERANCES[model.dtype]} is rounding"
        )

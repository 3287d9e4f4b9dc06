"""Answers generated greedily while heads are ablated, all of them from one unablated reading of the trace.

The prompt, the reasoning and </think> are read once and their keys and values kept. Every arm of a trace is a row
that goes on from them, so a row holds keys and values of its own answer only, and rows of any traces share each
forward pass. Ablation begins with the row of the first answer token: </think> is read unablated, as part of what
the arms share, so the token that follows it is the same in every arm.

Attention is computed in float32 from whole rows of scores. That gives the mass on the reasoning as well, and any
head's keys can be hidden.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn.functional import pad

from r2a.ablation.arms import Arm
from r2a.models import ModelError, stack_layers
from r2a.models.attention import Rule, attention_kernel, plain_attention
from r2a.models.decoder import Decoder
from r2a.roles import ABLATION_MODES, UNABLATED
from r2a.traces import Bounds

MODES = tuple(ABLATION_MODES)  # see arms.Arm
REPLACED = MODES[:3]  # in which a head's output is replaced
CUT_OFF_PROMPT = "cut_off_prompt"  # cut_off where the prompt is hidden
N_KEPT = 4  # answer tokens of a trace whose outputs are kept to be put into others
LEAST_MOVE = 1e-5  # of the centre of attention, in shares of the reasoning; less is rounding
# how far logits without ablation may be from the model's own: largest difference over the logits' standard deviation
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}


@dataclass
class Reading:
    """What rows go on from: a trace's first tokens, read unablated.

    prompt, reasoning: their tokens. keys, values: an entry a layer, float32 [kv_head, token, d_head] and [kv_head,
    token, d_value]. z: heads' outputs at the tokens from `kept_from` on, an entry a layer, float32 [token, head,
    d_value]. logits: [vocabulary], after the last token. What ablation puts in: mean [layer, head, d_value] and
    resampled [kept token, layer, head, d_value], of other traces, and moved_to, the tokens of a sentence of the
    reasoning.
    """

    n_tokens: int
    prompt: slice
    reasoning: slice
    kept_from: int
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    z: list[torch.Tensor] = field(default_factory=list)
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    mean: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    resampled: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    moved_to: slice = field(default_factory=lambda: slice(0, 0))

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        self.keys.append(key[0].float())
        self.values.append(value[0].float())
        z = plain_attention(rule, query, key, value)
        self.z.append(z[0, self.kept_from :].float())
        return z


@torch.no_grad()
def read(model: Any, token_ids: Sequence[int], bounds: Bounds, kept_from: int | None = None) -> Reading:
    """Read the first tokens of a trace."""
    decoder = Decoder(model)
    n_tokens = len(token_ids)
    reading = Reading(
        n_tokens, bounds.span("prompt"), bounds.span("reasoning"), n_tokens if kept_from is None else kept_from
    )
    ids = torch.tensor([list(token_ids)], device=model.device)
    reading.logits = decoder.logits(decoder.run(ids, reading)[0, -1:])[0].to(model.device)
    return reading


@dataclass(frozen=True)
class Outputs:
    """Every head's outputs on the answers of whole, unablated traces, float32.

    mean [trace, layer, head, d_value]: over each trace's answer tokens; kept [trace, kept token, layer, head, d_value]:
    at N_KEPT of them, evenly many between them. 0 beyond the width of a layer whose heads are narrower.
    """

    mean: torch.Tensor
    kept: torch.Tensor

    def of_others(self, trace: int, donor: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Their mean over all traces but one, each trace weighing the same, and what is kept of a donor."""
        return (self.mean.sum(0) - self.mean[trace]) / (len(self.mean) - 1), self.kept[donor]


def answer_outputs(model: Any, token_ids: Sequence[Sequence[int]], bounds: Sequence[Bounds]) -> Outputs:
    widest = max(Decoder(model).d_values)
    means, kept = [], []
    for ids, b in zip(token_ids, bounds, strict=True):
        z = stack_layers([pad(z, (0, widest - z.shape[-1])) for z in read(model, ids[: b.eos], b, b.answer).z])
        places = torch.linspace(0, z.shape[1] - 1, N_KEPT).round().long()
        means.append(z.mean(1))
        kept.append(z[:, places.to(z.device)].transpose(0, 1))
    return Outputs(torch.stack(means), torch.stack(kept))


class Rows:
    """Rows that decode token by token, each going on from a reading under an arm; a reading's rows stand together."""

    def __init__(self, model: Any, rows: Sequence[tuple[Reading, Arm]]) -> None:
        """Readings hold what arms of their modes put in."""
        self.model, self.decoder = model, Decoder(model)
        n_layers, n_heads = self.decoder.n_layers, self.decoder.n_heads
        self.readings = [reading for reading, _ in rows]
        self.positions = torch.tensor([reading.n_tokens for reading in self.readings], device=model.device)
        ways = (*MODES, CUT_OFF_PROMPT)
        ablated = {mode: torch.zeros(len(rows), n_layers, n_heads, dtype=torch.bool) for mode in ways}
        for row, (_, arm) in enumerate(rows):
            way = CUT_OFF_PROMPT if arm.mode == "cut_off" and arm.hides == "prompt" else arm.mode
            for layer, head in arm.heads:
                ablated[way][row, layer, head] = True
        self.ablated = {mode: mask.to(model.device) for mode, mask in ablated.items()}  # [row, layer, head]
        self.n_steps = 0
        self.is_ablated = {mode: mask.any((0, 2)).tolist() for mode, mask in ablated.items()}  # [layer]
        self.starts = torch.tensor([reading.n_tokens for reading in self.readings], device=model.device)
        self.keys: list[torch.Tensor] = []  # of the answers, an entry a layer: [row, kv_head, token, d_head]
        self.values: list[torch.Tensor] = []
        self.on_reasoning = torch.zeros(len(rows), device=model.device)
        self.left = torch.zeros(len(rows), 2, device=model.device)  # mass and first moment of the heads left alone

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to each row [row]; returns the logits that follow [row, vocabulary].

        Afterwards on_reasoning [row] is the token's attention on the reasoning, averaged over all heads of the model;
        where a head's output is replaced, it counts as 0. centre [row] is the mean position in the reasoning, from 0 to
        1, of the attention of those heads that are left alone; nan where they do not look there.
        """
        self.on_reasoning.zero_()
        self.left.zero_()
        hidden = self.decoder.run(tokens[:, None], self, position_ids=self.positions[:, None])
        self.on_reasoning /= self.decoder.n_layers * self.decoder.n_heads
        self.centre = self.left[:, 1] / self.left[:, 0]
        self.positions = self.positions + 1
        self.n_steps += 1
        return self.decoder.logits(hidden[:, 0]).to(tokens.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in their order."""
        self.readings = [self.readings[row] for row in rows]
        at = list(rows)
        self.positions, self.starts, self.on_reasoning = self.positions[at], self.starts[at], self.on_reasoning[at]
        self.left = self.left[at]
        self.ablated = {mode: mask[at] for mode, mask in self.ablated.items()}
        self.keys, self.values = ([layer[at] for layer in side] for side in (self.keys, self.values))

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        layer, key, value = rule.layer, key.float(), value.float()
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], 2)
            self.values[layer] = torch.cat([self.values[layer], value], 2)
        # heads that share keys stand together: [row, kv_head, sharing head, d_head]
        shape = (key.shape[1], query.shape[1] // key.shape[1])
        queries = query[:, :, 0].float().unflatten(1, shape) * rule.scaling
        own = rule.capped(queries @ self.keys[layer].transpose(2, 3))
        n_own = own.shape[-1]
        # the layer may be on another GPU than what is kept for all of them
        positions, starts = self.positions.to(query.device), self.starts.to(query.device)
        is_local = rule.window is not None or rule.chunk is not None
        if is_local:
            places = starts[:, None] + torch.arange(n_own, device=query.device)
            own = own.masked_fill(~rule.sees(positions[:, None], places)[:, None, None], -torch.inf)
        sinks = [] if rule.sinks is None else [rule.sinks.float().view(1, *shape, 1)]
        of_way = {
            way: mask[:, layer].to(query.device).unflatten(1, shape)[..., None]
            for way, mask in self.ablated.items()
            if self.is_ablated[way][layer]
        }
        z = queries.new_empty(*queries.shape[:-1], value.shape[-1])
        on_reasoning, moment = torch.empty_like(queries[..., 0]), torch.empty_like(queries[..., 0])
        for rows, reading in self._groups():
            scores = rule.capped(torch.einsum("rkgd,ktd->rkgt", queries[rows], reading.keys[layer]))
            if is_local:
                places = torch.arange(reading.n_tokens, device=query.device)
                scores.masked_fill_(~rule.sees(positions[rows, None], places)[:, None, None], -torch.inf)
            for way, hidden in (("cut_off", reading.reasoning), (CUT_OFF_PROMPT, reading.prompt)):
                if way in of_way:
                    scores[..., hidden].masked_fill_(of_way[way][rows], -torch.inf)
            ends = [sink.expand(*scores.shape[:-1], 1) for sink in sinks]
            weights = torch.cat([scores, own[rows], *ends], -1).softmax(-1)
            inside = weights[..., reading.reasoning]
            on_reasoning[rows] = inside.sum(-1)
            for way in ("moved", "sharpened"):
                if way in of_way:
                    inside.copy_(torch.where(of_way[way][rows], _edited(way, inside, reading), inside))
            moment[rows] = inside @ torch.linspace(0, 1, inside.shape[-1], device=inside.device)
            before, after = weights[..., : reading.n_tokens], weights[..., reading.n_tokens : reading.n_tokens + n_own]
            z[rows] = torch.einsum("rkgt,ktd->rkgd", before, reading.values[layer]) + after @ self.values[layer][rows]
        z, on_reasoning, moment = z.flatten(1, 2), on_reasoning.flatten(1, 2), moment.flatten(1, 2)
        is_touched = torch.zeros_like(on_reasoning, dtype=torch.bool)
        for of_heads in of_way.values():
            is_touched |= of_heads.flatten(1)
        left = torch.stack([on_reasoning, moment], -1).masked_fill(is_touched[..., None], 0).sum(1)
        for mode in REPLACED:
            if mode in of_way:
                mask = of_way[mode].flatten(1)
                z = torch.where(mask[..., None], self._put_in(mode, layer, z), z)
                on_reasoning = on_reasoning.masked_fill(mask, 0)
        self.on_reasoning += on_reasoning.sum(1).to(self.on_reasoning.device)
        self.left += left.to(self.left.device)
        return z[:, None].to(query.dtype)

    def _put_in(self, mode: str, layer: int, z: torch.Tensor) -> torch.Tensor:
        """What stands in place of heads' outputs [row, head, d_value] in a mode."""
        if mode == "zero":
            return torch.zeros_like(z)
        found = [
            reading.mean[layer] if mode == "mean" else reading.resampled[self.n_steps % N_KEPT, layer]
            for reading in self.readings
        ]
        return torch.stack(found)[..., : z.shape[-1]].to(z)

    def _groups(self) -> Iterator[tuple[slice, Reading]]:
        """The rows of each reading."""
        first = 0
        for _, group in groupby(self.readings, key=id):
            readings = list(group)
            yield slice(first, first + len(readings)), readings[0]
            first += len(readings)


def _edited(way: str, inside: torch.Tensor, reading: Reading) -> torch.Tensor:
    """Attention on the reasoning [.., token] as it is edited; its sum stays."""
    mass = inside.sum(-1, keepdim=True)
    if way == "sharpened":
        squared = inside**2
        return mass * squared / squared.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    moved = torch.zeros_like(inside)
    first = reading.moved_to.start - reading.reasoning.start
    n_tokens = reading.moved_to.stop - reading.moved_to.start
    moved[..., first : first + n_tokens] = mass / n_tokens
    return moved


@dataclass(frozen=True)
class Answer:
    """What a row generated, its EOS included where is_finished; a2r: its tokens' attention on the reasoning, with EOS
    left out, averaged over tokens and over all heads of the model, those whose output is replaced counting as 0.
    tracking: the rank correlation of the centre of the other heads' attention with the token's index (Rows.step), nan
    for fewer than three tokens or a centre that stands still.
    """

    token_ids: list[int]
    is_finished: bool
    a2r: float
    tracking: float


def generate(
    model: Any,
    rows: Sequence[tuple[Reading, Arm]],
    max_tokens: Sequence[int],
    eos: Collection[int],
) -> list[Answer]:
    """Greedy answers of rows, each up to an EOS or its own max_tokens. Rows that end leave the batch."""
    decoding = Rows(model, rows)
    answers: list[list[int]] = [[] for _ in rows]
    centres: list[list[float]] = [[] for _ in rows]
    on_reasoning = torch.zeros(len(rows), device=model.device)
    tokens = torch.stack([reading.logits.argmax() for reading, _ in rows])
    active = list(range(len(rows)))
    while True:
        for row, token in zip(active, tokens.tolist(), strict=True):
            answers[row].append(token)
        going_on = [
            k for k, row in enumerate(active) if answers[row][-1] not in eos and len(answers[row]) < max_tokens[row]
        ]
        if not going_on:
            break
        if len(going_on) < len(active):
            decoding.keep(going_on)
            active, tokens = [active[k] for k in going_on], tokens[going_on]
        tokens = decoding.step(tokens).argmax(-1)
        on_reasoning[active] += decoding.on_reasoning
        for row, centre in zip(active, decoding.centre.tolist(), strict=True):
            centres[row].append(centre)
    # the last token is not read any more
    n_read = [max(1, len(ids) - 1) for ids in answers]
    return [
        Answer(ids, ids[-1] in eos, mass / n, _tracking(centre))
        for ids, mass, n, centre in zip(answers, on_reasoning.tolist(), n_read, centres, strict=True)
    ]


def _tracking(centres: Sequence[float]) -> float:
    known = np.array(centres)
    if len(known) < 3 or np.isnan(known).any() or np.ptp(known) <= LEAST_MOVE:
        return np.nan
    return float(spearmanr(known, np.arange(len(known))).statistic)


@torch.no_grad()
def refuse_deviating(model: Any, token_ids: Sequence[int], bounds: Bounds) -> None:
    """Raise ModelError where decoding a trace's first answer token unablated does not give the model's own logits."""
    decoder = Decoder(model)
    if decoder.apart:
        raise ModelError(f"{decoder.name}: its heads cannot be ablated: {decoder.apart}")
    n_read = bounds.answer
    rows = Rows(model, [(read(model, token_ids[:n_read], bounds), Arm(UNABLATED, UNABLATED, 0, ()))])
    found = rows.step(torch.tensor([token_ids[n_read]], device=model.device))[0].float().cpu()
    ids = torch.tensor([list(token_ids[: n_read + 1])], device=model.device)
    with attention_kernel(model, "eager"):
        own = decoder.logits(decoder.body(input_ids=ids, use_cache=False).last_hidden_state[0, -1:])[0].float().cpu()
    deviation = float((found - own).abs().max() / own.std())
    if not deviation <= TOLERANCES[model.dtype]:
        raise ModelError(
            f"{decoder.name}: heads of this architecture cannot be ablated: without ablation logits come out "
            f"{deviation:.2g} standard deviations away from the model's own, and {TOLERANCES[model.dtype]} is rounding"
        )

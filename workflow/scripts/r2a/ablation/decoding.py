"""Answers generated greedily while heads are ablated, all from one unablated reading of the trace.

The prompt, the reasoning and </think> are read once, and their keys and values are kept. Every arm of a trace is a row
that continues from them, so a row holds only the keys and values of its own answer, and rows of any traces share each
forward pass. Ablation begins with the row of the first answer token: </think> is read unablated, as part of what the
arms share, so the token after it is the same in every arm.

Attention is computed in float32 from whole rows of scores. This gives the mass on the reasoning as well, and any head's
keys can be hidden.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn.functional import pad

from r2a.ablation.arms import Arm
from r2a.memory import if_it_fits
from r2a.models import ModelError, off_device, stack_layers
from r2a.models.attention import plain_attention
from r2a.models.decoder import Decoder
from r2a.models.kernels import Rule
from r2a.models.rounding import own_logits, refuse_beyond_rounding
from r2a.roles import ABLATION_MODES, UNABLATED
from r2a.traces import Bounds

MODES = tuple(ABLATION_MODES)  # see arms.Arm
REPLACED = MODES[:3]  # which replace a head's output
OF_OTHERS = MODES[1:3]  # of these, the ones that use other traces' outputs
NEVER = -1e30  # added to the score of a token that is not seen
CUT_OFF_PROMPT = "cut_off_prompt"  # cut_off with the prompt hidden
N_KEPT = 4  # number of a trace's answer tokens whose outputs are kept for other traces
CHECK_TOKENS = 256  # of a trace on which decoding is checked, against an attention that holds token x token values
LEAST_MOVE = 1e-5  # of the centre of attention, as a share of the reasoning; less is rounding


@dataclass
class Reading:
    """What rows continue from: the first tokens of a trace, read unablated.

    prompt, reasoning: the tokens of each. keys, values: one entry per layer, float32 [kv_head, token, d_head] and
    [kv_head, token, d_value]. z: heads' outputs at the tokens from `kept_from` on, one entry per layer, float32 [token,
    head, d_value]. logits: [vocabulary], after the last token. What ablation puts in: mean [layer, head, d_value] and
    resampled [kept token, layer, head, d_value], both from other traces, and moved_to, the tokens of one sentence of
    the reasoning.
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
    """Every head's outputs on the answer of a whole, unablated trace, float32; 0 beyond the width of a narrower layer.

    mean [layer, head, d_value]: over the answer's tokens. kept [kept token, layer, head, d_value]: at N_KEPT of them,
    evenly spaced.
    """

    mean: torch.Tensor
    kept: torch.Tensor


def _outputs_of(model: Any, token_ids: Sequence[int], bounds: Bounds) -> Outputs:
    widest = max(Decoder(model).d_values)
    whole = read(model, token_ids[: bounds.eos], bounds, bounds.answer)
    z = stack_layers([pad(z, (0, widest - z.shape[-1])) for z in whole.z])
    places = torch.linspace(0, z.shape[1] - 1, N_KEPT).round().long()
    return Outputs(z.mean(1), z[:, places.to(z.device)].transpose(0, 1))


def answer_outputs(model: Any, token_ids: Sequence[Sequence[int]], bounds: Sequence[Bounds]) -> dict[int, Outputs]:
    """The outputs of each trace by its number, without traces that do not fit into memory."""
    found = [if_it_fits(_outputs_of, model, *of_trace) for of_trace in zip(token_ids, bounds, strict=True)]
    return {number: outputs for number, outputs in enumerate(found) if outputs is not None}


def of_others(outputs: Mapping[int, Outputs], trace: int, donor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over all traces except one, with equal weights, and what is kept of a donor."""
    means = [found.mean for number, found in outputs.items() if number != trace]
    return torch.stack(means).mean(0), outputs[donor].kept


class Rows:
    """Rows that decode token by token, each continuing from a reading under an arm; rows of one reading are adjacent.

    Internally they are laid out as [trace, slot], where a trace is one reading. If a reading has fewer rows than
    another, its free slots hold copies of its first row, which are computed and discarded. So a layer takes the same
    few operators however many rows and traces there are, and a GPU need not wait for its host.
    """

    def __init__(self, model: Any, rows: Sequence[tuple[Reading, Arm]]) -> None:
        """The readings hold what the modes of their arms put in."""
        self.model, self.decoder = model, Decoder(model)
        self.readings = [reading for reading, _ in rows]
        shape = len(rows), self.decoder.n_layers, self.decoder.n_heads
        self.ablated = {way: np.zeros(shape, bool) for way in (*MODES, CUT_OFF_PROMPT)}  # [row, layer, head]
        for row, (_, arm) in enumerate(rows):
            way = CUT_OFF_PROMPT if arm.mode == "cut_off" and arm.hides == "prompt" else arm.mode
            for layer, head in arm.heads:
                self.ablated[way][row, layer, head] = True
        self.n_steps = 0
        self.traces: list[Reading] = []
        self.keys: list[torch.Tensor] = []  # of the answers, one per layer: [trace * slot, kv_head, token, d_head]
        self.values: list[torch.Tensor] = []
        self._lay_out()

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to each row [row]; return the logits that follow, [row, vocabulary].

        Afterwards, on_reasoning [row] is the token's attention to the reasoning, averaged over all heads of the model;
        a head whose output is replaced counts as 0. centre [row] is the mean position in the reasoning, from 0 to 1, to
        which the heads that are left alone attend; nan if they do not attend to the reasoning.
        """
        self.looked: list[torch.Tensor] = []  # for each layer, mass on the reasoning and its first moment
        positions = self.n_read + self.n_steps
        hidden = self.decoder.run(tokens[self.slots][:, None], self, position_ids=positions[:, None])
        looked = stack_layers(self.looked).to(tokens.device)  # [layer, trace, head, slot, 2]
        mass = (looked[..., 0] * self.is_counted).sum((0, 2)).flatten()[self.places]
        self.on_reasoning = mass / (self.decoder.n_layers * self.decoder.n_heads)
        left, moment = (looked * self.is_left[..., None]).sum((0, 2)).flatten(0, 1)[self.places].unbind(-1)
        self.centre = moment / left
        self.n_steps += 1
        return self.decoder.logits(hidden[self.places.to(hidden.device), 0]).to(tokens.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some of the rows, in the given order."""
        before = self.places[torch.tensor(rows, device=self.places.device)]
        self.readings = [self.readings[row] for row in rows]
        self.ablated = {way: mask[list(rows)] for way, mask in self.ablated.items()}
        self._lay_out()
        at = before[self.slots]
        self.keys, self.values = ([layer[at.to(layer.device)] for layer in side] for side in (self.keys, self.values))

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        layer, device, key, value = rule.layer, query.device, key.float(), value.float()
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], 2)
            self.values[layer] = torch.cat([self.values[layer], value], 2)
        own_keys, own_values = self.keys[layer].flatten(0, 1), self.values[layer].flatten(0, 1)
        read_keys, read_values = self.read_keys[layer].flatten(0, 1), self.read_values[layer].flatten(0, 1)
        hides, columns, reasoning, moved_to = self._of_traces(device)
        n_traces, n_read, n_own = len(self.traces), read_keys.shape[1], own_keys.shape[1]
        n_slots, n_heads, n_key_heads = len(query) // n_traces, query.shape[1], key.shape[1]
        shape = n_traces, n_key_heads, n_heads // n_key_heads, n_slots
        ways = {way: mask[:, layer].to(device) for way, mask in self.of_heads.items() if way in self.ways[layer]}

        # what was read: heads that share keys, and a trace's slots, are joined as queries of one head
        queries = query[:, :, 0].unflatten(0, (n_traces, n_slots)).transpose(1, 2)
        queries = queries.float().contiguous().view(*shape, -1)
        stacked = queries.view(n_traces * n_key_heads, -1, queries.shape[-1])
        flags = self.flags[:, layer].to(device).flatten(1, 2)
        bias = torch.bmm(flags, hides).view(*stacked.shape[:2], n_read)
        if rule.softcap is None:
            scores = torch.baddbmm(bias, stacked, read_keys.transpose(1, 2), alpha=rule.scaling)
        else:
            scores = rule.capped(torch.bmm(stacked, read_keys.transpose(1, 2)) * rule.scaling) + bias
        # what was written: each slot has its own
        by_slot = queries.permute(0, 3, 1, 2, 4).reshape(len(own_keys), -1, queries.shape[-1])
        own = torch.baddbmm(self.nothing.to(device), by_slot, own_keys.transpose(1, 2), alpha=rule.scaling)
        own = rule.capped(own).view(n_traces, n_slots, *shape[1:3], n_own).permute(0, 2, 3, 1, 4)
        if rule.window is not None or rule.chunk is not None:
            start = self.n_read.to(device).view(n_traces, 1, 1, n_slots, 1)
            scores = scores.view(*shape, n_read)
            scores.masked_fill_(~rule.sees(start + self.n_steps, torch.arange(n_read, device=device)), -torch.inf)
            own = own.masked_fill(
                ~rule.sees(start + self.n_steps, start + torch.arange(n_own, device=device)), -torch.inf
            )
        ends = [] if rule.sinks is None else [rule.sinks.float().view(1, *shape[1:3], 1, 1).expand(*shape, 1)]
        weights = torch.cat([scores.view(*shape, n_read), own, *ends], -1).softmax(-1)

        before = weights.view(n_traces, -1, weights.shape[-1])[..., :n_read]  # [trace, head * slot, token read]
        for way in ("moved", "sharpened"):
            if way in ways:
                edited = _edited(way, before * reasoning, moved_to)
                before.copy_(torch.where(ways[way].flatten(1)[..., None] & reasoning, edited, before))
        self.looked.append(torch.bmm(before, columns).view(n_traces, n_heads, n_slots, 2))
        of_read = torch.bmm(before.view(*stacked.shape[:2], -1), read_values)
        after = weights[..., n_read : n_read + n_own].permute(0, 3, 1, 2, 4).reshape(len(own_keys), -1, n_own)
        of_own = torch.bmm(after, own_values).view(n_traces, n_slots, *shape[1:3], -1)
        z = (of_own + of_read.view(*shape, -1).permute(0, 3, 1, 2, 4)).flatten(2, 3)  # [trace, slot, head, d_value]
        if any(mode in ways for mode in REPLACED):
            z = torch.where(self.is_replaced[:, layer].to(device), self._put_in(layer, z), z)
        return z.flatten(0, 1)[:, None].to(query.dtype)

    def _put_in(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """The values that replace heads' outputs [trace, slot, head, d_value]."""
        if self.others is None:
            return torch.zeros((), device=z.device)
        others = self.others[:, self.n_steps % N_KEPT, layer].to(z.device)[..., : z.shape[-1]]
        chosen = self.of_others[:, layer].to(z.device)
        return torch.bmm(chosen.flatten(0, 1), others.flatten(0, 1)).view(*chosen.shape[:3], -1).transpose(1, 2)

    def _lay_out(self) -> None:
        """Arrange the rows in slots, and make the masks of what is ablated."""
        device = self.model.device
        members = [list(rows) for _, rows in groupby(range(len(self.readings)), key=lambda row: id(self.readings[row]))]
        n_slots = max(map(len, members))
        slots = [row for rows in members for row in rows + rows[:1] * (n_slots - len(rows))]
        places = [trace * n_slots + k for trace, rows in enumerate(members) for k in range(len(rows))]
        self.slots, self.places = torch.tensor(slots, device=device), torch.tensor(places, device=device)
        self._join([self.readings[rows[0]] for rows in members])
        self.n_read = torch.tensor([self.readings[row].n_tokens for row in slots], device=device)
        self.ways = [
            {way for way, mask in self.ablated.items() if mask[:, layer].any()}
            for layer in range(self.decoder.n_layers)
        ]

        def laid_out(mask: np.ndarray, *axes: int) -> torch.Tensor:
            """[row, layer, head] as axes of [trace, slot, layer, head]."""
            of_slots = mask[slots].reshape(len(members), n_slots, *mask.shape[1:])
            return torch.tensor(np.ascontiguousarray(of_slots.transpose(axes)), device=device)

        replaced = np.logical_or.reduce([self.ablated[mode] for mode in REPLACED])
        touched = np.logical_or.reduce(list(self.ablated.values()))
        by_head = 0, 2, 3, 1  # [trace, layer, head, slot]
        self.of_heads = {way: laid_out(mask, *by_head) for way, mask in self.ablated.items() if mask.any()}
        hiding = [np.ones_like(touched), self.ablated["cut_off"], self.ablated[CUT_OFF_PROMPT]]
        self.flags = torch.stack([laid_out(mask, *by_head) for mask in hiding], -1).float()
        self.of_others = torch.stack([laid_out(self.ablated[mode], *by_head) for mode in OF_OTHERS], -1).float()
        self.is_replaced = laid_out(replaced, 0, 2, 1, 3)[..., None]  # [trace, layer, slot, head, 1]
        attending = self.decoder.attending
        self.is_counted, self.is_left = (
            ~laid_out(mask[:, attending], 2, 0, 3, 1) for mask in (replaced, touched)
        )  # [layer, trace, head, slot]

    def _join(self, traces: list[Reading]) -> None:
        """Join the readings' keys and values, an entry per layer [trace, kv_head, token, ..], padded to the longest."""
        if list(map(id, traces)) == list(map(id, self.traces)):
            return
        self.traces, device = traces, self.model.device
        self.nothing = torch.zeros((), device=device)
        self.read_keys: list[torch.Tensor] = []
        self.read_values: list[torch.Tensor] = []
        for joined, name in ((self.read_keys, "keys"), (self.read_values, "values")):
            for layer in range(len(traces[0].keys)):
                sides = [getattr(reading, name) for reading in traces]
                n_most = max(side[layer].shape[1] for side in sides)
                if len(sides) == 1:
                    joined.append(sides[0][layer][None])
                    continue
                joined.append(
                    torch.stack([pad(side[layer], (0, 0, 0, n_most - side[layer].shape[1])) for side in sides])
                )
                for side, whole in zip(sides, joined[-1], strict=True):  # once in memory, not twice
                    side[layer] = whole[:, : side[layer].shape[1]]
        self.others = None
        if all(len(reading.resampled) for reading in traces):
            self.others = torch.stack(
                [torch.stack([r.mean.expand_as(r.resampled), r.resampled], -2) for r in traces]
            ).to(device)  # [trace, kept token, layer, head, mean or resampled, d_value]
        self.by_device: dict[torch.device, tuple[torch.Tensor, ...]] = {}

    def _of_traces(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """What is known about each trace's tokens, on a device.

        In order: what is added to a token's score if a flag asks for it, because it is padding, in the reasoning, or in
        the prompt [trace, 3, token]; whether it is in the reasoning, and its position there from 0 to 1 [trace, token,
        2]; whether it is in the reasoning, as a bool [trace, 1, token]; and its share of attention that is moved
        [trace, 1, token].
        """
        if device not in self.by_device:
            n_most = self.read_keys[0].shape[2]
            hides = torch.zeros(len(self.traces), 3, n_most)
            columns, moved_to = torch.zeros(len(self.traces), n_most, 2), torch.zeros(len(self.traces), 1, n_most)
            for trace, reading in enumerate(self.traces):
                n_inside = reading.reasoning.stop - reading.reasoning.start
                hides[trace, 0, reading.n_tokens :] = NEVER
                hides[trace, 1, reading.reasoning] = NEVER
                hides[trace, 2, reading.prompt] = NEVER
                columns[trace, reading.reasoning, 0] = 1
                columns[trace, reading.reasoning, 1] = torch.linspace(0, 1, n_inside)
                moved_to[trace, 0, reading.moved_to] = 1 / max(1, reading.moved_to.stop - reading.moved_to.start)
            reasoning = columns[:, None, :, 0] > 0
            self.by_device[device] = tuple(made.to(device) for made in (hides, columns, reasoning, moved_to))
        return self.by_device[device]


def _edited(way: str, inside: torch.Tensor, moved_to: torch.Tensor) -> torch.Tensor:
    """Attention to the reasoning [trace, head * slot, token], 0 elsewhere, after the edit; its sum does not change."""
    mass = inside.sum(-1, keepdim=True)
    if way == "moved":
        return mass * moved_to
    squared = inside**2
    return mass * squared / squared.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Answer:
    """What a row generated.

    token_ids include EOS if is_finished. a2r: its tokens' attention to the reasoning, excluding EOS, averaged over
    tokens and over all heads of the model; heads whose output is replaced count as 0. tracking: the rank correlation of
    the token's index with the centre of the other heads' attention (Rows.step); nan for fewer than three tokens, or if
    the centre does not move.
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
    """Greedy answers of rows, each up to EOS or its own max_tokens. Finished rows leave the batch."""
    decoding = Rows(model, rows)
    answers: list[list[int]] = [[] for _ in rows]
    centres: list[list[float]] = [[] for _ in rows]
    on_reasoning = np.zeros(len(rows))
    tokens = torch.stack([reading.logits.argmax() for reading, _ in rows])
    chosen, active = tokens.tolist(), list(range(len(rows)))
    while True:
        for row, token in zip(active, chosen, strict=True):
            answers[row].append(token)
        going_on = [
            k for k, row in enumerate(active) if answers[row][-1] not in eos and len(answers[row]) < max_tokens[row]
        ]
        if not going_on:
            break
        if len(going_on) < len(active):
            decoding.keep(going_on)
            active, tokens = [active[k] for k in going_on], tokens[torch.tensor(going_on, device=tokens.device)]
        tokens = decoding.step(tokens).argmax(-1)
        ids, mass, centre = off_device([tokens, decoding.on_reasoning, decoding.centre])
        chosen = ids.tolist()
        on_reasoning[active] += mass.numpy()
        for row, place in zip(active, centre.tolist(), strict=True):
            centres[row].append(place)
    # the last token is not read
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
def refuse_inexact_ablation(model: Any, token_ids: Sequence[int]) -> None:
    """Raise ModelError if decoding one of a trace's first tokens unablated does not give the model's own logits."""
    decoder = Decoder(model)
    if decoder.apart:
        raise ModelError(f"{decoder.name}: its heads cannot be ablated: {decoder.apart}")
    *read_ids, last = token_ids[:CHECK_TOKENS]
    n_read = len(read_ids)
    bounds = Bounds(0, 0, 0, 0, n_read, n_read, n_read, n_read)
    rows = Rows(model, [(read(model, read_ids, bounds), Arm(UNABLATED, UNABLATED, 0, ()))])
    found = rows.step(torch.tensor([last], device=model.device))[0].float().cpu()
    ids = [*read_ids, last]
    what = "heads of this architecture cannot be ablated, for without ablation"
    refuse_beyond_rounding(model, ids, found, own_logits(model, ids), what)

"""Answers generated greedily while heads are ablated, all of them from one unablated reading of the trace.

The prompt, the reasoning and </think> are read once and their keys and values kept. Every arm of a trace is a row
that goes on from them, so a row holds keys and values of its own answer only, and rows of any traces share each
forward pass. Ablation begins with the row of the first answer token: </think> is read unablated, as part of what
the arms share, so the token that follows it is the same in every arm.

Attention is computed in float32 from whole rows of scores. That gives the mass on the reasoning as well, and any
head's keys can be hidden. Works on decoders whose attention is a causal softmax scaled by a constant.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from r2a.ablation.arms import Arm
from r2a.models import ModelError, stack_layers
from r2a.roles import UNABLATED
from r2a.traces import Bounds

MODES = ("zero", "mean", "cut_off")  # see arms.Arm
ABLATED = "r2a_ablated"  # the name by which transformers knows ablated_attention
# how far logits without ablation may be from the model's own: largest difference over the logits' standard deviation
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}


class Pass(Protocol):
    """A forward pass under way: it computes each layer's attention output [row, token, head, d_head]."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor: ...


def ablated_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    forward_pass: Pass,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """A layer's attention as transformers asks for it; pass `forward_pass` to the model's forward."""
    return forward_pass.attend(module.layer_idx, query, key, value, scaling), None


def no_mask(**_: Any) -> None:
    """The pass knows who sees whom. Without a function of this name transformers would drop masks silently."""


AttentionInterface.register(ABLATED, ablated_attention)
AttentionMaskInterface.register(ABLATED, no_mask)


@dataclass
class Reading:
    """What rows go on from: a trace's first tokens, read unablated.

    reasoning: its tokens. keys, values: an entry a layer, float32 [kv_head, token, d_head]. z: heads' outputs at the
    tokens from `kept_from` on, an entry a layer, float32 [token, head, d_head]. logits: [vocabulary], after the last
    token.
    """

    n_tokens: int
    reasoning: slice
    kept_from: int
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    z: list[torch.Tensor] = field(default_factory=list)
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        self.keys.append(key[0].float())
        self.values.append(value[0].float())
        sharing = query.shape[1] // key.shape[1]
        key, value = (side.repeat_interleave(sharing, 1) for side in (key, value))
        z = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling).transpose(1, 2)
        self.z.append(z[0, self.kept_from :].float())
        return z


@torch.no_grad()
def read(model: Any, token_ids: Sequence[int], bounds: Bounds, kept_from: int | None = None) -> Reading:
    """Read the first tokens of a trace. `model` must have been loaded with ABLATED as its attention."""
    n_tokens = len(token_ids)
    reading = Reading(n_tokens, bounds.span("reasoning"), n_tokens if kept_from is None else kept_from)
    ids = torch.tensor([list(token_ids)], device=model.device)
    hidden = model.model(input_ids=ids, use_cache=False, forward_pass=reading).last_hidden_state
    reading.logits = model.lm_head(hidden[0, -1]).to(model.device)
    return reading


def mean_output(model: Any, token_ids: Sequence[Sequence[int]], bounds: Sequence[Bounds]) -> torch.Tensor:
    """Every head's mean output over the answer tokens of whole, unablated traces, float32 [layer, head, d_head]."""
    sums = [
        stack_layers(read(model, ids[: b.eos], b, kept_from=b.answer).z).sum(1)
        for ids, b in zip(token_ids, bounds, strict=True)
    ]
    return torch.stack(sums).sum(0) / sum(b.eos - b.answer for b in bounds)


class Rows:
    """Rows that decode token by token, each going on from a reading under an arm; a reading's rows stand together."""

    def __init__(self, model: Any, rows: Sequence[tuple[Reading, Arm]], mean: torch.Tensor | None) -> None:
        """mean: mean_output, where an arm of mode mean is among the rows."""
        n_layers, n_heads = model.config.num_hidden_layers, model.config.num_attention_heads
        self.model = model
        self.readings = [reading for reading, _ in rows]
        self.positions = torch.tensor([reading.n_tokens for reading in self.readings], device=model.device)
        ablated = {mode: torch.zeros(len(rows), n_layers, n_heads, dtype=torch.bool) for mode in MODES}
        for row, (_, arm) in enumerate(rows):
            for layer, head in arm.heads:
                ablated[arm.mode][row, layer, head] = True
        self.ablated = {mode: mask.to(model.device) for mode, mask in ablated.items()}  # [row, layer, head]
        self.mean = mean
        self.keys: list[torch.Tensor] = []  # of the answers, an entry a layer: [row, kv_head, token, d_head]
        self.values: list[torch.Tensor] = []
        self.on_reasoning = torch.zeros(len(rows), device=model.device)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to each row [row]; returns the logits that follow [row, vocabulary].

        Afterwards on_reasoning [row] is the token's attention on the reasoning, averaged over all heads of the model;
        where a head's output is replaced, it counts as 0.
        """
        self.on_reasoning.zero_()
        hidden = self.model.model(
            input_ids=tokens[:, None], position_ids=self.positions[:, None], use_cache=False, forward_pass=self
        ).last_hidden_state
        self.on_reasoning /= self.model.config.num_hidden_layers * self.model.config.num_attention_heads
        self.positions = self.positions + 1
        return self.model.lm_head(hidden[:, 0])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in their order."""
        self.readings = [self.readings[row] for row in rows]
        at = list(rows)
        self.positions, self.on_reasoning = self.positions[at], self.on_reasoning[at]
        self.ablated = {mode: mask[at] for mode, mask in self.ablated.items()}
        self.keys, self.values = ([layer[at] for layer in side] for side in (self.keys, self.values))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        key, value = key.float(), value.float()
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], 2)
            self.values[layer] = torch.cat([self.values[layer], value], 2)
        # heads that share keys stand together: [row, kv_head, sharing head, d_head]
        shape = (key.shape[1], query.shape[1] // key.shape[1])
        queries = query[:, :, 0].float().unflatten(1, shape) * scaling
        # the layer may be on another GPU than what is kept for all of them
        ablated = {mode: mask[:, layer].to(query.device) for mode, mask in self.ablated.items()}
        is_cut = ablated["cut_off"].unflatten(1, shape)
        own = queries @ self.keys[layer].transpose(2, 3)
        z, on_reasoning = torch.empty_like(queries), torch.empty_like(queries[..., 0])
        for rows, reading in self._groups():
            scores = torch.einsum("rkgd,ktd->rkgt", queries[rows], reading.keys[layer])
            scores[..., reading.reasoning].masked_fill_(is_cut[rows, ..., None], -torch.inf)
            weights = torch.cat([scores, own[rows]], -1).softmax(-1)
            on_reasoning[rows] = weights[..., reading.reasoning].sum(-1)
            before, after = weights.split([reading.n_tokens, own.shape[-1]], -1)
            z[rows] = torch.einsum("rkgt,ktd->rkgd", before, reading.values[layer]) + after @ self.values[layer][rows]
        z, on_reasoning = z.flatten(1, 2), on_reasoning.flatten(1, 2)
        is_zero, is_mean = ablated["zero"], ablated["mean"]
        z.masked_fill_(is_zero[..., None], 0)
        if self.mean is not None:
            z = torch.where(is_mean[..., None], self.mean[layer].to(z.device), z)
        self.on_reasoning += on_reasoning.masked_fill_(is_zero | is_mean, 0).sum(1).to(self.on_reasoning.device)
        return z[:, None].to(query.dtype)

    def _groups(self) -> Iterator[tuple[slice, Reading]]:
        """The rows of each reading."""
        first = 0
        for _, group in groupby(self.readings, key=id):
            readings = list(group)
            yield slice(first, first + len(readings)), readings[0]
            first += len(readings)


@dataclass(frozen=True)
class Answer:
    """What a row generated, its EOS included where is_finished; a2r: its tokens' attention on the reasoning, with EOS
    left out, averaged over tokens and over all heads of the model, ablated heads counting as 0.
    """

    token_ids: list[int]
    is_finished: bool
    a2r: float


def generate(
    model: Any,
    rows: Sequence[tuple[Reading, Arm]],
    max_tokens: Sequence[int],
    mean: torch.Tensor | None,
    eos: Collection[int],
) -> list[Answer]:
    """Greedy answers of rows, each up to an EOS or its own max_tokens. Rows that end leave the batch."""
    decoding = Rows(model, rows, mean)
    answers: list[list[int]] = [[] for _ in rows]
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
    # the last token is not read any more
    n_read = [max(1, len(ids) - 1) for ids in answers]
    return [
        Answer(ids, ids[-1] in eos, mass / n)
        for ids, mass, n in zip(answers, on_reasoning.tolist(), n_read, strict=True)
    ]


@torch.no_grad()
def refuse_deviating(model: Any, token_ids: Sequence[int], bounds: Bounds) -> None:
    """Raise ModelError where decoding a trace's first answer token unablated does not give the model's own logits."""
    n_read = bounds.answer
    rows = Rows(model, [(read(model, token_ids[:n_read], bounds), Arm(UNABLATED, UNABLATED, 0, ()))], None)
    found = rows.step(torch.tensor([token_ids[n_read]], device=model.device))[0].float().cpu()
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([list(token_ids[: n_read + 1])], device=model.device)
    own = model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().cpu()
    model.set_attn_implementation(ABLATED)
    deviation = float((found - own).abs().max() / own.std())
    if not deviation <= TOLERANCES[model.dtype]:
        raise ModelError(
            f"{type(model).__name__}: heads of this architecture cannot be ablated: without ablation logits come out "
            f"{deviation:.2g} standard deviations away from the model's own, and {TOLERANCES[model.dtype]} is rounding"
        )

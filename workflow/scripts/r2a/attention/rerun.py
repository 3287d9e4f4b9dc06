"""The rerun of traces through the fused kernel, several per forward pass; logits are computed only on request."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch

from r2a.attention.fused import FusedPass, LayerAttention, Span
from r2a.attention.reference import rerun_eager
from r2a.attention.segments import TraceAttention, query_rows, segment_mass
from r2a.memory import by_tokens, in_batches
from r2a.models import off_device, stack_layers, wait_for_copies
from r2a.models.attention import AttentionError, attention_kernel
from r2a.models.decoder import Decoder
from r2a.progress import logger
from r2a.traces import SEGMENTS, Bounds

N_BINS = 8  # parts of the reasoning in which positions are summed; see _position_columns
LOGIT_ELEMENTS = 2**25  # logits held at once
CHECK_TOKENS = 256
REASONING = SEGMENTS.index("reasoning")
# how far masses may be from 1, and fused from eager attention; in 16 bits the activations of the two drift apart
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}


class Sums(NamedTuple):
    """What is kept of one trace in one layer: sums over its rows, from which `kept` makes what TraceAttention holds.

    before [head, token before the reasoning]: attention of reasoning tokens; whole [head]: their attention to all keys,
    below 1 in layers with sinks; answer [head, token]: that of answer tokens; moments [head, answer token, 3 * N_BINS]:
    see _position_columns; squares [head, 2, answer token]: squared norms of what heads write, from the reasoning's
    values and from all values; written [answer token]: the norm of what they write together.
    """

    before: torch.Tensor
    whole: torch.Tensor
    answer: torch.Tensor
    moments: torch.Tensor
    squares: torch.Tensor
    written: torch.Tensor


class SegmentRecorder:
    """Keeps what segments.TraceAttention holds, for every trace in a batch.

    Layers keep only sums; what is made from them is computed for all layers at once, because a GPU waits for its host
    at every operator.
    """

    def __init__(self, spans: Sequence[Span], bounds: Sequence[Bounds], decoder: Decoder) -> None:
        self.spans, self.bounds, self.decoder = spans, bounds, decoder
        self.weights: dict[int, tuple[torch.Tensor, torch.Tensor] | None] = {}  # of the current layer
        self.rows = [query_rows(trace_bounds) for trace_bounds in bounds]
        self.columns: dict[int, torch.Tensor] = {}  # of each trace, on the current layer's device
        self.layers: list[dict[int, Sums]] = [{} for _ in spans]

    def record(self, layer: int, trace: int, attention: LayerAttention) -> None:
        bounds, device, reasoning = self.bounds[trace], attention.query.device, self.bounds[trace].span("reasoning")
        n_heads, n_sharing = len(attention.query), len(attention.query) // len(attention.key)

        # Reasoning tokens see nothing but the reasoning and what precedes it, so the rest is on the reasoning.
        rows = self.rows[trace]["reasoning"]
        before = reduce(add, (block.sum(1) for _, block in attention.blocks(rows, bounds.reasoning)))
        whole = torch.ones(n_heads, device=device)
        if attention.on_keys is not None:
            whole = attention.on_keys[:, rows.start : rows.stop].mean(-1)

        rows = self.rows[trace]["answer"]
        if trace not in self.columns or self.columns[trace].device != device:
            self.columns[trace] = _position_columns(bounds.think_close - bounds.reasoning, device)
        columns = self.columns[trace].expand(len(attention.key), -1, -1)
        # columns and values side by side, so that one product reads each block once
        columns = torch.cat([columns, attention.value[:, reasoning].float()], -1)
        answer = torch.zeros(n_heads, bounds.end, device=device)
        sums = torch.empty(n_heads, len(rows), columns.shape[-1], device=device)
        for heads, group in attention.groups(len(rows) * bounds.end):
            of_keys = columns[heads.start // n_sharing : heads.stop // n_sharing]
            for some, block in group.blocks(rows):
                answer[heads, : block.shape[-1]] += block.sum(1)
                inside = block.view(len(group.key), -1, block.shape[-1])[..., reasoning]
                first = some[0] - rows.start
                sums[heads, first : first + len(some)] = torch.bmm(inside, of_keys).view(len(block), len(some), -1)
        moments, from_reasoning = sums.split([3 * N_BINS, attention.value.shape[-1]], -1)
        z = attention.z[:, rows.start : rows.stop]
        squares, written = self._norms(layer, torch.cat([from_reasoning, z], 1))
        self.layers[trace][layer] = Sums(before, whole, answer, moments.clone(), squares, written)

    def _norms(self, layer: int, parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums.squares and Sums.written, from z of the reasoning followed by all of z: [head, 2 * row, d_value]."""
        n_heads, n_rows = parts.shape[0], parts.shape[1] // 2
        if layer not in self.weights:
            weights = self.decoder.output_weights(layer)
            # norms of what is written, |z W|^2 = z (W W^T) z, without writing [head, row, d_model]
            self.weights = {layer: None if weights is None else (weights, weights @ weights.transpose(1, 2))}
        found = self.weights[layer]
        if found is None:
            squares = parts.new_full((n_heads, 2, n_rows), torch.nan)
            return squares, squares[0, 0]
        weights, products = found
        squares = ((parts @ products) * parts).sum(-1).view(n_heads, 2, n_rows)
        z = parts[:, n_rows:].transpose(0, 1).flatten(1)
        return squares, (z @ weights.flatten(0, 1)).norm(dim=-1)

    def kept(self, n_layers: int) -> list[TraceAttention]:
        """What was kept of each trace, after the forward pass; nan in layers without attention."""
        found = [self._of_all_layers(trace) for trace in range(len(self.spans))]
        copies = iter(off_device([tensor for tensors in found for tensor in tensors]))
        return [
            TraceAttention(*(_with_nan(next(copies), self.layers[trace], n_layers) for _ in tensors))
            for trace, tensors in enumerate(found)
        ]

    def _of_all_layers(self, trace: int) -> list[torch.Tensor]:
        """A trace's tensors [layer, ...] in the order of TraceAttention."""
        bounds, layers = self.bounds[trace], list(self.layers[trace].values())
        before, answer, moments, squares, written = (
            stack_layers([getattr(sums, name) for sums in layers])
            for name in ("before", "answer", "moments", "squares", "written")
        )
        whole = stack_layers([sums.whole for sums in layers])
        before /= len(self.rows[trace]["reasoning"])
        reasoning_mass = before.new_zeros(*before.shape[:2], len(SEGMENTS))
        for k, segment in enumerate(SEGMENTS[:REASONING]):
            reasoning_mass[..., k] = before[..., bounds.span(segment)].sum(-1)
        reasoning_mass[..., REASONING] = whole - before.sum(-1)
        shares = (squares.clamp(min=0).sqrt() / written[:, None, None]).mean(-1)
        answer /= len(self.rows[trace]["answer"])
        return [reasoning_mass, answer, *_centre_and_spread(moments), *shares.unbind(-1)]


def _with_nan(found: torch.Tensor, layers: Collection[int], n_layers: int) -> np.ndarray:
    """What was found for some layers [layer, ...], as float32 for all layers; nan in the others."""
    whole = np.full((n_layers, *found.shape[1:]), np.nan, np.float32)
    whole[list(layers)] = found.numpy()
    return whole


def in_every_layer(found: Mapping[int, torch.Tensor], n_layers: int) -> np.ndarray:
    """The arrays of layers with attention as one array [layer, ...], nan in the others."""
    return _with_nan(stack_layers(list(found.values())).cpu(), found, n_layers)


def _position_columns(n_tokens: int, device: torch.device) -> torch.Tensor:
    """Columns [token, 3 * N_BINS] that sum mass, position and squared position.

    Positions run from 0 to 1 and are counted from the middle of their bin. If moments were taken about one point for
    all, a head that attends to a single token would lose the digits of its variance in float32.
    """
    position = torch.linspace(0, 1, n_tokens, device=device)
    bins = (position * N_BINS).long().clamp(max=N_BINS - 1)
    offset = position - _middles(device)[bins]
    is_in = torch.nn.functional.one_hot(bins, N_BINS).float()
    return torch.cat([is_in * (offset**power)[:, None] for power in range(3)], dim=1)


def _middles(device: torch.device) -> torch.Tensor:
    """The bins' middles [N_BINS]."""
    return (torch.arange(N_BINS, device=device) + 0.5) / N_BINS


def _centre_and_spread(moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention-weighted mean and standard deviation of the position, from sums over _position_columns [.., row]."""
    middles = _middles(moments.device)
    mass, first, second = moments.unflatten(-1, (3, N_BINS)).unbind(-2)
    total = mass.sum(-1)
    centre = (first + middles * mass).sum(-1) / total
    shift = middles - centre[..., None]
    variance = (second + 2 * shift * first + shift**2 * mass).sum(-1) / total
    return centre, variance.clamp(min=0).sqrt()


@torch.no_grad()
def rerun_batch(
    model: Any, token_ids: Sequence[Sequence[int]], bounds: Sequence[Bounds]
) -> list[tuple[TraceAttention, torch.Tensor]]:
    """What is kept of each trace's attention, and its last hidden states [token, d_model].

    The traces are concatenated in one row, each with its own positions and visible only to itself; there is no padding.
    Raises AttentionError if several traces are given for a model whose traces cannot share a pass (Decoder.apart).
    """
    decoder = Decoder(model)
    if decoder.apart and len(token_ids) > 1:
        raise AttentionError(f"{decoder.name}: its traces cannot share a forward pass: {decoder.apart}")
    ends = np.cumsum([len(ids) for ids in token_ids]).tolist()
    spans = [Span(0, end - len(ids), end) for ids, end in zip(token_ids, ends, strict=True)]
    recorder = SegmentRecorder(spans, bounds, decoder)
    packed = torch.tensor([token for ids in token_ids for token in ids], device=model.device)
    positions = torch.cat([torch.arange(len(ids), device=model.device) for ids in token_ids])
    hidden = decoder.run(packed[None], FusedPass(recorder), position_ids=positions[None])[0]
    return list(zip(recorder.kept(decoder.n_layers), hidden.split([len(ids) for ids in token_ids]), strict=True))


def rerun_traces(
    model: Any, token_ids: Sequence[Sequence[int]], bounds: Sequence[Bounds], batch_tokens: int
) -> Iterator[tuple[TraceAttention, torch.Tensor] | None]:
    """rerun_batch over traces in order, with as many per forward pass as fit into batch_tokens, and at least one.

    Models whose traces cannot share a pass (Decoder.apart) get one trace per pass. When memory runs out, the budget is
    halved; a trace that does not fit by itself gives None.
    """

    def rerun(numbers: Sequence[int], _budget: int) -> list[tuple[TraceAttention, torch.Tensor]]:
        return rerun_batch(model, [token_ids[number] for number in numbers], [bounds[number] for number in numbers])

    shared_tokens = 0 if Decoder(model).apart else batch_tokens
    take = by_tokens([len(ids) for ids in token_ids])
    for _, found in in_batches(range(len(token_ids)), take, shared_tokens, rerun):
        yield from [None] if found is None else found


@torch.no_grad()
def predicted_ids(model: Any, hidden: torch.Tensor) -> np.ndarray:
    """The arg-max next token after each of the last hidden states [token, d_model], some rows of logits at a time."""
    decoder = Decoder(model)
    n_rows = max(1, LOGIT_ELEMENTS // decoder.config.vocab_size)
    return torch.cat([decoder.logits(rows).argmax(-1) for rows in hidden.split(n_rows)]).cpu().numpy()


def check_masses(mass: np.ndarray, dtype: str, trace: str, has_sinks: bool = False) -> None:
    """Raise AttentionError if segment masses [.., key_segment] do not sum to 1, or one is below 0.

    Sinks take part of each row, so with them the sum may be below 1.

    The fused kernel's answer rows are summed over all keys. Its reasoning rows are whole by construction; what they
    leave for the reasoning is checked by its sign and by check_against_eager.
    """
    off = mass.sum(-1) - 1
    error = max(float((off if has_sinks else np.abs(off)).max()), float(-mass.min()))
    if not error <= TOLERANCE[dtype]:
        raise AttentionError(f"{trace}: attention masses differ from 1 by {error:.2g}; the rerun's attention is wrong")


def check_against_eager(model: Any, token_ids: Sequence[int], dtype: str) -> float:
    """Largest difference (in 16 bits, the mean one) between fused and eager segment masses of a trace's beginning.

    Raises AttentionError if it exceeds TOLERANCE.
    """
    ids = token_ids[:CHECK_TOKENS]
    n = len(ids)
    bounds = Bounds(0, 1, n // 4, n // 4 + 1, n // 2, n // 2 + 1, n, n)
    ((fused, _),) = rerun_batch(model, [ids], [bounds])
    with attention_kernel(model, "eager"):
        eager, _ = rerun_eager(model, ids, bounds)
    differences = np.abs(segment_mass(fused, bounds) - segment_mass(eager, bounds))[Decoder(model).attending]
    difference = float(differences.max() if dtype == "float32" else differences.mean())
    logger.info(f"fused against eager attention on {n} tokens: largest difference of a mass {differences.max():.2g}")
    if not difference <= TOLERANCE[dtype]:
        worst = np.unravel_index(differences.argmax(), differences.shape)
        raise AttentionError(
            f"fused and eager attention differ by {difference:.2g} on the first {n} tokens of a trace (worst in "
            f"layer {Decoder(model).attending[worst[0]]}, head {worst[1]}: {differences.max():.2g})"
        )
    return difference


class RowRecorder:
    """Keeps the attention of chosen heads and rows of one trace; a GPU copies it off while it goes on computing."""

    def __init__(self, n_tokens: int, heads: Sequence[tuple[int, int]], rows: Sequence[int]) -> None:
        self.spans = [Span(0, 0, n_tokens)]
        self.heads, self.rows = heads, rows
        self.found: list[tuple[list[int], int, torch.Tensor]] = []  # places among the heads, first row, their attention

    def record(self, layer: int, trace: int, attention: LayerAttention) -> None:
        places = [k for k, (head_layer, _) in enumerate(self.heads) if head_layer == layer]
        if not places:
            return
        n_done = 0
        for rows, block in attention.of_heads([self.heads[k][1] for k in places]).blocks(self.rows):
            self.found.append((places, n_done, block.to("cpu", non_blocking=True)))
            n_done += len(rows)

    def kept(self) -> np.ndarray:
        """Float32 [head, row, token], after the forward pass."""
        wait_for_copies()
        attention = np.zeros((len(self.heads), len(self.rows), self.spans[0].last), np.float32)
        for places, first, block in self.found:
            attention[places, first : first + block.shape[1], : block.shape[-1]] = block.numpy()
        return attention


@torch.no_grad()
def attention_rows(
    model: Any, token_ids: Sequence[int], heads: Sequence[tuple[int, int]], rows: Sequence[int]
) -> np.ndarray:
    """Exact attention rows of chosen (layer, head) pairs, float32 [head, row, token]; rows ascend.

    0 beyond each row's own token; nan in a layer without attention.
    """
    decoder = Decoder(model)
    recorder = RowRecorder(len(token_ids), heads, rows)
    decoder.run(torch.tensor([list(token_ids)], device=model.device), FusedPass(recorder))
    attention = recorder.kept()
    attention[[layer not in decoder.attending for layer, _ in heads]] = np.nan
    return attention

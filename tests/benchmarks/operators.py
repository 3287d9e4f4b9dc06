"""Operators and synchronous copies of every stage's passes, beside those of a plain forward pass: facts, not timings.

    make bench-operators        writes results/benchmarks/operators.csv

A GPU that waits for its host is a GPU that is not busy: each operator costs the host some ten microseconds, whatever
its size, and a synchronous copy waits for all that was asked for before. Both are counted without a device: on
PyTorch's device "meta", whose tensors have shapes and nothing in them, with the geometry of R1-Distill-Qwen-7B in
bfloat16. Every branch of the code that asks for the device takes the GPU's. An operator is a call that reaches the
device; views and empty allocations are none. A synchronous copy moves values between host and device, or asks the
device for how many there are, and is waited for.

operators_per_layer, copies_per_layer: what one layer more adds to a pass. Of patches: what one patch more adds to
`Engine.finish`, over the number of layers, the patches of every layer together.

attention, plain       the forward pass of one trace, without logits
attention, ours        its rerun with every quantity of METHOD section 3
rows, ours             a rerun that keeps attention rows of some heads
ablation, plain        a decoding step of a row with its keys and values cached, by transformers
ablation, ours         a step of rows of one trace, and of four traces; `tokens` is what each has read
capture, ours          a run whose components are kept; the copies are those of the whole pass
z, resid_pre, ours     patches of heads at three tokens, and of the residual stream at twenty
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from r2a.ablation.arms import Arm
from r2a.ablation.decoding import Reading, Rows, read
from r2a.attention import fused
from r2a.attention.rerun import attention_rows, rerun_batch
from r2a.models.attention import SEAM
from r2a.patching import engine as patching
from r2a.traces import Bounds

DEVICE = "meta"
OUTPUT = Path("results/benchmarks/operators.csv")
COLUMNS = ("stage", "tokens", "way", "operators_per_layer", "copies_per_layer")
N_LAYERS = (3, 5)  # a pass's operators in so many layers give those of one
N_HEADS = 28
aten = torch.ops.aten
NOTHING = {aten.detach, aten.lift_fresh, aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided,
           aten.new_empty, aten.alias, aten.scalar_tensor}  # fmt: skip
ASKING = {aten.nonzero, aten.masked_select, aten._local_scalar_dense, aten.equal, aten._unique2, aten.repeat_interleave}


class Counter(TorchDispatchMode):
    """Counts what reaches the device, and answers for a device that has no values."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        given = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in given if x.ndim or x.device.type == DEVICE}
        if packet in (aten._local_scalar_dense, aten.equal) and DEVICE in devices:
            self.operators, self.copies = self.operators + 1, self.copies + 1
            return True
        if packet is aten._to_copy and devices == {DEVICE} and torch.device(kwargs.get("device") or DEVICE).type == "cpu":
            self.copies += not kwargs.get("non_blocking")
            self.operators += 1
            return torch.zeros(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
        if packet is aten.copy_ and args[0].device.type == "cpu" and DEVICE in devices:
            self.copies += not (kwargs.get("non_blocking") or len(args) > 2 and args[2])
            self.operators += 1
            return args[0]
        found = func(*args, **kwargs)
        made = {x.device.type for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)}
        if DEVICE not in made | devices:
            return found
        is_waited_for = not kwargs.get("non_blocking")
        if packet is aten.lift_fresh:  # torch.tensor(a list, device=...)
            self.operators, self.copies = self.operators + 1, self.copies + 1
            return found
        if "cpu" in devices | ({"cpu"} if packet is aten._to_copy and devices == {"cpu"} else set()) or packet in ASKING:
            self.copies += is_waited_for
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        self.operators += not (is_view or packet in NOTHING)
        return found


class FusedKernels(TorchFunctionMode):
    """On the device "meta" torch would spell attention out; a GPU computes it in one kernel, as here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value, mask = *args, *[kwargs.get("attn_mask")][: 4 - len(args)]
        scale = kwargs.get("scale")
        if mask is None:
            is_causal = bool(kwargs.get("is_causal"))
            return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, False, scale=scale)[0]
        if mask.dtype == torch.bool:  # a GPU makes numbers of it, too
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), -torch.inf)
        mask = mask.expand(*query.shape[:3], key.shape[2])
        return aten._scaled_dot_product_efficient_attention(query, key, value, mask, False, 0.0, False, scale=scale)[0]


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """The device "meta" is taken for a GPU."""
    with mock.patch.dict(fused.BLOCK_ELEMENTS, {DEVICE: fused.BLOCK_ELEMENTS["cuda"]}), FusedKernels(), Counter(), torch.no_grad():
        yield


def model_of(n_layers: int) -> Any:
    """R1-Distill-Qwen-7B with fewer layers and a small vocabulary, on no device."""
    config = Qwen2Config(
        vocab_size=1000, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=n_layers,
        num_attention_heads=N_HEADS, num_key_value_heads=4, max_position_embeddings=131_072,
    )  # fmt: skip
    with torch.device(DEVICE):
        return Qwen2ForCausalLM(config).to(torch.bfloat16).eval()


def counted(call: Callable[[], Any]) -> tuple[int, int]:
    """Operators and synchronous copies of a call."""
    with Counter() as counter:
        call()
    return counter.operators, counter.copies


def per_layer(prepare: Callable[[Any], Callable[[], Any]]) -> tuple[float, float]:
    """Operators and copies that one layer more adds to the call that is prepared for a model."""
    few, many = (counted(prepare(model_of(n_layers))) for n_layers in N_LAYERS)
    more = N_LAYERS[1] - N_LAYERS[0]
    return (many[0] - few[0]) / more, (many[1] - few[1]) / more


def bounds_of(n_tokens: int) -> Bounds:
    """As in tests/benchmarks/attention.py."""
    think_open, think_close = int(0.03 * n_tokens), int(0.85 * n_tokens)
    return Bounds(0, 1, think_open, think_open + 1, think_close, think_close + 1, n_tokens - 1, n_tokens)


def plain_forward(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    def prepare(model: Any) -> Callable[[], Any]:
        ids = torch.zeros(1, n_tokens, dtype=torch.long, device=DEVICE)
        return lambda: model.model(ids, use_cache=False)

    return prepare


def attention(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    return lambda model: lambda: rerun_batch(model, [[0] * n_tokens], [bounds_of(n_tokens)])


def rows_kept(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    heads = [(layer, head) for layer in range(N_LAYERS[0]) for head in (1, 5, 9)]
    return lambda model: lambda: attention_rows(model, [0] * n_tokens, heads, range(n_tokens - 33, n_tokens))


def plain_step(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    def prepare(model: Any) -> Callable[[], Any]:
        cache = DynamicCache(config=model.config)
        model.model(torch.zeros(1, n_tokens, dtype=torch.long, device=DEVICE), past_key_values=cache)
        step = torch.zeros(1, 1, dtype=torch.long, device=DEVICE)
        return lambda: model.model(step, past_key_values=cache)

    return prepare


def ablation_step(n_tokens: int, n_traces: int) -> Callable[[Any], Callable[[], Any]]:
    """Each trace's rows are in every mode, and ablate heads in every layer."""

    def prepare(model: Any) -> Callable[[], Any]:
        n_layers = model.config.num_hidden_layers
        rows: list[tuple[Reading, Arm]] = []
        for trace in range(n_traces):
            bounds = bounds_of(n_tokens + trace)
            reading = read(model, [0] * bounds.answer, bounds)
            reading.mean = torch.zeros(n_layers, N_HEADS, 128, device=DEVICE)
            reading.resampled = torch.zeros(4, n_layers, N_HEADS, 128, device=DEVICE)
            heads = tuple((layer, head) for layer in range(n_layers) for head in (1, 5))
            for mode in ("unablated", "zero", "mean", "cut_off"):
                rows.append((reading, Arm(mode, "rfh", 0, heads if mode != "unablated" else ())))
        decoding = Rows(model, rows)
        tokens = torch.zeros(len(rows), dtype=torch.long, device=DEVICE)
        decoding.step(tokens)
        return lambda: decoding.step(tokens)

    return prepare


def capture_run(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    positions = range(n_tokens - 20, n_tokens)

    def prepare(model: Any) -> Callable[[], Any]:
        patching.places_of(model)
        return lambda: patching.capture(model, [0] * n_tokens, positions, ["resid_pre", "attn_out", "mlp_out", "z"])

    return prepare


def patches(component: str, n_tokens: int) -> tuple[float, float]:
    """Operators and copies that one patch more takes, over the number of layers."""
    n_layers = 28
    model = model_of(n_layers)
    model.set_attn_implementation(SEAM)
    with mock.patch.object(patching.Engine, "_check"), mock.patch.object(
        patching, "_middles", lambda decoder: [layer.post_attention_layernorm for layer in decoder.layers]
    ):  # fmt: skip
        engine = patching.Engine(model)
    near = range(n_tokens - 20, n_tokens)
    positions = [n_tokens - 20, n_tokens - 10, n_tokens - 1] if component == "z" else [*near[1:], n_tokens // 2]
    kept = engine.keep([0] * n_tokens, positions)
    width = (N_HEADS, 128) if component == "z" else (3584,)
    every = engine.patches(kept, component, torch.zeros(n_layers, len(positions), *width, device=DEVICE))
    some = [patch for patch in every if patch.layer == 1][:1]  # goes through all the layers
    budget = BATCH_TOKENS
    all_of_them, one = (counted(lambda chosen=chosen: engine.finish(chosen, budget)) for chosen in (every, some))
    n_more = len(every) - len(some)
    return (all_of_them[0] - one[0]) / n_more / n_layers, (all_of_them[1] - one[1]) / n_more / n_layers


BATCH_TOKENS = 65_536


def measure() -> list[dict[str, Any]]:
    """A row a stage, number of tokens and way."""
    cases: list[tuple[str, int, str, Callable[[], tuple[float, float]]]] = []
    for n_tokens in (3500, 10_000):
        cases += [
            ("attention", n_tokens, "plain", lambda n=n_tokens: per_layer(plain_forward(n))),
            ("attention", n_tokens, "ours", lambda n=n_tokens: per_layer(attention(n))),
            ("rows", n_tokens, "ours", lambda n=n_tokens: per_layer(rows_kept(n))),
        ]
    cases.append(("ablation", 3500, "plain", lambda: per_layer(plain_step(3500))))
    for n_traces in (1, 4, 16):
        cases.append((f"ablation of {n_traces}", 3500, "ours", lambda n=n_traces: per_layer(ablation_step(3500, n))))
    cases.append(("capture", 600, "ours", lambda: per_layer(capture_run(600))))
    for component in ("z", "resid_pre"):
        for n_tokens in (600, 3000):
            cases.append((component, n_tokens, "ours", lambda c=component, n=n_tokens: patches(c, n)))
    rows = []
    with pretended_gpu():
        for stage, n_tokens, way, count in cases:
            operators, copies = count()
            rows.append(dict(zip(COLUMNS, (stage, n_tokens, way, round(operators, 2), round(copies, 2)), strict=True)))
            print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT)
    output = parser.parse_args().output
    rows = measure()
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()

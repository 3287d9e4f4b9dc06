"""Operators and synchronous copies in every stage's passes, compared with a plain forward pass: facts, not timings.

    make bench-operators        writes results/benchmarks/operators.csv

A GPU that waits for its host is idle: each operator costs the host about ten microseconds, whatever its size, and a
synchronous copy waits for everything requested before it. Both are counted without a GPU, on PyTorch's device "meta",
whose tensors have shapes but no values, with the geometry of R1-Distill-Qwen-7B in bfloat16. Every branch in the code
that asks for the device takes the GPU's side. An operator is a call that reaches the device; views and empty
allocations do not count. A synchronous copy moves values between host and device, or asks the device how many there
are, and the host waits for it.

operators_per_layer, copies_per_layer: what each further layer adds to a pass. For patches: what each further patch adds
to `Patcher.finish`, divided by the number of layers, with as many patches in every layer.

attention, plain   the forward pass of one trace, without logits
attention, ours    its rerun with every quantity of METHOD section 3
rows, ours         a rerun that keeps whole attention rows, as figures show them; the host does not wait for its copies
ablation, plain    a decoding step of transformers with cached keys and values; `tokens` is the number already read
ablation, ours     a step of four ablated rows; ablation of 16 traces: of four rows in each of 16 traces
capture, ours      a run whose components are kept
z, resid_pre, ours patches of heads at three tokens, and of the residual stream at twenty, one of them far back
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from r2a.ablation.arms import Arm
from r2a.ablation.decoding import Reading, Rows, read
from r2a.attention.rerun import rerun_batch
from r2a.attention.rows import case_attention
from r2a.models import kernels
from r2a.models.attention import SEAM
from r2a.models.decoder import Decoder
from r2a.patching import components
from r2a.patching.patcher import Patcher
from r2a.study import Patching
from r2a.traces import Bounds

DEVICE = "meta"
OUTPUT = Path("results/benchmarks/operators.csv")
COLUMNS = ("stage", "tokens", "way", "operators_per_layer", "copies_per_layer")
N_LAYERS = (3, 5)  # the difference between these gives the operators of one layer
N_HEADS = 28
aten = torch.ops.aten
NOTHING = {aten.detach, aten.lift_fresh, aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided,
           aten.new_empty, aten.alias, aten.scalar_tensor}  # fmt: skip
ASKING = {aten._local_scalar_dense, aten.equal}  # the device for a value
SIZING = {aten.nonzero, aten.masked_select, aten._unique2}  # the device for a number of values


class Counter(TorchDispatchMode):
    """Counts what reaches the device, and answers in place of a device that has no values."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.copies = 0
        self.calls = Calls(self)

    def __enter__(self) -> "Counter":
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operator = kwargs or {}, func.overloadpacket
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        # a number on the host is passed with the operator
        devices = {each.device.type for each in given if each.ndim or each.device.type == DEVICE}
        if operator in ASKING and DEVICE in devices:
            self.count(is_waited_for=True)
            return True
        if operator is aten._to_copy and DEVICE in devices and kwargs.get("device") == torch.device("cpu"):
            self.count(is_waited_for=not kwargs.get("non_blocking"))
            return torch.zeros(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
        found = func(*args, **kwargs)
        made = {each.device.type for each in tree_leaves(found) if isinstance(each, torch.Tensor)}
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        if DEVICE in devices | made and not is_view and operator not in NOTHING:
            self.count(is_waited_for=("cpu" in devices and not kwargs.get("non_blocking")) or operator in SIZING)
        return found

    def count(self, is_waited_for: bool) -> None:
        self.operators += 1
        self.copies += is_waited_for


class Calls(TorchFunctionMode):
    """Sees calls before torch decomposes them: index lists, which are copied to the device, and attention.

    On the device "meta", torch would decompose attention; a GPU computes it in one kernel, and so does this.
    """

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == DEVICE:
            self.counter.count(is_waited_for=True)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].device.type == DEVICE:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.counter.copies += sum(isinstance(each, list | np.ndarray) for each in index)
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value, mask = *args, *[kwargs.get("attn_mask")][: 4 - len(args)]
        scale = kwargs.get("scale")
        if mask is None:
            is_causal = bool(kwargs.get("is_causal"))
            return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, False, scale=scale)[0]
        if mask.dtype == torch.bool:  # as on a GPU, where the kernel takes numbers
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), -torch.inf)
        mask = mask.expand(*query.shape[:3], key.shape[2])
        return aten._scaled_dot_product_efficient_attention(query, key, value, mask, False, 0.0, False, scale=scale)[0]


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Until the block ends, the device "meta" passes for a GPU."""
    with mock.patch.dict(kernels.BLOCK_ELEMENTS, {DEVICE: kernels.BLOCK_ELEMENTS["cuda"]}), Counter(), torch.no_grad():
        yield


def model_of(n_layers: int) -> Any:
    """R1-Distill-Qwen-7B with fewer layers and a small vocabulary, without values."""
    config = Qwen2Config(
        vocab_size=1000, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=n_layers,
        num_attention_heads=N_HEADS, num_key_value_heads=4, max_position_embeddings=131_072,
    )  # fmt: skip
    with torch.device(DEVICE):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
    model.set_attn_implementation(SEAM)
    return model


def counted(call: Callable[[], Any]) -> tuple[int, int]:
    """Operators and synchronous copies of a call."""
    with Counter() as counter:
        call()
    return counter.operators, counter.copies


def per_layer(prepare: Callable[[Any], Callable[[], Any]]) -> tuple[float, float]:
    """Operators and copies that one further layer adds to the call prepared for a model."""
    few, many = (counted(prepare(model_of(n_layers))) for n_layers in N_LAYERS)
    more = N_LAYERS[1] - N_LAYERS[0]
    return (many[0] - few[0]) / more, (many[1] - few[1]) / more


def bounds_of(n_tokens: int) -> Bounds:
    """As in tests/benchmarks/attention.py."""
    think_open, think_close = int(0.03 * n_tokens), int(0.85 * n_tokens)
    return Bounds(0, 1, think_open, think_open + 1, think_close, think_close + 1, n_tokens - 1, n_tokens)


def plain_forward(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    def prepare(model: Any) -> Callable[[], Any]:
        model.set_attn_implementation("sdpa")
        ids = torch.zeros(1, n_tokens, dtype=torch.long, device=DEVICE)
        return lambda: model.model(ids, use_cache=False)

    return prepare


def attention(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    def prepare(model: Any) -> Callable[[], Any]:
        Decoder(model)  # looks at each model once
        return lambda: rerun_batch(model, [[0] * n_tokens], [bounds_of(n_tokens)])

    return prepare


def rows_kept(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    def prepare(model: Any) -> Callable[[], Any]:
        heads = [(layer, head) for layer in range(model.config.num_hidden_layers) for head in (1, 5, 9)]
        kept = pd.DataFrame(heads, columns=["layer", "head"]).assign(is_rfh=True)
        rows = list(range(n_tokens - 99, n_tokens, 3))

        def run() -> Any:
            return case_attention(model, [0] * n_tokens, bounds_of(n_tokens), rows, kept)

        run()  # the rows' indices are copied once per process
        return run

    return prepare


def plain_step(n_tokens: int) -> Callable[[Any], Callable[[], Any]]:
    def prepare(model: Any) -> Callable[[], Any]:
        model.set_attn_implementation("sdpa")
        cache = DynamicCache(config=model.config)
        model.model(torch.zeros(1, n_tokens, dtype=torch.long, device=DEVICE), past_key_values=cache)
        step = torch.zeros(1, 1, dtype=torch.long, device=DEVICE)
        return lambda: model.model(step, past_key_values=cache)

    return prepare


def ablation_step(n_tokens: int, n_traces: int) -> Callable[[Any], Callable[[], Any]]:
    """A step in which each trace has rows in several modes, which ablate heads in every layer."""

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
        components.hook_points_of(model)
        return lambda: components.capture(model, [0] * n_tokens, positions, ["resid_pre", "attn_out", "mlp_out", "z"])

    return prepare


def patches(component: str, n_tokens: int) -> tuple[float, float]:
    """Operators and copies that one further patch takes, divided by the number of layers."""
    n_layers = 28
    model = model_of(n_layers)
    with mock.patch.object(Patcher, "_check"), mock.patch.object(
        components, "_middles", lambda decoder: [layer.post_attention_layernorm for layer in decoder.layers]
    ):  # fmt: skip
        patcher = Patcher(model)
    near = [n_tokens - 20 + k for k in range(20)]
    positions = [near[0], near[10], near[19]] if component == "z" else [*near[1:], n_tokens // 2]
    kept = patcher.keep([0] * n_tokens, positions)
    width = (N_HEADS, 128) if component == "z" else (3584,)
    every = patcher.patches(kept, component, torch.zeros(n_layers, len(positions), *width, device=DEVICE))
    one = [patch for patch in every if patch.layer == 1][:1]  # passes through all layers
    many, few = (
        counted(lambda chosen=chosen: patcher.finish(chosen, Patching().batch_tokens)) for chosen in (every, one)
    )
    return tuple((more - less) / (len(every) - 1) / n_layers for more, less in zip(many, few, strict=True))


def measure() -> list[dict[str, Any]]:
    """One row per stage, number of tokens and way, with the columns COLUMNS."""
    cases: list[tuple[str, int, str, Callable[[], tuple[float, float]]]] = []
    for n in (3500, 10_000):
        cases += [
            ("attention", n, "plain", lambda n=n: per_layer(plain_forward(n))),
            ("attention", n, "ours", lambda n=n: per_layer(attention(n))),
            ("rows", n, "ours", lambda n=n: per_layer(rows_kept(n))),
            ("ablation", n, "plain", lambda n=n: per_layer(plain_step(n))),
            ("ablation", n, "ours", lambda n=n: per_layer(ablation_step(n, 1))),
            ("ablation of 16 traces", n, "ours", lambda n=n: per_layer(ablation_step(n, 16))),
        ]
    for n in (600, 3000):
        cases.append(("capture", n, "ours", lambda n=n: per_layer(capture_run(n))))
        cases += [(component, n, "ours", lambda c=component, n=n: patches(c, n)) for component in ("z", "resid_pre")]
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

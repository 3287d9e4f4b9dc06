"""Time and memory of a rerun's attention, compared with a plain forward pass and with other ways to do it.

    make bench-attention        writes results/benchmarks/attention.csv and prints it as the table of docs/benchmarks.md

Random models of 4 layers, in float32 on one thread: a Qwen2 with the sizes of R1-Distill-Qwen-1.5B and a Llama with
those of Llama-3.2-1B. The ways take turns, ROUNDS times, each time with one pass in a fresh process after a short one.
The fastest pass of each way counts: its time; where its CPU time went (attention: everything between the projections to
queries, keys and values and the output projection, including what is extracted from it; projections; mlp); and the
process's peak memory beyond what the loaded model takes.

sdpa              the plain forward pass, without logits
ours              the rerun with every quantity of METHOD section 3, including contributions to the output
eager             transformers' eager attention with output_attentions, from which nothing is computed
transformer_lens  the paper's way: a hook on each layer's pattern that sums it by segment; if it is installed
"""

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

WAYS = ("sdpa", "ours", "eager", "transformer_lens")
ROUNDS = 3
TOKENS = (1024, 2048, 4096, 8192)
# beyond it, one layer's attention matrices take many gigabytes
LONGEST = {"eager": 4096, "transformer_lens": 4096}
# medians of the paper's 200 published traces of R1-Qwen-7B and 1.5B: <think> and </think> are at 3 and 85 %
THINK_OPEN, THINK_CLOSE = 0.03, 0.85
COMMON = {"vocab_size": 1000, "num_hidden_layers": 4, "max_position_embeddings": 16_384}
FAMILIES = {
    "qwen2": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2
    },
    "llama": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8
    },
}  # fmt: skip


def build(family: str, way: str) -> Any:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from r2a.models.attention import SEAM

    torch.manual_seed(0)
    attention = {"sdpa": "sdpa", "ours": SEAM}.get(way, "eager")
    config = CONFIG_MAPPING[family](**COMMON, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
    return through_transformer_lens(model) if way == "transformer_lens" else model


def through_transformer_lens(model: Any) -> Any:
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<eos>", eos_token="<eos>")
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")


def bounds_of(n_tokens: int) -> Any:
    from r2a.traces import Bounds

    think_open, think_close = int(THINK_OPEN * n_tokens), int(THINK_CLOSE * n_tokens)
    return Bounds(0, 1, think_open, think_open + 1, think_close, think_close + 1, n_tokens - 1, n_tokens)


def one_pass(way: str, model: Any, n_tokens: int) -> Callable[[], Any]:
    import numpy as np
    import torch

    from r2a.attention.rerun import rerun_batch
    from r2a.attention.segments import cue_preference, segment_mass, sentence_mass, tracking

    ids = torch.randint(1000, (1, n_tokens), generator=torch.Generator().manual_seed(1))
    bounds = bounds_of(n_tokens)

    def ours() -> None:
        ((kept, _),) = rerun_batch(model, ids.tolist(), [bounds])
        segment_mass(kept, bounds)
        tracking(kept.centre)
        cue_preference(kept.answer_mass, bounds, np.arange(bounds.think_close - bounds.reasoning) % 50 == 0)
        sentence_mass(kept.answer_mass, [*range(bounds.reasoning, bounds.think_close, 20), bounds.think_close])

    def transformer_lens() -> None:
        def sums(pattern: torch.Tensor, hook: Any) -> None:
            for rows in (slice(bounds.reasoning, bounds.think_close), slice(bounds.answer, bounds.eos)):
                for k in range(7):
                    pattern[0, :, rows, bounds[k] : bounds[k + 1]].float().sum(-1).mean(-1)

        hooks = [(f"blocks.{layer}.attn.hook_pattern", sums) for layer in range(COMMON["num_hidden_layers"])]
        model.run_with_hooks(ids, return_type=None, fwd_hooks=hooks)

    return {
        "sdpa": lambda: model.model(ids, use_cache=False),
        "ours": ours,
        "eager": lambda: model.model(ids, use_cache=False, output_attentions=True),
        "transformer_lens": transformer_lens,
    }[way]


class Stopwatch:
    """CPU seconds inside a model's attention modules, their projections, and its MLPs."""

    def __init__(self, model: Any) -> None:
        from torch import nn

        self.seconds = dict.fromkeys(("self_attn", "projections", "mlp"), 0.0)
        self.started: dict[Any, float] = {}
        for name, module in model.named_modules():
            kind = name.rpartition(".")[2]
            if isinstance(module, nn.Linear) and ".self_attn." in name:
                kind = "projections"
            if kind in self.seconds:
                module.register_forward_pre_hook(self.start)
                module.register_forward_hook(lambda module, *_, kind=kind: self.stop(module, kind))

    def start(self, module: Any, _: Any) -> None:
        self.started[module] = time.process_time()

    def stop(self, module: Any, kind: str) -> None:
        self.seconds[kind] += time.process_time() - self.started[module]

    def read(self) -> dict[str, float]:
        """Seconds of each part."""
        found = self.seconds
        return {
            "attention_seconds": round(found["self_attn"] - found["projections"], 3),
            "projection_seconds": round(found["projections"], 3),
            "mlp_seconds": round(found["mlp"], 3),
        }


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process, in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def measure(family: str, way: str, n_tokens: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        model = build(family, way)
        one_pass(way, model, 128)()
        run, stopwatch = one_pass(way, model, n_tokens), Stopwatch(model)
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    return rounded | stopwatch.read() | {"peak_extra_mib": round(memory("VmHWM") - before)}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as the table of docs/benchmarks.md, in CPU seconds of one thread, which other work disturbs least."""
    plain = {(row["family"], row["tokens"]): row for row in rows if row["way"] == "sdpa"}
    lines = [
        "| family | tokens | method | CPU seconds | relative to sdpa | attention | projections | MLP "
        "| peak extra MiB | relative to sdpa |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        beside = plain[row["family"], row["tokens"]]
        cells = [row["family"], row["tokens"], row["way"], f"{row['cpu_seconds']:.2f}"]
        cells += [f"{row['cpu_seconds'] / beside['cpu_seconds']:.2f}"]
        cells += [f"{row[part]:.2f}" for part in ("attention_seconds", "projection_seconds", "mlp_seconds")]
        cells += [row["peak_extra_mib"], f"{row['peak_extra_mib'] / beside['peak_extra_mib']:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def in_turn(family: str, n_tokens: int, ways: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row per way, from ROUNDS processes of each, run one at a time."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            command = [sys.executable, __file__, "--one", family, way, str(n_tokens)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{family}, {way} at {n_tokens} tokens failed:\n{done.stderr}")
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    for way, passes in found.items():
        fastest = min(passes, key=lambda one: one["cpu_seconds"])
        yield {"family": family, "tokens": n_tokens, "way": way, **fastest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("results/benchmarks/attention.csv"))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="sdpa among them")
    parser.add_argument("--one", nargs=3, metavar=("FAMILY", "WAY", "TOKENS"), help="one pass, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        family, way, n_tokens = arguments.one
        print(json.dumps(measure(family, way, int(n_tokens))))
        return
    has_lens = importlib.util.find_spec("transformer_lens") is not None
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for family, n_tokens in product(arguments.families, arguments.tokens):
        fitting = [way for way in arguments.ways if n_tokens <= LONGEST.get(way, n_tokens)]
        for row in in_turn(family, n_tokens, [way for way in fitting if has_lens or way != "transformer_lens"]):
            rows.append(row)
            print(row, flush=True)
            with arguments.output.open("w", newline="") as file:
                table = csv.DictWriter(file, row)
                table.writeheader()
                table.writerows(rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()

"""Time and memory of a rerun's attention, beside a plain forward pass and the ways that others take.

    make bench-attention        writes results/benchmarks/attention.csv, prints it as the table of docs/benchmarks.md

A random Qwen2 with the attention of R1-Distill-Qwen-1.5B (12 query heads, 2 key-value heads of 128) in 4 layers,
float32, one thread. Each row is a fresh process: the best of PASSES passes after a short one, where its CPU time went
(attention: all between the projections to queries, keys and values and that of the output, with what is taken from
it; projections; mlp), and the peak of the process's memory beyond what the loaded model takes.

sdpa              the plain forward pass, without logits
ours              the rerun with every quantity of METHOD section 3
eager             transformers' eager attention with output_attentions, nothing computed from it
transformer_lens  the paper's way: a hook on each layer's pattern that sums it by segment; where installed
"""

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("sdpa", "ours", "eager", "transformer_lens")
PASSES = 2
TOKENS = (1024, 2048, 4096, 8192)
# beyond it a layer's attention matrices alone take many gigabytes
LONGEST = {"eager": 4096, "transformer_lens": 4096}
# medians of the paper's 200 published traces of R1-Qwen-7B and 1.5B: <think> and </think> stand at 3 and 85 %
THINK_OPEN, THINK_CLOSE = 0.03, 0.85
SIZES = {
    "vocab_size": 1000, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 4,
    "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 16_384,
}  # fmt: skip


def build(way: str) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r2a.models.attention import SEAM

    torch.manual_seed(0)
    attention = {"sdpa": "sdpa", "ours": SEAM}.get(way, "eager")
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, attn_implementation=attention)).eval()
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

        hooks = [(f"blocks.{layer}.attn.hook_pattern", sums) for layer in range(SIZES["num_hidden_layers"])]
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
        """Seconds by part since the last reading."""
        found, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return {
            "attention_seconds": round(found["self_attn"] - found["projections"], 3),
            "projection_seconds": round(found["projections"], 3),
            "mlp_seconds": round(found["mlp"], 3),
        }


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process, in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def measure(way: str, n_tokens: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        model = build(way)
        one_pass(way, model, 128)()
        run, stopwatch = one_pass(way, model, n_tokens), Stopwatch(model)
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        passes = []
        for _ in range(PASSES):
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
            passes.append({name: round(value, 3) for name, value in seconds.items()} | stopwatch.read())
    return min(passes, key=lambda one: one["cpu_seconds"]) | {"peak_extra_mib": round(memory("VmHWM") - before)}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as the table of docs/benchmarks.md, whose CPU seconds of one thread other work disturbs least."""
    plain = {row["tokens"]: row for row in rows if row["way"] == "sdpa"}
    lines = [
        "| tokens | way | CPU seconds | to sdpa | attention | projections | MLP | peak extra MiB | to sdpa |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        beside = plain[row["tokens"]]
        cells = [row["tokens"], row["way"], f"{row['cpu_seconds']:.2f}"]
        cells += [f"{row['cpu_seconds'] / beside['cpu_seconds']:.2f}"]
        cells += [f"{row[part]:.2f}" for part in ("attention_seconds", "projection_seconds", "mlp_seconds")]
        cells += [row["peak_extra_mib"], f"{row['peak_extra_mib'] / beside['peak_extra_mib']:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("results/benchmarks/attention.csv"))
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="sdpa among them")
    parser.add_argument("--one", choices=WAYS, help="measure one way in this process and print it")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.tokens[0])))
        return
    rows = []
    for n_tokens in arguments.tokens:
        for way in arguments.ways:
            if n_tokens > LONGEST.get(way, n_tokens):
                continue
            if way == "transformer_lens" and importlib.util.find_spec("transformer_lens") is None:
                continue
            command = [sys.executable, __file__, "--one", way, "--tokens", str(n_tokens)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{way} at {n_tokens} tokens failed:\n{done.stderr}")
            rows.append({"tokens": n_tokens, "way": way, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()

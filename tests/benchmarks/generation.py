"""Tokens a second of generation as the study does it, ledger included, against vLLM's generate on the same prompts.

make bench-generation writes results/benchmarks/generation.csv: way (vllm, ours), tokens_per_second. Every measurement
is a process of its own, the ways in turn; of each way's the median is taken.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from r2a.config import load_study

WAYS = ("vllm", "ours")
N_ROUNDS, N_SAMPLES = 3, 2
CONFIG, MODEL, DATASET = "config/config.yaml", "tiny-qwen", "puzzles"
OUTPUT = Path("results/benchmarks/generation.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS, help="measure one way, once, in this process")
    way = parser.parse_args().way
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    if way:
        print(json.dumps(measure(way)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(N_ROUNDS):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            one = json.loads(done.stdout.splitlines()[-1])
            found[way].append(one)
            print(
                f"round {number + 1}, {way}: {one['tokens']:,.0f} tokens in {one['seconds']:.1f} s, "
                f"{one['tokens'] / one['seconds']:,.0f} a second "
                f"({one['processor_seconds']:.1f} s of processor time); start-up {one['startup_seconds']:.1f} s, "
                f"after an import of {one['import_seconds']:.1f} s",
                flush=True,
            )
    rates = {way: statistics.median(one["tokens"] / one["seconds"] for one in found[way]) for way in WAYS}
    OUTPUT.write_text("".join(["way,tokens_per_second\n", *(f"{way},{rate:.1f}\n" for way, rate in rates.items())]))
    print(f"{OUTPUT}: ours has {rates['ours'] / rates['vllm']:.3f} times the tokens a second of vLLM alone")


def measure(way: str) -> dict[str, float]:
    """Seconds, wall and processor, and tokens of one way in a fresh engine; its start and import are timed apart."""
    import pandas as pd

    from r2a.datasets import load_dataset
    from r2a.generation import build_requests, keep
    from r2a.generation.ledger import Ledger
    from r2a.generation.vllm_engine import as_vllm_takes_it, complete, start
    from r2a.models import read_manifest, resolve_model

    config = yaml.safe_load(Path(CONFIG).read_text())
    config["decodings"] = {"greedy": {"temperature": 0}, "sampled": {"temperature": 0.6, "n_samples": N_SAMPLES}}
    study = load_study(config, CONFIG)
    with tempfile.TemporaryDirectory(dir=OUTPUT.parent) as name:  # the disk that results go to
        folder = Path(name)
        load_dataset(folder / "dataset.parquet", study.stage("datasets", dataset=DATASET))
        resolve_model(folder / "model.json", study.stage("models", MODEL))
        manifest = read_manifest(folder / "model.json")
        problems = pd.read_parquet(folder / "dataset.parquet")
        requests = build_requests(problems, manifest, study.stage("traces", MODEL, DATASET))
        began = time.monotonic()
        from vllm import LLM  # noqa: F401

        imported = time.monotonic()
        engine: dict[str, Any] = {"gpu": 0, **study.generation.model_dump()}
        llm = start(requests, manifest, engine)
        started, processor = time.monotonic(), time.process_time()
        if way == "vllm":
            prompts, sampling = zip(*map(as_vllm_takes_it, requests), strict=True)
            outputs = llm.generate(list(prompts), list(sampling), use_tqdm=False)
            tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        else:
            with Ledger(folder / "ledger.jsonl") as ledger:
                kept = keep(complete(llm, requests), ledger, requests, "benchmark")
                tokens = sum(len(completion.token_ids) for _, completion in kept)
        seconds, processor = time.monotonic() - started, time.process_time() - processor
    return {
        "tokens": tokens,
        "seconds": seconds,
        "processor_seconds": processor,
        "startup_seconds": started - imported,
        "import_seconds": imported - began,
    }


if __name__ == "__main__":
    main()

"""Tokens per second of the study's generation, including the ledger, and of vLLM's generate on the same prompts.

make bench-generation writes results/benchmarks/generation.csv for traces, and resampling.csv for rollouts that continue
reasonings cut in several places. Columns: way (vllm, ours), tokens_per_second, and the same by processor time, which
other work on the machine hardly affects. The ways take turns in one engine, and which goes first changes from round to
round; the ratio is the median over the rounds. Each engine starts in a fresh process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from r2a.study import load_study, stage_settings

WAYS = ("vllm", "ours")
N_PROCESSES, N_ROUNDS, N_SAMPLES, N_WARMING = 2, 4, 2, 64
N_CUT, CUTS, N_ROLLOUTS = 24, (0.25, 0.5, 0.75), 8  # completions to cut, where to cut, rollouts from each
CONFIG, MODEL, DATASET = "config/config.yaml", "tiny-qwen", "puzzles"
FOLDER = Path("results/benchmarks")
WHAT = ("generation", "resampling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", type=int, help="measure in this process; an odd number lets ours go first")
    number = parser.parse_args().process
    FOLDER.mkdir(parents=True, exist_ok=True)
    if number is not None:
        print(json.dumps(measure(number)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {what: [] for what in WHAT}
    for number in range(N_PROCESSES):
        command = [sys.executable, __file__, "--process", str(number)]
        # one thread, as in a job: torch's second one would only spin
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"start-up {found['startup_seconds']:.1f} s, after an import of {found['import_seconds']:.1f} s")
        for what in WHAT:
            rounds[what] += found[what]
            for one in found[what]:
                timed = [f"{way} {one[way]['wall']:.2f} s, processor {one[way]['processor']:.2f} s" for way in WAYS]
                print(f"{what}, {one['tokens']:,} tokens: {'; '.join(timed)}", flush=True)
    for what in WHAT:
        tell(FOLDER / f"{what}.csv", rounds[what])


def tell(output: Path, rounds: Sequence[dict[str, Any]]) -> None:
    """Write and print the medians over the rounds."""
    rows = ["way,tokens_per_second,tokens_per_processor_second\n"]
    for way in WAYS:
        rates = [
            statistics.median(one["tokens"] / one[way][clock] for one in rounds) for clock in ("wall", "processor")
        ]
        rows.append(f"{way},{rates[0]:.1f},{rates[1]:.1f}\n")
    output.write_text("".join(rows))
    wall, processor = (
        statistics.median(one["vllm"][clock] / one["ours"][clock] for one in rounds) for clock in ("wall", "processor")
    )
    print(f"{output}: ours has {wall:.3f} times the tokens per second of vLLM alone, {processor:.3f} by processor time")


def measure(number: int) -> dict[str, Any]:
    """Import and start a fresh engine, then run rounds of both ways: tokens, and seconds by wall and processor time."""
    import pandas as pd

    from r2a.datasets import load_dataset
    from r2a.generation import build_requests, keep
    from r2a.generation.ledger import CompletionLedger
    from r2a.generation.requests import CompletionRequest
    from r2a.generation.vllm_engine import as_vllm_takes_it, complete, start
    from r2a.models import read_manifest, resolve_model

    config = yaml.safe_load(Path(CONFIG).read_text())
    config["decodings"]["sampled"]["n_samples"] = N_SAMPLES
    study = load_study(config, CONFIG)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:  # on the disk that results go to
        folder = Path(name)
        load_dataset(folder / "dataset.parquet", stage_settings(study, "datasets", dataset=DATASET))
        resolve_model(folder / "model.json", stage_settings(study, "models", MODEL))
        manifest = read_manifest(folder / "model.json")
        problems = pd.read_parquet(folder / "dataset.parquet")
        settings = stage_settings(study, "traces", MODEL, DATASET, None, "with_reasoning", "sampled")
        began = time.monotonic()
        from vllm import LLM  # noqa: F401

        imported = time.monotonic()
        requests = build_requests(problems, manifest, settings)
        engine: dict[str, Any] = {"gpu": 0, **study.generation.model_dump()}
        started = time.monotonic()
        llm = start(requests, manifest, engine)
        startup_seconds = time.monotonic() - started

        def vllm_alone(asked: Sequence[CompletionRequest]) -> int:
            prompts, sampling = zip(*map(as_vllm_takes_it, asked), strict=True)
            outputs = llm.generate(list(prompts), list(sampling), use_tqdm=False)
            return sum(len(output.outputs[0].token_ids) for output in outputs)

        def ours(asked: Sequence[CompletionRequest]) -> int:
            path = folder / "ledger.jsonl"
            path.unlink(missing_ok=True)
            with CompletionLedger(path) as ledger:
                kept = keep(complete(llm, asked), ledger, asked, "benchmark")
                return sum(len(completion.token_ids) for _, completion in kept)

        ways: dict[str, Callable[[Sequence[CompletionRequest]], int]] = {"vllm": vllm_alone, "ours": ours}
        vllm_alone(requests[:N_WARMING])
        cut = []
        prompts, sampling = zip(*map(as_vllm_takes_it, requests[:N_CUT]), strict=True)
        for request, output in zip(requests, llm.generate(list(prompts), list(sampling), use_tqdm=False), strict=False):
            written = output.outputs[0].token_ids
            for n_kept in (int(share * len(written)) for share in CUTS):
                ids, room = (*request.prompt_ids, *written[:n_kept]), request.max_new_tokens - n_kept
                cut.append(replace(request, prompt_ids=ids, max_new_tokens=room, condition=f"0.{n_kept}"))

        def rollouts() -> list[CompletionRequest]:
            return [
                replace(request, sample=sample, seed=N_ROLLOUTS * place + sample)
                for place, request in enumerate(cut)
                for sample in range(N_ROLLOUTS)
            ]

        making = dict(zip(WHAT, (lambda: build_requests(problems, manifest, settings), rollouts), strict=True))
        rounds: dict[str, list[dict[str, Any]]] = {what: [] for what in WHAT}
        for turn, (what, make) in product(range(number, number + N_ROUNDS), making.items()):
            one: dict[str, Any] = {}
            for way in WAYS if turn % 2 == 0 else reversed(WAYS):
                llm.reset_prefix_cache()
                asked = make()  # without their keys
                wall, processor = time.monotonic(), time.process_time()
                one["tokens"] = ways[way](asked)
                one[way] = {"wall": time.monotonic() - wall, "processor": time.process_time() - processor}
            rounds[what].append(one)
    return {"import_seconds": imported - began, "startup_seconds": startup_seconds, **rounds}


if __name__ == "__main__":
    main()

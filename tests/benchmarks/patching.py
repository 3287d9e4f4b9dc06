"""How long it takes to patch every layer at a probe's tokens, against slower ways and against the least possible.

    make bench-patching        writes results/benchmarks/patching.csv

Every measurement has a process of its own. The model has the geometry of R1-Distill-Qwen-1.5B with 8 of its 28 layers,
random weights and float32. Ways:

naive             one whole forward pass a patch, with hooks, and the last token's logits alone
transformer_lens  TransformerLens' own generic_activation_patch; left out where it is not installed
ours              r2a.patching.patcher, with the run that patches restart from
limit             naive's seconds times the share of its arithmetic that no way can avoid: the kept run, and of each
                  patch the tokens from its position on, from its layer on; of the last layer, queries and MLP of the
                  last token alone

Below them, the same run is patched in every layer at the end of the reasoning, RANGE tokens and the probe: as it is
(`ordinary`), and so that the answer's tokens see it by ten heads alone (`path`, path patching). Both in one process, in
turn, the shorter of three times each; ratio_to_ordinary should stay below 1.3.

The first two are measured on ten patches, spread over all, and multiplied; above 1024 tokens on five, each of which
takes as long as another. The vectors to put in are at hand, as they
are in a study. All ways must give the same logits, or the benchmark fails.

Every process has one thread and reports its CPU seconds, which on an idle machine are the clock's: so the ratios hold
on a machine that others use too, and as many processes run at a time as there are cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from hooked_patching import hooked_patch
from r2a.patching.patcher import Patch, Patcher, PatchPath
from r2a.store import whole_file
from r2a.study import Patching

N_LAYERS, N_HEADS, N_KV_HEADS, D_HEAD, D_MODEL, D_MLP, N_VOCABULARY = 8, 12, 2, 128, 1536, 8960, 151_936
TOKENS = (512, 1024, 2048)
COMPONENTS = ("resid_pre", "z")
WAYS = ("naive", "transformer_lens", "ours")
OUTPUT = Path("results/benchmarks/patching.csv")
RANGE, N_TOP_HEADS, N_TIMES = 50, 10, 3
COLUMNS = ["tokens", "component", "way", "seconds", "ratio_to_naive", "ratio_to_ordinary"]


def positions(component: str, n_tokens: int) -> list[int]:
    """The probe's six tokens, </think> and the last token; for the heads, the probe's fourth token alone."""
    first = int(0.9 * n_tokens)
    return [*range(first, first + 7), n_tokens - 1] if component == "resid_pre" else [first + 3]


def patches(component: str, n_tokens: int) -> list[tuple[int, int, int]]:
    """(layer, number of the position, head) of every patch."""
    heads = range(N_HEADS if component == "z" else 1)
    places = range(len(positions(component, n_tokens)))
    return [(layer, place, head) for layer in range(N_LAYERS) for place in places for head in heads]


def some_patches(component: str, n_tokens: int, n_measured: int) -> list[tuple[int, int, int]]:
    every = patches(component, n_tokens)
    return [every[k] for k in np.linspace(0, len(every) - 1, n_measured).astype(int)]


# ---- one measurement, in its own process


def random_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=N_VOCABULARY, hidden_size=D_MODEL, intermediate_size=D_MLP, num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS, num_key_value_heads=N_KV_HEADS, max_position_embeddings=131_072,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, rms_norm_eps=1e-6,
        tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def measure(way: str, component: str, n_tokens: int, n_measured: int) -> dict[str, Any]:
    """Seconds for all patches, and the logits of the first tokens of the vocabulary under those measured."""
    model = random_model()
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(N_VOCABULARY, (n_tokens,), generator=random).tolist()
    at, chosen = positions(component, n_tokens), some_patches(component, n_tokens, n_measured)
    sizes = (N_HEADS, D_HEAD) if component == "z" else (D_MODEL,)
    vectors = 0.1 * torch.randn(N_LAYERS, len(at), *sizes, generator=random)
    model(torch.tensor([ids[:64]]))  # whatever a first call costs
    seconds, logits = MEASUREMENTS[way](model, ids, component, at, vectors, chosen)
    return {"seconds": seconds, "logits": logits[:, :64].tolist()}


def measure_path(n_tokens: int) -> dict[str, float]:
    """CPU seconds of an ordinary and a path patch in every layer, by way."""
    model = random_model()
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(N_VOCABULARY, (n_tokens,), generator=random).tolist()
    *probe, final = positions("resid_pre", n_tokens)
    at = (*range(probe[0] - RANGE, probe[-1]), final)
    patcher = Patcher(model)
    kept = patcher.keep(ids, at, path_start=probe[-1] + 1)
    heads = torch.zeros(N_LAYERS, N_HEADS, dtype=torch.bool)
    heads.view(-1)[torch.randperm(heads.numel(), generator=random)[:N_TOP_HEADS]] = True
    vectors = 0.1 * torch.randn(N_LAYERS, len(at) - 1, D_MODEL, generator=random)
    paths = {"ordinary": None, "path": PatchPath(heads, torch.ones(N_LAYERS, dtype=torch.bool))}
    found: dict[str, list[float]] = {way: [] for way in paths}
    for _ in range(N_TIMES):
        for way, path in paths.items():
            patches = [Patch(kept, layer, at[:-1], vectors[layer], path) for layer in range(N_LAYERS)]
            started = time.process_time()
            patcher.finish(patches, Patching().batch_tokens)
            found[way].append(time.process_time() - started)
    return {way: min(seconds) for way, seconds in found.items()}


def measure_naive(
    model: Any, ids: list[int], component: str, at: list[int], vectors: torch.Tensor, chosen: list[tuple[int, int, int]]
) -> tuple[float, torch.Tensor]:
    def patch(layer: int, place: int, head: int) -> torch.Tensor:
        vector = vectors[layer, place, head] if component == "z" else vectors[layer, place]
        return hooked_patch(model, ids, component, layer, at[place], vector, head)

    started = time.process_time()
    logits = torch.stack([patch(*each) for each in chosen])
    return (time.process_time() - started) / len(chosen) * len(patches(component, len(ids))), logits


def measure_ours(
    model: Any, ids: list[int], component: str, at: list[int], vectors: torch.Tensor, chosen: list[tuple[int, int, int]]
) -> tuple[float, torch.Tensor]:
    patcher = Patcher(model)
    started = time.process_time()
    logits = patcher.logits(patcher.patch(patcher.keep(ids, at), component, vectors, Patching().batch_tokens))
    seconds = time.process_time() - started
    return seconds, torch.stack(
        [logits[layer, place, head] if component == "z" else logits[layer, place] for layer, place, head in chosen]
    )


def measure_transformer_lens(
    model: Any, ids: list[int], component: str, at: list[int], vectors: torch.Tensor, chosen: list[tuple[int, int, int]]
) -> tuple[float, torch.Tensor]:
    from transformer_lens import patching

    from transformer_lens_model import bridge  # tests/

    lens = bridge(model)
    axes = ["layer", "pos", "head"] if component == "z" else ["layer", "pos"]
    index = pd.DataFrame([(layer, at[place], head)[: len(axes)] for layer, place, head in chosen], columns=axes)
    cache = {}
    for layer in range(N_LAYERS):
        whole = torch.zeros(1, len(ids), *vectors.shape[2:])
        whole[0, at] = vectors[layer]
        cache[f"blocks.{layer}.{'attn.hook_z' if component == 'z' else 'hook_resid_pre'}"] = whole
    setter = patching.layer_pos_head_vector_patch_setter if component == "z" else patching.layer_pos_patch_setter
    logits: list[torch.Tensor] = []

    def metric(found: torch.Tensor) -> torch.Tensor:
        logits.append(found[0, -1].clone())
        return logits[-1][0]

    def run(rows: pd.DataFrame) -> None:
        with torch.no_grad():
            patching.generic_activation_patch(
                lens, torch.tensor([ids]), cache, metric, setter, component, index_df=rows
            )

    started = time.process_time()
    run(index)
    seconds = (time.process_time() - started) / len(chosen) * len(patches(component, len(ids)))
    return seconds, torch.stack(logits)


MEASUREMENTS = {"naive": measure_naive, "transformer_lens": measure_transformer_lens, "ours": measure_ours}


# ---- the least work, in multiplications and additions


def avoidable_share(component: str, n_tokens: int) -> float:
    """Work that no way can avoid, over that of one whole forward pass a patch."""
    query, key_value = 2 * D_MODEL * N_HEADS * D_HEAD, 4 * D_MODEL * N_KV_HEADS * D_HEAD  # a token
    after = query + 6 * D_MODEL * D_MLP  # o_proj and MLP
    visible = 4 * N_HEADS * D_HEAD  # a query and a key
    unembedding = 2 * D_MODEL * N_VOCABULARY

    def layer(n: int) -> int:
        """The last n tokens, which see all tokens before them."""
        return n * (query + key_value + after) + visible * sum(range(n_tokens - n + 1, n_tokens + 1))

    def last_layer(n: int) -> int:
        return n * key_value + query + after + visible * n_tokens

    at, every = positions(component, n_tokens), patches(component, n_tokens)
    naive = len(every) * (N_LAYERS * layer(n_tokens) + unembedding)
    least = (N_LAYERS - 1) * layer(n_tokens) + last_layer(n_tokens) + len(every) * unembedding
    for joined, place, _ in every:
        first = joined + (component == "z")
        if component == "z":
            least += after  # what follows the patched head in its own layer
        if first < N_LAYERS:
            n = n_tokens - at[place]
            least += (N_LAYERS - 1 - first) * layer(n) + last_layer(n)
    return least / naive


# ---- all measurements


def in_a_process(*arguments: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(tokens: list[int], components: list[str], n_measured: int | None) -> None:
    ways = [way for way in WAYS if way != "transformer_lens" or find_spec("transformer_lens")]
    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as processes:
        cases = {
            (n_tokens, component): {
                way: processes.submit(
                    in_a_process, way, component, n_tokens, n_measured or (10 if n_tokens <= 1024 else 5)
                )
                for way in ways
            }
            for n_tokens in tokens
            for component in components
        }
        for (n_tokens, component), measuring in cases.items():
            found = {way: measurement.result() for way, measurement in measuring.items()}
            for way in ways[1:]:
                error = np.abs(np.subtract(found[way]["logits"], found["naive"]["logits"])).max()
                if error > 1e-3:
                    raise SystemExit(
                        f"{way}, {component}, {n_tokens} tokens: logits differ from naive's by {error:.2g}"
                    )
            seconds = {way: result["seconds"] for way, result in found.items()}
            seconds["limit"] = seconds["naive"] * avoidable_share(component, n_tokens)
            for way in ("limit", *ways):
                ratio = seconds["naive"] / seconds[way]
                rows.append((n_tokens, component, way, round(seconds[way], 2), round(ratio, 2), None))
                print(*rows[-1], sep="\t", flush=True)
            _write(rows)
    for n_tokens in tokens:  # one at a time, on cores that nothing else of this uses
        seconds = in_a_process("path", "resid_pre", n_tokens, N_TIMES)
        for way, taken in seconds.items():
            ratio = round(taken / seconds["ordinary"], 2)
            rows.append((n_tokens, f"resid_pre, {RANGE} tokens and probe", way, round(taken, 2), None, ratio))
            print(*rows[-1], sep="\t", flush=True)
        _write(rows)


def _write(rows: list[tuple[Any, ...]]) -> None:
    with whole_file(OUTPUT) as partial:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(partial, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--components", nargs="+", default=list(COMPONENTS), choices=COMPONENTS)
    parser.add_argument("--patches", type=int, help="that the slow ways are measured on")
    parser.add_argument("--measure", nargs=4, metavar=("WAY", "COMPONENT", "TOKENS", "PATCHES"))
    given = parser.parse_args()
    if given.measure:
        way, component, n_tokens, n_measured = given.measure
        is_path = way == "path"
        print(
            json.dumps(
                measure_path(int(n_tokens)) if is_path else measure(way, component, int(n_tokens), int(n_measured))
            )
        )
    else:
        main(given.tokens, given.components, given.patches)

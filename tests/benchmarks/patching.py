"""Time to patch every layer at a probe's tokens, compared with slower ways and with the least possible.

    make bench-patching        writes results/benchmarks/patching.csv

Every measurement has its own process. The models have the sizes of R1-Distill-Qwen-1.5B and of Llama-3.2-1B, with 8
layers each, random weights and float32. Ways:

naive             one whole forward pass per patch, with hooks, and only the last token's logits
transformer_lens  TransformerLens' own generic_activation_patch; left out if it is not installed
ours              r2a.patching.patcher, including the run that patches restart from
limit             naive's seconds times the share of its arithmetic that no way can avoid: the kept run and, for each
                  patch, the tokens from its position on, from its layer on; in the last layer, only the queries and
                  MLP of the last token

Below these, the same run of Qwen2 is patched in every layer at the end of the reasoning, RANGE tokens and the probe:
without restriction (`ordinary`), and so that the answer's tokens see the patch by only ten heads (`path`, path
patching). Both run in one process, in turn, and the fastest of three counts; ratio_to_ordinary should stay below 1.3.

The first two ways are measured on five patches spread over all of them, and multiplied; above 1024 tokens on three,
since every patch takes as long as another. The vectors to insert are at hand, as in a study. All ways must give the
same logits, or the benchmark fails.

Every process has one thread and reports its CPU seconds, which equal wall time on an idle machine. The ways are
measured one at a time and in turn, ROUNDS times, and the fastest of each counts, so the ratios also hold on a machine
that others use.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from hooked_patching import hooked_patch
from r2a.patching.patcher import Patcher
from r2a.patching.restarts import Patch, PatchPath
from r2a.patching.runs import CPU_BATCH_TOKENS
from r2a.store import whole_file


class Sizes(NamedTuple):
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    n_vocabulary: int


FAMILIES = {
    "qwen2": Sizes(8, 12, 2, 128, 1536, 8960, 151_936),
    "llama": Sizes(8, 32, 8, 64, 2048, 8192, 128_256),
}
TOKENS = (512, 1024, 2048)
COMPONENTS = ("resid_pre", "z")
WAYS = ("naive", "transformer_lens", "ours")
OUTPUT = Path("results/benchmarks/patching.csv")
ROUNDS = 2
RANGE, N_TOP_HEADS, N_TIMES = 50, 10, 3
COLUMNS = ["family", "tokens", "component", "way", "seconds", "ratio_to_naive", "ratio_to_limit", "ratio_to_ordinary"]


def positions(component: str, n_tokens: int) -> list[int]:
    """The probe's six tokens, </think> and the last token; for heads, only the probe's fourth token."""
    first = int(0.9 * n_tokens)
    return [*range(first, first + 7), n_tokens - 1] if component == "resid_pre" else [first + 3]


def patches(sizes: Sizes, component: str, n_tokens: int) -> list[tuple[int, int, int]]:
    """Every patch as (layer, index of the position, head)."""
    heads = range(sizes.n_heads if component == "z" else 1)
    places = range(len(positions(component, n_tokens)))
    return [(layer, place, head) for layer in range(sizes.n_layers) for place in places for head in heads]


def some_patches(sizes: Sizes, component: str, n_tokens: int, n_measured: int) -> list[tuple[int, int, int]]:
    every = patches(sizes, component, n_tokens)
    return [every[k] for k in np.linspace(0, len(every) - 1, n_measured).astype(int)]


# ---- one measurement, in its own process


def random_model(family: str) -> Any:
    torch.manual_seed(0)
    sizes = FAMILIES[family]
    config = CONFIG_MAPPING[family](
        vocab_size=sizes.n_vocabulary, hidden_size=sizes.d_model, intermediate_size=sizes.d_mlp,
        num_hidden_layers=sizes.n_layers, num_attention_heads=sizes.n_heads, num_key_value_heads=sizes.n_kv_heads,
        max_position_embeddings=131_072, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        rms_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()


def measure(family: str, way: str, component: str, n_tokens: int, n_measured: int) -> dict[str, Any]:
    """Seconds for all patches, and the logits of the vocabulary's first tokens under the patches that were measured."""
    model, sizes = random_model(family), FAMILIES[family]
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(sizes.n_vocabulary, (n_tokens,), generator=random).tolist()
    at, chosen = positions(component, n_tokens), some_patches(sizes, component, n_tokens, n_measured)
    widths = (sizes.n_heads, sizes.d_head) if component == "z" else (sizes.d_model,)
    vectors = 0.1 * torch.randn(sizes.n_layers, len(at), *widths, generator=random)
    model(torch.tensor([ids[:64]]))  # takes the one-time costs of a first call
    seconds, logits = MEASUREMENTS[way](model, ids, component, at, vectors, chosen)
    if way != "ours":
        seconds *= len(patches(sizes, component, n_tokens)) / len(chosen)
    return {"seconds": seconds, "logits": logits[:, :64].tolist()}


def measure_path(family: str, n_tokens: int) -> dict[str, float]:
    """CPU seconds of an ordinary and a path patch in every layer, by way."""
    model, sizes = random_model(family), FAMILIES[family]
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(sizes.n_vocabulary, (n_tokens,), generator=random).tolist()
    *probe, final = positions("resid_pre", n_tokens)
    at = (*range(probe[0] - RANGE, probe[-1]), final)
    patcher = Patcher(model)
    kept = patcher.keep(ids, at, path_start=probe[-1] + 1)
    heads = torch.zeros(sizes.n_layers, sizes.n_heads, dtype=torch.bool)
    heads.view(-1)[torch.randperm(heads.numel(), generator=random)[:N_TOP_HEADS]] = True
    vectors = 0.1 * torch.randn(sizes.n_layers, len(at) - 1, sizes.d_model, generator=random)
    paths = {"ordinary": None, "path": PatchPath(heads, torch.ones(sizes.n_layers, dtype=torch.bool))}
    found: dict[str, list[float]] = {way: [] for way in paths}
    for _ in range(N_TIMES):
        for way, path in paths.items():
            whole = [Patch(kept, layer, at[:-1], vectors[layer], path) for layer in range(sizes.n_layers)]
            started = time.process_time()
            patcher.finish(whole, CPU_BATCH_TOKENS)
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
    return time.process_time() - started, logits


def measure_ours(
    model: Any, ids: list[int], component: str, at: list[int], vectors: torch.Tensor, chosen: list[tuple[int, int, int]]
) -> tuple[float, torch.Tensor]:
    patcher = Patcher(model)
    started = time.process_time()
    logits = patcher.logits(patcher.patch(patcher.keep(ids, at), component, vectors, CPU_BATCH_TOKENS))
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
    for layer in range(len(vectors)):
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
    return time.process_time() - started, torch.stack(logits)


MEASUREMENTS = {"naive": measure_naive, "transformer_lens": measure_transformer_lens, "ours": measure_ours}


# ---- the least work, in multiplications and additions


def avoidable_share(sizes: Sizes, component: str, n_tokens: int) -> float:
    """The work that no way can avoid, divided by that of one whole forward pass per patch."""
    query = 2 * sizes.d_model * sizes.n_heads * sizes.d_head  # a token
    key_value = 4 * sizes.d_model * sizes.n_kv_heads * sizes.d_head
    after = query + 6 * sizes.d_model * sizes.d_mlp  # o_proj and MLP
    visible = 4 * sizes.n_heads * sizes.d_head  # a query and a key
    unembedding = 2 * sizes.d_model * sizes.n_vocabulary

    def layer(n: int) -> int:
        """The last n tokens, which see all tokens before them."""
        return n * (query + key_value + after) + visible * sum(range(n_tokens - n + 1, n_tokens + 1))

    def last_layer(n: int) -> int:
        return n * key_value + query + after + visible * n_tokens

    at, every = positions(component, n_tokens), patches(sizes, component, n_tokens)
    naive = len(every) * (sizes.n_layers * layer(n_tokens) + unembedding)
    least = (sizes.n_layers - 1) * layer(n_tokens) + last_layer(n_tokens) + len(every) * unembedding
    for joined, place, _ in every:
        first = joined + (component == "z")
        if component == "z":
            least += after  # everything after the patched head in its own layer
        if first < sizes.n_layers:
            n = n_tokens - at[place]
            least += (sizes.n_layers - 1 - first) * layer(n) + last_layer(n)
    return least / naive


# ---- all measurements


def in_a_process(*arguments: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(
    family: str, component: str, n_tokens: int, ways: Sequence[str], n_measured: int | None
) -> dict[str, dict[str, Any]]:
    """The fastest measurement of each way. Exits if their logits differ."""
    fastest: dict[str, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        for way in ways:
            found = in_a_process(family, way, component, n_tokens, n_measured or (5 if n_tokens <= 1024 else 3))
            if way not in fastest or found["seconds"] < fastest[way]["seconds"]:
                fastest[way] = found
    for way in ways:
        error = np.abs(np.subtract(fastest[way]["logits"], fastest["naive"]["logits"])).max()
        if error > 1e-3:
            raise SystemExit(f"{family}, {way}, {component}, {n_tokens} tokens: logits are {error:.2g} off naive's")
    return fastest


def main(
    families: Sequence[str],
    tokens: Sequence[int],
    components: Sequence[str],
    ways: Sequence[str],
    n_measured: int | None,
) -> None:
    ways = [way for way in ways if way != "transformer_lens" or find_spec("transformer_lens")]
    rows: list[tuple[Any, ...]] = []
    for family, n_tokens, component in product(families, tokens, components):
        found = in_turn(family, component, n_tokens, ways, n_measured)
        seconds = {way: result["seconds"] for way, result in found.items()}
        seconds["limit"] = seconds["naive"] * avoidable_share(FAMILIES[family], component, n_tokens)
        for way in ("limit", *ways):
            ratios = round(seconds["naive"] / seconds[way], 2), round(seconds["limit"] / seconds[way], 2)
            rows.append((family, n_tokens, component, way, round(seconds[way], 2), *ratios, None))
            print(*rows[-1], sep="\t", flush=True)
        _write(rows)
    for n_tokens in tokens if "qwen2" in families else ():
        found = in_a_process("qwen2", "path", "resid_pre", n_tokens, N_TIMES)
        for way, taken in found.items():
            ratio = round(taken / found["ordinary"], 2)
            component = f"resid_pre, {RANGE} tokens and probe"
            rows.append(("qwen2", n_tokens, component, way, round(taken, 2), None, None, ratio))
            print(*rows[-1], sep="\t", flush=True)
        _write(rows)


def _write(rows: list[tuple[Any, ...]]) -> None:
    with whole_file(OUTPUT) as partial:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(partial, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--components", nargs="+", default=list(COMPONENTS), choices=COMPONENTS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="naive among them")
    parser.add_argument("--patches", type=int, help="that the slow ways are measured on")
    parser.add_argument("--measure", nargs=5, metavar=("FAMILY", "WAY", "COMPONENT", "TOKENS", "PATCHES"))
    given = parser.parse_args()
    if given.measure:
        family, way, component, n_tokens, n_measured = given.measure
        if way == "path":
            print(json.dumps(measure_path(family, int(n_tokens))))
        else:
            print(json.dumps(measure(family, way, component, int(n_tokens), int(n_measured))))
    else:
        main(given.families, given.tokens, given.components, given.ways, given.patches)

"""Whether reruns and patches are faster than the naive way for every family of decoders.

    make bench-every-family      writes results/benchmarks/every_family.csv, prints what is slower

Models with random weights of every family of tests/families.py, but wider (SIZES), on N_TOKENS tokens, float32, one
thread. Both ways in one process, in turn; of each the fastest of ROUNDS counts.

attention   a rerun with every quantity, against transformers' eager attention that hands out its whole matrices
patching    one position in every layer, against as many whole passes with a hook (measured on two, and multiplied)
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from families import FAMILIES, random_ids, tiny_model
from r2a.attention.rerun import rerun_batch
from r2a.models.attention import SEAM, attention_kernel
from r2a.models.decoder import Decoder, follow_vllm
from r2a.patching.patcher import Patcher
from r2a.store import whole_file
from r2a.traces import Bounds

SIZES = {"hidden_size": 256, "intermediate_size": 768, "head_dim": 64, "max_position_embeddings": 2048}
LATENT_SIZES = {"qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 64, "head_dim": 32}
N_TOKENS, POSITION, ROUNDS = 1024, 900, 3
OUTPUT = Path("results/benchmarks/every_family.csv")


def fastest(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """CPU seconds of each way."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            started = time.process_time()
            run()
            seconds[way].append(time.process_time() - started)
    return {way: min(found) for way, found in seconds.items()}


def wider(family: str) -> Any:
    """A family's model of SIZES, and with the settings that must fit them."""
    own = FAMILIES[family]
    sizes = SIZES | (LATENT_SIZES if "qk_nope_head_dim" in own else {})
    if "n_embd" in own:
        sizes |= {"n_embd": SIZES["hidden_size"], "n_positions": SIZES["max_position_embeddings"]}
    if family == "falcon_h1":
        sizes |= {"mamba_d_ssm": 128}
    if family == "granitemoehybrid":
        sizes |= {"mamba_d_head": 64}
    if family == "phi3+longrope":
        factors = {"short_factor": [1.0] * 32, "long_factor": [1.0 + k for k in range(32)]}
        sizes |= {"rope_parameters": own["rope_parameters"] | factors}
    model = tiny_model(family, SEAM, **sizes).requires_grad_(False)
    follow_vllm(Decoder(model))
    return model


def attention_seconds(model: Any, ids: list[int]) -> dict[str, float]:
    bounds = Bounds(0, 1, 30, 31, int(0.85 * len(ids)), int(0.85 * len(ids)) + 1, len(ids) - 1, len(ids))
    decoder = Decoder(model)

    def naive() -> None:
        with attention_kernel(model, "eager"):
            decoder.body(torch.tensor([ids]), use_cache=False, output_attentions=True)

    return fastest({"ours": lambda: rerun_batch(model, [ids], [bounds]), "naive": naive})


def patching_seconds(model: Any, ids: list[int]) -> dict[str, float]:
    patcher = Patcher(model)
    decoder, vector = patcher.decoder, torch.zeros(1, patcher.decoder.d_model)
    vectors = vector.expand(decoder.n_layers, 1, -1)

    def ours() -> None:
        patcher.logits(patcher.patch(patcher.keep(ids, [POSITION]), "resid_pre", vectors, 8 * len(ids)))

    def put(entering: torch.Tensor) -> torch.Tensor:
        changed = entering.clone()
        changed[0, POSITION] = vector
        return changed

    def naive() -> None:
        with attention_kernel(model, Decoder(model).own_attention):
            for layer in (0, decoder.n_layers - 1):
                with patcher.hook_points.hooked(layer, "resid_pre", put):
                    model(torch.tensor([ids]), use_cache=False, logits_to_keep=1)

    seconds = fastest({"ours": ours, "naive": naive})
    return seconds | {"naive": seconds["naive"] * decoder.n_layers / 2}


def main(families: list[str]) -> None:
    torch.set_num_threads(1)
    rows = []
    for family in families:
        with torch.no_grad():
            model, ids = wider(family), random_ids(N_TOKENS)
            stages = {"attention": attention_seconds}
            if not Decoder(model).apart:
                stages["patching"] = patching_seconds
            for stage, measure in stages.items():
                found = measure(model, ids)
                ratio = found["ours"] / found["naive"]
                rows.append({"family": family, "stage": stage, **found, "to_naive": ratio})
                print(family, stage, *(f"{value:.3f}" for value in (*found.values(), ratio)), sep="\t", flush=True)
    table = pd.DataFrame(rows)
    with whole_file(OUTPUT) as partial:
        table.round(4).to_csv(partial, index=False)
    slower = table[table["to_naive"] > 1]
    print(slower.to_string(index=False) if len(slower) else "no family is slower than the naive way")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    main(parser.parse_args().families)

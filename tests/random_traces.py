"""A random model whose tokens are bytes, with its manifest and traces."""

from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from families import tiny_model
from r2a.models import marks_of, read_manifest, resolve_model
from r2a.store import write_parquet
from r2a.traces import segment_bounds

REASONINGS = ["One is 1. Wait, two is 2.\nCheck: 2!", "Fine.", "Hmm. Hmm. Go on and on and on", ""]


def write_random_traces(folder: Path, family: str | None = None) -> None:
    """Write the model, manifest.json, traces.parquet (greedy: four valid, one invalid) and sampled.parquet (one).

    family: of families.FAMILIES; by default a Qwen2 of three layers.
    """
    marks = ["<bos>", "<eos>", "<think>", "</think>"]
    alphabet = {token: k for k, token in enumerate([*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bytes_alone = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    bytes_alone.add_special_tokens(marks)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_alone, bos_token="<bos>", eos_token="<eos>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, eos_token_id=1, bos_token_id=0,
    )  # fmt: skip
    model = tiny_model(family, vocab_size=len(tokenizer)) if family else Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    source = {"path": str(folder), "hub": None, "revision": None}
    settings = {"model": "random", "dtype": "float32", "source": source, "endpoint": None, "prompt": "raw"}
    resolve_model(folder / "manifest.json", settings)

    rows = []
    for number, reasoning in enumerate([*REASONINGS, "Sampled.", "Not valid."]):
        prompt = tokenizer.encode("<bos>What is it?<think>", add_special_tokens=False)
        completion = tokenizer.encode(f"{reasoning}</think>It is it.<eos>", add_special_tokens=False)
        rows.append(
            {
                "uid": f"text-{number}", "condition": "with_reasoning", "sample": 0,
                "decoding": "sampled" if reasoning == "Sampled." else "greedy",
                "prompt_token_ids": prompt, "completion_token_ids": completion,
                "bounds": segment_bounds(prompt, completion, marks_of(folder)), "n_forced_tokens": 0,
                "is_valid": reasoning != "Not valid.",
            }
        )  # fmt: skip
    origin = {"parameters_hash": "0", "models": read_manifest(folder / "manifest.json")["models"]}
    table = pd.DataFrame(rows)
    is_sampled = table["decoding"] == "sampled"
    write_parquet(folder / "traces.parquet", table[~is_sampled], origin)
    write_parquet(folder / "sampled.parquet", table[is_sampled], origin)

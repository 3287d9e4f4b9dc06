"""vLLM and the rerun predict the same tokens, family by family; each family in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from families import LONGROPE, random_ids, tiny_model
from r2a.engine import start_engine
from r2a.models.attention import SEAM
from r2a.models.decoder import Decoder, follow_vllm

# vLLM's CPU attention supports heads of 32 and more
FAMILIES = [
    "llama",
    "gpt_oss",
    "gemma3_text",
    "mistral+window",
    "granite",
    "glm4",
    "exaone4",
    "qwen3_moe",
    "qwen3",
    "phi3+longrope",
    "falcon_h1",
    "nemotron_h",
    "granitemoehybrid",
]
SIZES = {"head_dim": 32, "hidden_size": 128}
OF_FAMILY = {  # what follows from these sizes
    "granitemoehybrid": {"mamba_d_head": 32},
    "phi3+longrope": {
        "rope_parameters": LONGROPE | {"short_factor": [1.0] * 16, "long_factor": [1.0 + k for k in range(16)]}
    },
}
LENGTHS = (20, 30, 60, 90)  # within a window and beyond it, below longrope's switch, across it and above it


def argmax_share(family: str, folder: Path) -> float:
    """The share of vLLM's greedy tokens that are the rerun's arg-max."""
    model = tiny_model(family, SEAM, **SIZES, **OF_FAMILY.get(family, {}))
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained(folder)
    decoder = Decoder(model)
    follow_vllm(decoder)
    prompts = [random_ids(n, seed=n) for n in LENGTHS]
    engine = start_engine(str(folder), "float32", 160, {"gpu": 0, "cpu_cache_mb": 64}, skip_tokenizer_init=True)
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=16, min_tokens=16, detokenize=False)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    agreeing = []
    for ids, output in zip(prompts, outputs, strict=True):
        generated = list(output.outputs[0].token_ids)
        with torch.no_grad():
            predicted = decoder.logits(decoder.run(torch.tensor([ids + generated]))[0]).argmax(-1)
        agreeing += [a == b for a, b in zip(predicted[len(ids) - 1 : -1].tolist(), generated, strict=True)]
    return sum(agreeing) / len(agreeing)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_generates_what_the_rerun_predicts(family, tmp_path):
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, __file__, family, str(tmp_path)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) >= 0.97  # near-ties may fall either way


if __name__ == "__main__":
    print(json.dumps(argmax_share(sys.argv[1], Path(sys.argv[2]))))

"""vLLM and the rerun predict the same tokens, family by family; each family in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers

from families import LONGROPE, random_ids, tiny_model
from r2a.engine import gpus_by_default, start_engine
from r2a.models.attention import SEAM
from r2a.models.decoder import Decoder, follow_vllm

# vLLM's CPU attention supports heads of 32 and more
FAMILIES = [
    "llama", "granite", "exaone4", "olmo2", "seed_oss", "qwen3_moe", "gpt_oss", "gemma3_text",
    "mistral+window", "ministral3", "nanochat", "cohere2", "phi3+longrope", "falcon_h1", "nemotron_h",
    "granitemoehybrid", "lfm2",
]  # fmt: skip
SIZES = {"head_dim": 32, "hidden_size": 128}
OF_FAMILY = {  # what follows from these sizes
    "granitemoehybrid": {"mamba_d_head": 32},
    "phi3+longrope": {
        "rope_parameters": LONGROPE | {"short_factor": [1.0] * 16, "long_factor": [1.0 + k for k in range(16)]}
    },
    "lfm2": {  # settings of published configurations that vLLM reads
        "conv_dim": 128, "conv_dim_out": 128, "block_dim": 128, "block_ff_dim": 96, "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False, "block_norm_eps": 1e-5,
    },
}  # fmt: skip
PROMPTS = [random_ids(n, seed=n) for n in (20, 30, 60, 90)]  # around windows and the switch of longrope


def generate(folder: str) -> list[list[int]]:
    """The 16 tokens with which vLLM greedily continues each prompt."""
    resources = {"gpu": gpus_by_default(), "gpu_memory_percent": 50, "cpu_cache_mb": 64}
    engine = start_engine(folder, "float32", 160, resources, skip_tokenizer_init=True)
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=16, min_tokens=16, detokenize=False)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in PROMPTS], sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.slow
@pytest.mark.skipif(gpus_by_default() > torch.cuda.device_count(), reason="vLLM's build here needs an NVIDIA GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_generates_what_the_rerun_predicts(family, tmp_path):
    model = tiny_model(family, SEAM, **SIZES, **OF_FAMILY.get(family, {}))
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained(tmp_path)
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    decoder = Decoder(model)
    follow_vllm(decoder)
    agreeing = []
    for ids, generated in zip(PROMPTS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        with torch.no_grad():
            predicted = decoder.logits(decoder.run(torch.tensor([ids + generated]))[0]).argmax(-1)
        agreeing += [a == b for a, b in zip(predicted[len(ids) - 1 : -1].tolist(), generated, strict=True)]
    assert sum(agreeing) / len(agreeing) >= 0.97  # near-ties may fall either way


if __name__ == "__main__":
    print(json.dumps(generate(sys.argv[1])))

"""Tiny models with random weights, of the decoder families that people use as reasoning models."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

N_VOCABULARY, N_LAYERS, N_HEADS, D_MODEL, WINDOW = 560, 4, 4, 64, 40
COMMON = {
    "vocab_size": N_VOCABULARY, "hidden_size": D_MODEL, "intermediate_size": 96, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    "initializer_range": 0.15, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip
LATENT = {  # multi-head latent attention: values are narrower than keys
    "kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "num_key_value_heads": 4, "head_dim": 8,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
ROUTED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1, "first_k_dense_replace": 1,
}  # fmt: skip
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4, "shared_expert_intermediate_size": 48,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_n_groups": 1, "mamba_chunk_size": 32,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8, "long_factor": [1.0 + k for k in range(8)],
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
    "llama_4_scaling_beta": 0.5,
}  # fmt: skip

BY_TURNS = ["sliding_attention", "full_attention"] * 2
MOSTLY_SPARSE = ["dense", "sparse", "sparse", "sparse"]

PER_LAYER = {"vocab_size_per_layer_input": N_VOCABULARY, "hidden_size_per_layer_input": 16}  # further embeddings

# what differs from COMMON, by family; `family+what` is a variant of a family
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {"sliding_window": None},
    "seed_oss": {},
    "starcoder2": {"sliding_window": None},
    "ministral3": {"sliding_window": None, "rope_parameters": YARN},
    "qwen3_moe": {**EXPERTS},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 48},
    "mixtral": {"num_local_experts": 4},
    "phimoe": {"num_local_experts": 4},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 48},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "phi3": {"sliding_window": None},
    "olmo2": {},
    "glm4": {},
    "glm4_moe": {**ROUTED},
    "smollm3": {"use_sliding_window": False},
    "hunyuan_v1_dense": {},
    "exaone4": {"sliding_window": None, "sliding_window_pattern": 4, "layer_types": ["full_attention"] * N_LAYERS},
    "minimax_m2": {**LOCAL},
    "granite": {
        "attention_multiplier": 0.2, "residual_multiplier": 0.22, "logits_scaling": 8.0, "embedding_multiplier": 12.0
    },
    "deepseek_v2": {**ROUTED, **LATENT},
    "deepseek_v3": {**ROUTED, **LATENT},
    "glm4_moe_lite": {**ROUTED, **LATENT},
    "stablelm": {},
    "nemotron": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_positions": 512},
    "phi": {},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "gemma4_text": {**PER_LAYER, "sliding_window": WINDOW},
    "olmo3": {"sliding_window": WINDOW},
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"sliding_window": WINDOW, "tie_word_embeddings": True},
    "gpt_oss": {**LOCAL, "sliding_window": WINDOW},
    "llama4_text": {
        "num_local_experts": 2, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 96, "attention_chunk_size": 48
    },
    "granitemoe": {**LOCAL},
    "dots1": {**ROUTED},
    "afmoe": {**EXPERTS, "num_shared_experts": 1, "num_dense_layers": 1, "sliding_window": WINDOW},
    "laguna": {
        **EXPERTS, "shared_expert_intermediate_size": 48, "sliding_window": WINDOW, "layer_types": BY_TURNS,
        "mlp_layer_types": MOSTLY_SPARSE, "num_attention_heads_per_layer": [N_HEADS] * N_LAYERS,
    },
    "mimo_v2_flash": {  # sinks in windowed layers alone, and values narrower than keys
        **ROUTED, "sliding_window": WINDOW, "layer_types": BY_TURNS, "mlp_layer_types": MOSTLY_SPARSE, "v_head_dim": 8
    },
    "granite_swa": {"sliding_window": WINDOW, "layer_types": BY_TURNS},
    "exaone_moe": {
        **ROUTED, **EXPERTS, "num_shared_experts": 1, "sliding_window": WINDOW, "layer_types": BY_TURNS,
        "mlp_layer_types": MOSTLY_SPARSE,
    },
    "apertus": {},
    "nanochat": {},  # one norm serves the embedding and the last layer
    "opt": {"word_embed_proj_dim": D_MODEL, "ffn_dim": 96},  # no module for the MLP
    "gemma3n_text": {
        **PER_LAYER, "sliding_window": WINDOW, "layer_types": BY_TURNS, "num_kv_shared_layers": 1, "laurel_rank": 8,
        "intermediate_size": [96] * N_LAYERS, "activation_sparsity_pattern": [0.0] * N_LAYERS,
    },
    "gemma4_text+shared": {
        **PER_LAYER, "sliding_window": WINDOW, "layer_types": BY_TURNS, "num_kv_shared_layers": 2
    },
    "gemma4_text+moe": {  # an MLP and experts side by side
        **PER_LAYER, "sliding_window": WINDOW, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
        "moe_intermediate_size": 48,
    },
    "granitemoeshared": {**LOCAL, "shared_intermediate_size": 48},
    "kimi_linear": {
        **ROUTED, **LATENT, "num_experts": 4,
        "linear_attn_config": {
            "kda_layers": [1, 3], "full_attn_layers": [2, 4], "num_heads": 4, "head_dim": 16,
            "short_conv_kernel_size": 4,
        },
    },
    "qwen3_next": {**EXPERTS, **DELTA},
    "qwen3_5_text": {**DELTA},
    "granitemoehybrid": {
        **MAMBA, **LOCAL, "shared_intermediate_size": 48, "layer_types": ["mamba", "attention"] * 2,
        "layers_block_type": ["mamba", "attention"] * 2,
    },
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 128},
    "nemotron_h": {
        "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1, "conv_kernel": 4,
        "chunk_size": 32, "layers_block_type": ["mamba", "attention", "mlp", "attention"], **ROUTED,
        "moe_shared_expert_intermediate_size": 48,
    },
    "minimax": {"num_local_experts": 4, "layer_types": ["linear_attention", "full_attention"] * 2, "block_size": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "tie_word_embeddings": True},
    "mistral+window": {"sliding_window": WINDOW},
    "phi3+window": {"sliding_window": WINDOW},
    "starcoder2+window": {"sliding_window": WINDOW},
    "exaone4+window": {"sliding_window": WINDOW, "sliding_window_pattern": 4},
    "phi3+longrope": {
        "sliding_window": None, "rope_parameters": LONGROPE, "original_max_position_embeddings": 64
    },
    "llama+dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 64
    },
}  # fmt: skip


def tiny_model(family: str, attention: str = "eager", **more: Any) -> Any:
    """A model of the family, in float32 on the CPU; no parameter has its trivial initial value.

    family: of FAMILIES, or another type of model. more: additional settings of its configuration.
    """
    settings = COMMON | FAMILIES.get(family, {}) | more
    config = CONFIG_MAPPING[family.split("+")[0]](**settings)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not any(part in name for part in ("A_log", "dt_bias", ".D")):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
            elif parameter.ndim > 1 and not 0 < parameter.std() < 0.9:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=random))
    return model


def random_ids(n_tokens: int, seed: int = 0) -> list[int]:
    """Token ids other than special ones."""
    return torch.randint(2, N_VOCABULARY, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()

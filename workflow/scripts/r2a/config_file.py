"""What a model's config.json gives away before the model is loaded, or even downloaded.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# kinds of layers that carry no state from token to token outside of attention
STATELESS = {"full_attention", "sliding_attention", "chunked_attention", "attention", "mlp", "moe", "dense", "sparse"}
# what begins the names of settings of recurrent layers, where a configuration does not list its layers' kinds
RECURRENT = ("mamba_", "ssm_", "linear_num_", "conv_L_cache")


def read_config(path: str | None, hub: str | None = None, revision: str | None = None) -> dict[str, Any] | None:
    """The config.json of a local folder, or of a hub's model that is in the cache; None where there is none to read."""
    if path is None and hub is not None:
        home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
        cached = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{hub.replace('/', '--')}"
        named = cached / "refs" / (revision or "main")
        commit = named.read_text().strip() if named.is_file() else revision
        path = str(cached / "snapshots" / commit) if commit else None
    try:
        found = json.loads((Path(path or "") / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def recurrent_layers(config: Mapping[str, Any]) -> str:
    """The kinds of layers that carry a state from token to token; empty where there are none."""
    text = _text(config)
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(kinds, list):
        return ", ".join(sorted({str(kind) for kind in kinds} - STATELESS))
    return "recurrent" * any(name.startswith(RECURRENT) for name in text)


def no_restarts(config: Mapping[str, Any]) -> str:
    """Why runs of a model cannot be restarted in the middle, as patching and ablation do; empty where nothing tells."""
    text, kinds = _text(config), recurrent_layers(config)
    if kinds:
        return f"its layers of the kind {kinds} carry a state from token to token"
    if text.get("attn_temperature_tuning"):
        return "it scales queries by their place in the forward pass"
    return ""


def longrope_switch(config: Mapping[str, Any]) -> int | None:
    """The length beyond which a model takes longrope's factors for long texts; None where it never does."""
    text = _text(config)
    for name in ("rope_parameters", "rope_scaling"):
        rotary = text.get(name)
        if isinstance(rotary, Mapping) and (rotary.get("rope_type") or rotary.get("type")) in ("longrope", "su"):
            switch = rotary.get("original_max_position_embeddings", text.get("original_max_position_embeddings"))
            return switch if isinstance(switch, int) and text.get("max_position_embeddings", 0) > switch else None
    return None


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part on the language model, where there are several."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config

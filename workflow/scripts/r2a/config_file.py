"""What a model's config.json says before the model is loaded, or even downloaded.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# kinds of layers that carry no state from token to token outside of attention
STATELESS = {"full_attention", "sliding_attention", "chunked_attention", "attention", "mlp", "moe", "dense", "sparse"}
LONGROPE = ("longrope", "su")  # what configurations call it
# prefixes of the settings of recurrent layers, for configurations that do not list their layers' kinds
RECURRENT = ("mamba_", "ssm_", "linear_num_", "conv_L_cache")


def find_folder(path: str | None, hub: str | None = None, revision: str | None = None) -> Path | None:
    """A local folder, or the folder of a hub model in the cache; None if there is none."""
    if path is None and hub is not None:
        home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
        cached = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{hub.replace('/', '--')}"
        named = cached / "refs" / (revision or "main")
        commit = named.read_text().strip() if named.is_file() else revision
        path = str(cached / "snapshots" / commit) if commit else None
    return Path(path) if path and Path(path).is_dir() else None


def read_config(path: str | None, hub: str | None = None, revision: str | None = None) -> dict[str, Any] | None:
    """The config.json of a local folder, or of a hub model in the cache; None if there is none."""
    folder = find_folder(path, hub, revision)
    try:
        found = json.loads((folder / "config.json").read_text()) if folder else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def parameters_by_size(path: str | None, hub: str | None = None, revision: str | None = None) -> float:
    """About how many parameters a model has, from the size of its files or else from its name; 0 if neither tells."""
    folder = find_folder(path, hub, revision)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0
    if size:
        config = read_config(path, hub, revision) or {}
        stored = str(config.get("dtype") or config.get("torch_dtype") or _text(config).get("dtype"))
        return size / (4 if stored == "float32" else 2)
    said = re.findall(r"(\d+(?:\.\d+)?)(b|m)\b", str(hub or path).lower())
    return float(said[-1][0]) * {"b": 1e9, "m": 1e6}[said[-1][1]] if said else 0.0


def recurrent_layers(config: Mapping[str, Any]) -> str:
    """The kinds of layers that carry a state from token to token; empty if there are none."""
    text = _text(config)
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(kinds, list):
        return ", ".join(sorted({str(kind) for kind in kinds} - STATELESS))
    return "recurrent" * any(name.startswith(RECURRENT) for name in text)


def no_restarts(config: Mapping[str, Any]) -> str:
    """Why runs of a model cannot be restarted in the middle, for patching and ablation; empty if nothing forbids it."""
    text, kinds = _text(config), recurrent_layers(config)
    if kinds:
        return f"its layers of the kind {kinds} carry a state from token to token"
    if text.get("attn_temperature_tuning"):
        return "it scales queries by their place in the forward pass"
    return ""


def longrope_switch(config: Mapping[str, Any]) -> int | None:
    """The length beyond which a model uses longrope's factors for long texts; None if it never does."""
    text, rotary = _text(config), _rotary(config)
    if _rope_type(rotary) not in LONGROPE:
        return None
    switch = rotary.get("original_max_position_embeddings", text.get("original_max_position_embeddings"))
    return switch if isinstance(switch, int) and text.get("max_position_embeddings", 0) > switch else None


def unshared_rotation(config: Mapping[str, Any]) -> str:
    """The settings of length-dependent rotary factors that vLLM 0.32 or transformers does not read."""
    rotary, switch = _rotary(config), longrope_switch(config)
    unread: tuple[str, ...] = ("max_trained_positions",) if _rope_type(rotary) == "dynamic" else ()
    if _rope_type(rotary) in LONGROPE:
        unread = ("attention_factor", "short_mscale", "long_mscale")
        if switch and rotary.get("factor") != _text(config)["max_position_embeddings"] / switch:
            unread += ("factor",)
    return ", ".join(name for name in unread if rotary.get(name) is not None)


def _rotary(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of rotary positions, over all layers; empty if there are none."""
    found = (_text(config).get(name) for name in ("rope_parameters", "rope_scaling"))
    return next((rotary for rotary in found if isinstance(rotary, Mapping)), {})


def _rope_type(rotary: Mapping[str, Any]) -> Any:
    return rotary.get("rope_type") or rotary.get("type")


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration's part for the language model, if there are several parts."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config

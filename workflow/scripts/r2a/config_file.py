"""What a model's config.json says before the model is loaded, or even downloaded.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r2a.modeling import types_in_transformers, unlike_a_decoder

# transformers' mappings from the types of models that write text, from text alone and from text with images
LOADED = ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
ANSWERS = "answers"
TRIED = ("attention", "ablation", "patching", "sentences")  # the stages that check_model tries
RESTARTED = TRIED[1:]  # those that restart runs in the middle
# kinds of layers: with softmax attention; with an index that chooses the tokens attended to; others without a state
ATTENDING = {"full_attention", "sliding_attention", "chunked_attention", "attention", "hybrid", "hybrid_sliding"}
INDEXED = re.compile("indexed|sparse_attention|compressed|minimax_m3_sparse")
STATELESS = {"full_attention", "sliding_attention", "chunked_attention", "attention", "mlp", "moe", "dense", "sparse"}
# prefixes of the settings of such layers, for configurations that do not list their layers' kinds
INDEX_SETTINGS = ("index_topk", "index_n_heads", "sparse_attention_config")
RECURRENT_SETTINGS = ("mamba_", "ssm_", "linear_num_", "linear_attn_config", "conv_L_cache", "lru_width")
LONGROPE = ("longrope", "su")  # what configurations call it
# prefixes of the types whose head vLLM always takes from the embedding
TIED = ("cohere", "lfm2", "zamba2")
ROTARY_KINDS = {"default", "linear", "dynamic", "yarn", "llama3", "proportional", "axial", "mrope", "xdrope", *LONGROPE}
# the package that transformers needs to load weights quantized in this way
PACKAGES = {
    "awq": "gptqmodel", "gptq": "gptqmodel", "auto-round": "auto_round", "bitsandbytes": "bitsandbytes", "hqq": "hqq",
    "quark": "quark", "torchao": "torchao",
}  # fmt: skip


def find_folder(path: str | None, hub: str | None = None, revision: str | None = None) -> Path | None:
    """A local folder, or the folder of a hub model in the cache; None if there is none."""
    if path is None and hub is not None:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
        cache = os.path.expandvars(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or f"{home}/hub"))
        cached = Path(cache) / f"models--{hub.replace('/', '--')}"
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


def refused_stages(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Why stages will be refused for a model, as far as its configuration shows, and which ones; ("", ()) if none.

    resolve_model refuses ANSWERS, and with them the model; check_model refuses the others.
    """
    for why_not, stages in ((_no_decoder, (ANSWERS, *TRIED)), (_no_rerun, TRIED), (no_restarts, RESTARTED)):
        reason = why_not(config)
        if reason:
            return reason, stages
    return "", ()


def _no_decoder(config: Mapping[str, Any]) -> str:
    """Why a model cannot be studied at all; empty if nothing forbids it."""
    model_type, known = config.get("model_type"), types_in_transformers("CONFIG_MAPPING_NAMES")
    if config.get("is_encoder_decoder"):
        return f"{model_type} has an encoder"
    if "state_size" in config and "num_attention_heads" not in config:
        return f"{model_type} has no attention heads"
    return f"transformers does not know models of the type {model_type}" if known and model_type not in known else ""


def _no_rerun(config: Mapping[str, Any]) -> str:
    """Why no forward pass here equals that of generation; empty if nothing forbids it."""
    model_type, loaded = config.get("model_type"), [types_in_transformers(mapping) for mapping in LOADED]
    if all(loaded) and not any(model_type in types for types in loaded):
        return f"transformers does not load {model_type} as a language model, with or without images"
    quantized = config.get("quantization_config")
    package = PACKAGES.get(str(quantized.get("quant_method"))) if isinstance(quantized, Mapping) else None
    if package and importlib.util.find_spec(package) is None:
        return f"its weights are quantized, and {package}, with which transformers loads them, is not installed"
    text, kinds = _text(config), _kinds_of_layers(config)
    if len(set(text.get("num_attention_heads_per_layer") or [])) > 1:
        return "its layers have different numbers of heads"
    has_index = any(value and name.startswith(INDEX_SETTINGS) for name, value in text.items())
    if any(map(INDEXED.search, kinds)) or (has_index and not kinds):
        return "an index chooses which tokens its layers attend to"
    if kinds and not kinds & ATTENDING:
        return "none of its layers has softmax attention"
    return unlike_vllm(config) or unlike_a_decoder(str(text.get("model_type")))


def no_restarts(config: Mapping[str, Any]) -> str:
    """Why runs of a model cannot be restarted in the middle, for patching and ablation; empty if nothing forbids it."""
    kinds = recurrent_layers(config)
    if kinds:
        return f"its layers of the kind {kinds} carry a state from token to token"
    if _text(config).get("attn_temperature_tuning"):
        return "it scales queries by their place in the forward pass"
    return ""


def recurrent_layers(config: Mapping[str, Any]) -> str:
    """The kinds of layers that carry a state from token to token; empty if there are none."""
    kinds = _kinds_of_layers(config)
    if kinds:
        return ", ".join(sorted(kind for kind in kinds - STATELESS if not INDEXED.search(kind)))
    return "recurrent" * any(name.startswith(RECURRENT_SETTINGS) for name in _text(config))


def _kinds_of_layers(config: Mapping[str, Any]) -> set[str]:
    """What a configuration calls the kinds of its layers; empty if it does not list them."""
    text = _text(config)
    return set(map(str, text.get("layer_types") or text.get("layers_block_type") or ()))


def heads_in_words(config: Mapping[str, Any], n_gpus: int) -> str | None:
    """Why vLLM cannot split a model's attention over n_gpus GPUs; None if it can, or if that is unknown."""
    text = _text(config)
    n_heads = text.get("num_attention_heads")
    n_key_heads = text.get("num_key_value_heads") or n_heads
    if n_gpus <= 1 or not isinstance(n_heads, int) or not isinstance(n_key_heads, int):
        return None
    # key-value heads are split like the others, or each is held by equally many GPUs
    divisors = [n for n in range(1, n_heads + 1) if n_heads % n == 0]
    possible = [n for n in divisors if max(n, n_key_heads) % min(n, n_key_heads) == 0]
    if n_gpus in possible:
        return None
    return (
        f"vLLM cannot split {n_heads} attention heads and {n_key_heads} key-value heads over {n_gpus} GPUs; "
        f"take one of {', '.join(map(str, possible))}"
    )


def longrope_switch(config: Mapping[str, Any]) -> int | None:
    """The length beyond which a model uses longrope's factors for long texts; None if it never does."""
    text = _text(config)
    rotary = next((rotary for rotary in _rotaries(config) if _rope_type(rotary) in LONGROPE), None)
    if rotary is None:
        return None
    switch = text.get("original_max_position_embeddings", rotary.get("original_max_position_embeddings"))
    return switch if isinstance(switch, int) and text.get("max_position_embeddings", 0) > switch else None


def unlike_vllm(config: Mapping[str, Any]) -> str:
    """Why vLLM 0.32 computes something else than transformers; empty if nothing shows that it does."""
    is_untied = False in (config.get("tie_word_embeddings"), config.get("tie_embedding"))
    if is_untied and str(config.get("model_type")).startswith(TIED):
        return "vLLM takes the embedding for its head, and it has another head"
    rotaries = _rotaries(config)
    kinds = {str(_rope_type(rotary)) for rotary in rotaries if _rope_type(rotary)}
    unknown, changing = kinds - ROTARY_KINDS, kinds & {"dynamic", *LONGROPE}
    if unknown:
        return f"transformers has no rotary positions of the kind {', '.join(sorted(unknown))}"
    if changing and len(rotaries) > 1:
        return "rotary factors change with the length in only some layers"
    unread = ", ".join(name for rotary in rotaries for name in _unshared_settings(config, rotary))
    if unread:
        return f"vLLM and transformers rotate differently, as only one of them reads {unread} in its rope_parameters"
    return ""


def has_mistrals_files(source: str) -> bool:
    """Whether vLLM 0.32 reads a folder's or hub model's params.json and consolidated weights, not the usual files."""
    folder = find_folder(source) or find_folder(None, source)
    return bool(folder and (folder / "params.json").is_file() and any(folder.glob("consolidated*.safetensors")))


def _unshared_settings(config: Mapping[str, Any], rotary: Mapping[str, Any]) -> Iterator[str]:
    """The settings of length-dependent rotary factors that vLLM 0.32 or transformers does not read."""
    text, switch = _text(config), longrope_switch(config)
    unread: tuple[str, ...] = ()
    if _rope_type(rotary) == "dynamic":
        unread = ("max_trained_positions",)
        if not str(config.get("model_type")).startswith("hunyuan"):
            unread += ("alpha",)
    elif _rope_type(rotary) in LONGROPE:
        unread = ("attention_factor", "short_mscale", "long_mscale")
        if switch and rotary.get("factor") != text["max_position_embeddings"] / switch:
            unread += ("factor",)
    yield from (name for name in unread if rotary.get(name) is not None)


def _rotaries(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings of rotary positions, one for each kind of layer that has its own; empty if there are none."""
    found = (_text(config).get(name) for name in ("rope_scaling", "rope_parameters"))
    rotary = next((rotary for rotary in found if isinstance(rotary, Mapping)), {})
    by_kind = [part for part in rotary.values() if isinstance(part, Mapping)]
    return by_kind or ([rotary] if rotary else [])


def _rope_type(rotary: Mapping[str, Any]) -> Any:
    return rotary.get("rope_type") or rotary.get("type")


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration's part for the language model, if there are several parts."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config

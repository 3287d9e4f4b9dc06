"""A model's manifest: where and which it is, and what its configuration says about it."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r2a.config_file import read_config
from r2a.engine import has_gpu_build
from r2a.formats import DEFAULT, choose_format
from r2a.models.tokens import format_of, load_tokenizer, marks_of
from r2a.models.weights import ModelError, count_parameters, find_weights
from r2a.progress import logger
from r2a.prompts import TRIAL, PromptError, Prompts, PromptStyle
from r2a.store import NothingToMeasure, provenance, read_provenance, write_json
from r2a.study import CONDITIONS

# what configurations call the number of positions
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")


def resolve_model(output: Path, settings: Mapping[str, Any]) -> None:
    """Find or download a model and write its manifest: folder, revision, hashes, sizes, and reasoning format.

    For a model known only by its endpoint, name and format are written, and its folder is null. Raises ModelError if
    weights are not safetensors, the reasoning's delimiters are not known, the model is not a decoder with attention
    heads, or its prompts cannot be made as the settings ask.
    """
    source, endpoint = settings["source"], settings["endpoint"]
    manifest = provenance(settings)
    if not source["hub"] and not source["path"]:
        unknown = dict.fromkeys(("revision", "weights", "tokenizer", "dtype"))
        manifest["models"] = {settings["model"]: {"source": f"{endpoint['model']} at an endpoint", **unknown}}
        name, form, _ = choose_format(settings["reasoning_format"] or DEFAULT, None, False)
        is_native = settings["without_reasoning"] == "native"
        manifest |= {"reasoning_format": name, "format": form.as_mapping(), "declines_reasoning": is_native}
        write_json(output, manifest | {"folder": None, "n_positions": None})
        return
    folder, origin = find_weights(source)
    sizes = written_sizes(folder) or interpreted_sizes(folder)
    dtype = fastest_dtype() if settings["dtype"] == "auto" else settings["dtype"]
    manifest["models"] = {settings["model"]: {**origin, "dtype": dtype}}
    manifest |= {"folder": str(folder), **sizes, "n_parameters": count_parameters(folder)}
    manifest |= _reasoning_of(folder, settings)
    write_json(output, manifest)


def fastest_dtype() -> str:
    """bfloat16 if the environment is for GPUs; on a CPU, bfloat16 or float32, whichever is clearly faster here.

    Measured on the matrix products of a layer for few tokens and for many, in about a second; logged.
    """
    if has_gpu_build():
        return "bfloat16"
    import torch

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        weights = torch.ones(1536, 1536, dtype=dtype)
        of_dtype = []
        for n_tokens in (8, 256):
            states = torch.ones(n_tokens, 1536, dtype=dtype)
            states @ weights  # the first one is slower
            times = []
            for _ in range(5):
                start = time.perf_counter()
                states @ weights
                times.append(time.perf_counter() - start)
            of_dtype.append(min(times))
        seconds[str(dtype).removeprefix("torch.")] = sum(of_dtype)
    # a tie goes to float32, which rounds less
    chosen = "bfloat16" if seconds["bfloat16"] < 0.9 * seconds["float32"] else "float32"
    measured = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
    logger.info(f"dtype {chosen}, which this CPU computes fastest: {measured} for the same products")
    return chosen


def written_sizes(folder: Path) -> dict[str, Any] | None:
    """Architecture and sizes of a kind of model that transformers knows, as given in its config.json, without torch.

    None if the file leaves one of them to transformers, or calls it something else.
    """
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    config = read_config(str(folder)) or {}
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", POSITIONS[0])
    sizes = {name: config.get(name) for name in names}
    is_known = config.get("model_type") in CONFIG_MAPPING_NAMES and not {"auto_map", "text_config"} & config.keys()
    if not is_known or config.get("is_encoder_decoder") or not config.get("architectures"):
        return None
    if not all(isinstance(size, int) for size in sizes.values()):
        return None
    called = ("n_layers", "n_heads", "n_key_value_heads", "n_positions")
    return {"architecture": config["architectures"][0], **dict(zip(called, sizes.values(), strict=True))}


def interpreted_sizes(folder: Path) -> dict[str, Any]:
    """Architecture and sizes of a model, or of the text model in it, whatever its configuration calls them.

    Raises ModelError where transformers does not know the model, it is no decoder with attention heads, or its
    positions are not known.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # None asks whoever is there
    except Exception as error:  # transformers says what is wrong in the first sentence, in errors of many types
        raise ModelError(f"{folder}/config.json: {' '.join(str(error).split('. ')[0].split())}") from error
    kind = config.model_type
    if config.is_encoder_decoder:
        raise ModelError(f"{folder}/config.json: {kind} has an encoder; only decoders can be studied")
    text = config.get_text_config(decoder=True)
    n_heads, n_layers = (getattr(text, name, None) for name in ("num_attention_heads", "num_hidden_layers"))
    if not isinstance(n_heads, int) or not isinstance(n_layers, int):
        raise ModelError(
            f"{folder}/config.json: {kind} has no attention heads, or no single number of heads and layers"
        )
    n_positions = next((n for n in (getattr(text, name, None) for name in POSITIONS) if isinstance(n, int)), None)
    if n_positions is None:
        names = " or ".join(POSITIONS[:2])
        raise ModelError(f"{folder}/config.json: {kind} gives no number of positions; add {names} to the file")
    return {
        "architecture": (config.architectures or [type(config).__name__.removesuffix("Config")])[0],
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_key_value_heads": getattr(text, "num_key_value_heads", None) or n_heads,
        "n_positions": n_positions,
    }


def _reasoning_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A model's reasoning format, tried out on a prompt of each condition.

    Raises ModelError if the format is not certain, or the prompts cannot be made as the settings ask.
    """
    model = settings["model"]
    name, form, how = format_of(folder, settings.get("reasoning_format"))
    logger.info(f"{model}: reasoning format {name}, {how}")
    style = PromptStyle.of(settings, form.as_mapping())
    marks = marks_of(folder, form, style.think_tags == "pieces")
    if not marks.stops:
        raise ModelError(f"{folder}: no token ends its answers; add eos_token_id to generation_config.json")
    try:
        prompts = Prompts(load_tokenizer(folder), style)
        for condition in CONDITIONS:
            prompts.refuse_losing(condition)
            _refuse_unknown(folder, [*prompts.ids(TRIAL, "", condition), *marks.close_ids])
        declines = prompts.declines
    except PromptError as error:
        keys = "another chat template, prompt: raw, template_arguments, system_turn or reasoning_format"
        raise ModelError(f"{folder}: {error}; give models.{model} {keys}") from error
    return {"reasoning_format": name, "format": form.as_mapping(), "declines_reasoning": declines}


def _refuse_unknown(folder: Path, ids: Sequence[int]) -> None:
    """Raise ModelError if a model has no embedding for a token that its tokenizer gives."""
    config = read_config(str(folder)) or {}
    n_tokens = (config.get("text_config") or config).get("vocab_size")
    if isinstance(n_tokens, int) and max(ids) >= n_tokens:
        raise ModelError(
            f"{folder}: its tokenizer gives token {max(ids)}, but vocab_size in config.json is {n_tokens}; give the "
            "model its own tokenizer, or resize its embeddings"
        )


def resolve_judge(output: Path, settings: Mapping[str, Any]) -> None:
    """Find or download a judge's model and write its manifest: folder, revision and hashes.

    The folder of a judge that is asked at an endpoint or by files is null. Raises ModelError as find_weights does.
    """
    manifest = provenance(settings) | {"folder": None}
    if settings["source"]["hub"] or settings["source"]["path"]:
        folder, origin = find_weights(settings["source"])
        manifest |= {"folder": str(folder), "models": {settings["judge"]: {**origin, "dtype": settings["dtype"]}}}
    write_json(output, manifest)


def read_manifest(path: Path) -> dict[str, Any]:
    """A model's manifest. Raises StoreError if it is damaged."""
    return read_provenance(path)


def refuse_failed(check: Path, stage: str) -> None:
    """Raise NothingToMeasure, with check_model's reason, if a stage does not hold for a model."""
    for found in read_provenance(check)["stages"]:
        if found["stage"] == stage and not found["holds"]:
            raise NothingToMeasure(f"{stage} does not hold for this model: {found['reason']}")

"""A model's manifest: where it is, which it is, and what its configuration says of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2a.models.tokens import load_tokenizer, marks_of
from r2a.models.weights import ModelError, count_parameters, find_weights
from r2a.store import provenance, write_json


def resolve_model(output: Path, settings: Mapping[str, Any]) -> None:
    """Find or download a model and write its manifest: folder, revision, hashes, and sizes.

    Of a model that is known to its endpoint alone, only the name is written; its folder is null.
    Raises ModelError where weights are not safetensors, <think> and </think> are not single tokens, or a model with
    prompt chat has no template.
    """
    from transformers import AutoConfig

    source, endpoint = settings["source"], settings["endpoint"]
    manifest = provenance(settings)
    if not source["hub"] and not source["path"]:
        unknown = dict.fromkeys(("revision", "weights", "tokenizer", "dtype"))
        manifest["models"] = {settings["model"]: {"source": f"{endpoint['model']} at an endpoint", **unknown}}
        write_json(output, manifest | {"folder": None, "n_positions": None})
        return
    folder, origin = find_weights(source)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # None asks whoever is there
    except (OSError, ValueError) as error:  # transformers names what is wrong in the first sentence
        raise ModelError(f"{folder}/config.json: {str(error).split('. ')[0]}") from error
    marks_of(folder)
    if settings["prompt"] == "chat" and load_tokenizer(folder).chat_template is None:
        raise ModelError(f"{folder}: has no chat template; give models.{settings['model']} prompt: raw, or a template")
    manifest["models"] = {settings["model"]: {**origin, "dtype": settings["dtype"]}}
    manifest |= {
        "folder": str(folder),
        "architecture": config.architectures[0],
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "n_positions": config.max_position_embeddings,
        "n_parameters": count_parameters(folder),
    }
    write_json(output, manifest)


def resolve_judge(output: Path, settings: Mapping[str, Any]) -> None:
    """Find or download a judge's model and write its manifest: folder, revision and hashes.

    The folder of one that is asked at an endpoint or by files is null. Raises ModelError as find_weights does.
    """
    manifest = provenance(settings) | {"folder": None}
    if settings["source"]["hub"] or settings["source"]["path"]:
        folder, origin = find_weights(settings["source"])
        manifest |= {"folder": str(folder), "models": {settings["judge"]: {**origin, "dtype": settings["dtype"]}}}
    write_json(output, manifest)


def read_manifest(path: Path) -> dict[str, Any]:
    return json.loads(Path(path).read_text())

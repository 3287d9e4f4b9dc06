"""Models on disk: where they are, which they are, and loading them into transformers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from r2a.prompts import THINK_CLOSE, THINK_OPEN
from r2a.store import provenance, write_json
from r2a.traces import Marks

WEIGHTS = "*.safetensors"
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for the space that decoding one token drops
HUB_FILES = (WEIGHTS, "*.json", "*.jinja", "*.txt", "tokenizer.model")


class ModelError(Exception):
    """A model cannot be used; the message names it and the remedy."""


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


def find_weights(source: Mapping[str, str | None]) -> tuple[Path, dict[str, str | None]]:
    """A model's folder, downloaded where source names a hub, and its source, revision and hashes.

    source: path or hub, and revision. Raises ModelError where weights are not safetensors.
    """
    if source["hub"]:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(source["hub"], revision=source["revision"], allow_patterns=list(HUB_FILES)))
        revision = folder.name  # the commit that a branch or tag stood for
    else:
        folder, revision = Path(str(source["path"])), None
    weights = sorted(folder.glob(WEIGHTS))
    if not weights:
        raise ModelError(f"{folder}: no {WEIGHTS}; only safetensors weights are loaded, convert the checkpoint first")
    return folder, {
        "source": source["hub"] or source["path"],
        "revision": revision,
        "weights": revision or _sha256(weights),
        "tokenizer": _sha256([folder / "tokenizer.json"]) if (folder / "tokenizer.json").exists() else revision,
    }


def read_manifest(path: Path) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer as the folder's tokenizer.json says, where it has one.

    AutoTokenizer puts some architectures' own way of splitting text in place of the file's, so a model would be
    given other tokens than it was trained on.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    has_file = (Path(folder) / "tokenizer.json").exists()
    return (PreTrainedTokenizerFast if has_file else AutoTokenizer).from_pretrained(folder, trust_remote_code=False)


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text of each token by itself; joined, they are the text (but for characters split over tokens)."""
    pieces = {}
    for token_id in set(token_ids):
        piece = tokenizer.decode([token_id])
        if tokenizer.convert_ids_to_tokens(int(token_id)).startswith(WORD_START) and not piece.startswith(" "):
            piece = f" {piece}"
        pieces[token_id] = piece
    return [pieces[token_id] for token_id in token_ids]


def marks_of(folder: Path | str) -> Marks:
    """The ids that delimit a trace's segments. Raises ModelError where <think> is not a single token."""
    from transformers import GenerationConfig

    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{folder}/tokenizer.json: cannot be read ({error}); download the model again") from error
    ids = {}
    for mark in (THINK_OPEN, THINK_CLOSE):
        encoded = tokenizer.encode(mark, add_special_tokens=False)
        if len(encoded) != 1:
            raise ModelError(
                f"{folder}: {mark} is {len(encoded)} tokens; only models with one token for it can be studied"
            )
        ids[mark] = encoded[0]
    eos: set[int] = {tokenizer.eos_token_id}
    if (Path(folder) / "generation_config.json").exists():
        stop = GenerationConfig.from_pretrained(folder).eos_token_id
        eos |= set(stop if isinstance(stop, list) else [stop]) - {None}
    return Marks(tokenizer.bos_token_id, frozenset(eos), ids[THINK_OPEN], ids[THINK_CLOSE])


def load_model(manifest: Mapping[str, Any], attention: str) -> Any:
    """The model in evaluation mode, its layers spread over all visible GPUs; `attention` as transformers names it.

    Raises ModelError where its weights do not fit into them, or a layer does not attend to all tokens before.
    """
    import torch
    from transformers import AutoModelForCausalLM

    (name, origin), *_ = manifest["models"].items()
    n_gpus = torch.cuda.device_count()
    model: Any = AutoModelForCausalLM.from_pretrained(
        manifest["folder"],
        dtype=getattr(torch, origin["dtype"]),
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        device_map="balanced" if n_gpus > 1 else None,
    )
    if n_gpus > 1 and {parameter.device.type for parameter in model.parameters()} != {"cuda"}:
        raise ModelError(f"{name}: its weights do not fit into {n_gpus} GPUs; raise models.{name}.gpus")
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ModelError(f"{name}: layers with {', '.join(sorted(kinds - {'full_attention'}))} are not supported")
    model.model.norm.register_forward_hook(partial(_refuse_non_finite, name, origin["dtype"]))
    model.eval()
    return model if n_gpus > 1 else model.to("cuda" if n_gpus else "cpu")


def stack_layers(layers: Sequence[Any]) -> Any:
    """torch.stack of tensors of several layers, which may be on several GPUs, on the first one's."""
    import torch

    return torch.stack([layer.to(layers[0].device) for layer in layers])


def _refuse_non_finite(name: str, dtype: str, _module: Any, _inputs: Any, output: Any) -> None:
    """Raise ModelError where the last hidden states of a forward pass are not all numbers."""
    if not output.isfinite().all():
        remedy = f"set models.{name}.dtype to bfloat16 or float32" if dtype == "float16" else "check its weights"
        raise ModelError(
            f"{name}: computes nan or infinity in {dtype}, in the trace after those that the last line counts; {remedy}"
        )


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

"""A model's weights on disk: finding or downloading them, and what identifies them."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = "*.safetensors"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"(\d{2,})-of-(\d{2,})")
HUB_FILES = (WEIGHTS, "*.json", "*.jinja", "*.txt", "tokenizer.model")
COPIES = ("*/*", "consolidated*")  # the same weights for other software


class ModelError(Exception):
    """A model cannot be used; the message names it and the remedy."""


def find_weights(source: Mapping[str, str | None]) -> tuple[Path, dict[str, str | None]]:
    """A model's folder (downloaded if source names a hub), and its source, revision and hashes.

    source: path or hub, and revision. Raises ModelError if weights are not safetensors, or not whole.
    """
    if source["hub"]:
        from huggingface_hub import snapshot_download

        hub, revision = source["hub"], source["revision"]
        try:
            wanted, copies = list(HUB_FILES), list(COPIES)
            folder = Path(snapshot_download(hub, revision=revision, allow_patterns=wanted, ignore_patterns=copies))
        except (OSError, ValueError) as error:  # the hub's errors are of these types
            said = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"{hub} (hub): cannot be downloaded ({type(error).__name__}: {said:.300}); check hub and revision, log "
                "in if its licence must be accepted (hf auth login), or download it on a machine with a network"
            ) from error
        revision = folder.name  # the commit that a branch or tag stood for
    else:
        folder, revision = Path(str(source["path"])), None
    weights = weight_files(folder)
    for path in weights:
        _header(path)
    return folder, {
        "source": source["hub"] or source["path"],
        "revision": revision,
        "weights": revision or _sha256(weights),
        "tokenizer": _sha256([folder / "tokenizer.json"]) if (folder / "tokenizer.json").exists() else revision,
    }


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights: those that its index names, or model.safetensors, or else all there are.

    Raises ModelError if there are none, some are missing, or they only adapt another model.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: holds an adapter (LoRA); merge it into its base model, and save that")
    there = sorted(folder.glob(WEIGHTS))
    if not there:
        raise ModelError(f"{folder}: no {WEIGHTS}; only safetensors weights are loaded; convert the checkpoint first")
    index = folder / INDEX
    if index.exists():
        try:
            named = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index}: cannot be read ({error!r}); download the model again") from error
    elif (folder / WHOLE).exists():
        return [folder / WHOLE]
    else:
        parts = [(path, SHARD.search(path.name)) for path in there]
        named = {
            f"{path.name[: part.start(1)]}{number:0{len(part[1])}}{path.name[part.end(1) :]}"
            for path, part in parts
            if part
            for number in range(1, int(part[2]) + 1)
        } or {path.name for path in there}
    missing = sorted(named - {path.name for path in there})
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        are = "are" if more else "is"
        raise ModelError(
            f"{folder}: {missing[0]}{more} of {len(named)} weight files {are} missing; download the model again, or "
            f"delete {INDEX} if it is out of date"
        )
    return [folder / name for name in sorted(named)]


def count_parameters(folder: Path) -> int:
    """The number of parameters in a model's weight files, from their headers; packed ones count as stored."""
    headers = map(_header, weight_files(folder))
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors in a safetensors file, each with its shape. Raises ModelError if the file is not whole."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise ModelError(f"{path}: is a Git LFS pointer, not the file; run git lfs pull")
        length = int.from_bytes(start, "little")
        try:
            header = json.loads(file.read(length)) if 8 + length <= size else None
            tensors = {name: entry for name, entry in (header or {}).items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            is_whole = header is not None and size == 8 + length + end
        except (ValueError, KeyError, TypeError, AttributeError):
            is_whole = False
    if not is_whole:
        raise ModelError(f"{path}: is not a whole safetensors file ({size} bytes); download it again")
    return tensors

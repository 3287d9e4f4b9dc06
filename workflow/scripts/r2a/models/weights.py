"""A model's weights on disk: finding or downloading them, and what identifies them."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = "*.safetensors"
HUB_FILES = (WEIGHTS, "*.json", "*.jinja", "*.txt", "tokenizer.model")


class ModelError(Exception):
    """A model cannot be used; the message names it and the remedy."""


def find_weights(source: Mapping[str, str | None]) -> tuple[Path, dict[str, str | None]]:
    """A model's folder (downloaded if source names a hub), and its source, revision and hashes.

    source: path or hub, and revision. Raises ModelError if weights are not safetensors.
    """
    if source["hub"]:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(source["hub"], revision=source["revision"], allow_patterns=list(HUB_FILES)))
        revision = folder.name  # the commit that a branch or tag stood for
    else:
        folder, revision = Path(str(source["path"])), None
    weights = sorted(folder.glob(WEIGHTS))
    if not weights:
        raise ModelError(f"{folder}: no {WEIGHTS}; only safetensors weights are loaded; convert the checkpoint first")
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


def count_parameters(folder: Path) -> int:
    """The number of parameters in a model's weight files, from their headers; packed ones count as stored."""
    n_parameters = 0
    for path in folder.glob(WEIGHTS):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        n_parameters += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return n_parameters

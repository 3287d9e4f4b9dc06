"""A model's weights on disk: finding or downloading them, and what identifies them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = "*.safetensors"
HUB_FILES = (WEIGHTS, "*.json", "*.jinja", "*.txt", "tokenizer.model")


class ModelError(Exception):
    """A model cannot be used; the message names it and the remedy."""


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


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

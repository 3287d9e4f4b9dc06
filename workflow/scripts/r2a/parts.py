"""Parts of a store, kept beside it: a killed job loses little, and a grown dataset only has its new part computed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r2a.shards import whole_name
from r2a.store import parameters_hash, whole_file


class Parts:
    """The parts of a store, each the arrays of one trace or pair, in a folder beside it.

    A part's file name contains a hash of everything that the part depends on, so the part is found again whenever it is
    needed: after a kill, or when traces have been added to the dataset. Parts that no longer belong to the store are
    removed, so the folder takes about as much space as the store. Shards of a store share its folder.
    """

    def __init__(self, output: Path, origin: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
        """origin: the store's provenance. parts: what each part of the whole store depends on in addition, by name."""
        self.folder = output.with_name(f".{whole_name(output)}.parts")
        shared = {key: origin[key] for key in ("parameters", "packages", "models")}
        self._paths = {
            name: self.folder / f"{parameters_hash({**shared, 'part': part})}.npz" for name, part in parts.items()
        }
        kept = set(self._paths.values())
        for path in self.folder.glob("*.npz"):
            if path not in kept and not path.name.startswith("."):  # a dot: another shard is writing it
                path.unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        return self._paths[name].exists()

    def add(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        with whole_file(self._paths[name]) as partial:
            np.savez_compressed(partial, allow_pickle=False, **arrays)

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self._paths[name], allow_pickle=False) as arrays:
            return dict(arrays)

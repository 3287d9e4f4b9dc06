"""Finished parts of a long job, kept until its output exists, so that a killed job redoes only what was in flight."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from r2a.store import parameters_hash, whole_file


class Parts:
    """Named parts, each some arrays, in a folder beside the job's output that bears its parameters' hash.

    A block that ends well removes the folder: by then the output exists. What other parameters left goes too.
    """

    def __init__(self, output: Path, origin: Mapping[str, Any]) -> None:
        """origin: the output's provenance; parts of any other are not used."""
        prefix = f".{output.stem}.parts-"
        self.folder = output.with_name(prefix + parameters_hash(origin))
        for folder in output.parent.glob(f"{prefix}*"):
            if folder != self.folder:
                shutil.rmtree(folder)

    def __enter__(self) -> "Parts":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def add(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        with whole_file(self._path(name)) as partial:
            np.savez(partial, allow_pickle=False, **arrays)

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self._path(name), allow_pickle=False) as arrays:
            return dict(arrays)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

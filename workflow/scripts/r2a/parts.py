"""Finished parts of long jobs, kept until the whole study's run ends well, so that a killed job loses little."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2a.store import parameters_hash, whole_file

MARK = "parts"


class Parts:
    """Named parts, each some arrays, in a folder beside the job's output that bears the hash of all they depend on.

    They outlive the job: Snakemake removes the output of a job that it did not see end, and makes it again from them.
    """

    def __init__(self, output: Path, origin: Mapping[str, Any], inputs: Sequence[Path]) -> None:
        """origin: the output's provenance; inputs: the files it is made from. Parts of any others are removed."""
        prefix = f".{output.stem}.{MARK}-"
        contents = []
        for path in inputs:
            with open(path, "rb") as file:
                contents.append(hashlib.file_digest(file, "sha256").hexdigest())
        self.folder = output.with_name(prefix + parameters_hash({**origin, "contents": contents}))
        for folder in output.parent.glob(f"{prefix}*"):
            if folder != self.folder:
                shutil.rmtree(folder)

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


def forget_parts(results: Path | str) -> None:
    """Remove all parts: every job's output is there, and Snakemake knows it."""
    for folder in Path(results).rglob(f".*.{MARK}-*"):
        shutil.rmtree(folder)

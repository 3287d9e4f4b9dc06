"""One model's work on one dataset, shared by several jobs, and their stores joined into one.

A shard is a contiguous part of the problems, traces or pairs, so its bounds depend only on their number. A shard's
Parquet table has its own rows; its HDF5 store has the whole study's axes and is filled for its own traces or pairs
only.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import pandas as pd

from r2a.store import (
    NOTHING,
    StoreError,
    open_hdf5,
    read_parquet,
    read_provenance,
    whole_file,
    why_empty,
    write_empty,
    write_parquet,
)

WHOLE = "1-of-1"
SHARDED_AXES = ("trace", "pair")


def whole_name(output: Path) -> str:
    """The name, without its suffix, of the whole store that a shard's output, or the whole one, belongs to."""
    whole, _, last = output.stem.rpartition(".")
    return whole if "-of-" in last else output.stem


def shard_range(shard: str, n: int) -> range:
    """The indices of a shard among n: shard 2-of-3 has the second third of them, which may be empty."""
    number, n_shards = map(int, shard.split("-of-"))
    return range((number - 1) * n // n_shards, number * n // n_shards)


def gather_shards(shards: Sequence[Path], output: Path) -> None:
    """Join shards 1-of-n to n-of-n into the store that a single job would have written, including its provenance.

    A table is empty, with the reason, if no shard has a row. Raises StoreError if shards differ in parameters, inputs,
    weights or axes.
    """
    origins = [{key: read_provenance(path)[key] for key in ("parameters", "inputs", "models")} for path in shards]
    for path, origin in zip(shards, origins, strict=True):
        differing = [key for key in origin if origin[key] != origins[0][key]]
        if differing:
            raise StoreError(f"{path}: has other {' and '.join(differing)} than {shards[0]}; delete both and run again")
    if why_empty(shards[0]) is not None:
        write_empty(output, read_provenance(shards[0]))
        return
    if output.suffix == ".parquet":
        tables = [table for table in map(read_parquet, shards) if len(table)]
        if tables:
            write_parquet(output, pd.concat(tables, ignore_index=True), read_provenance(shards[0]))
        else:
            write_empty(output, read_provenance(shards[0]) | {NOTHING: "no trace fits into memory (the shards' logs)"})
        return
    with whole_file(output) as partial:
        shutil.copyfile(shards[0], partial)
        with h5py.File(partial, "r+", locking=False) as whole:
            for number, path in enumerate(shards[1:], 2):
                with open_hdf5(path) as file:
                    _refuse_other_axes(file, whole, path, shards[0])
                    _copy_own(file, whole, f"{number}-of-{len(shards)}")


def _refuse_other_axes(file: h5py.File, whole: h5py.File, path: Path, first: Path) -> None:
    """Raise StoreError if a shard's axes differ from the first one's, e.g. the layers that it found worth patching."""
    axes: list[h5py.Dataset] = []
    file.visititems(lambda _, item: axes.append(item) if isinstance(item, h5py.Dataset) and item.is_scale else None)
    for axis in axes:
        if axis[()].tolist() != whole[axis.name][()].tolist():
            raise StoreError(
                f"{path}: its axis {axis.name} differs from that of {first}, as where fewer pairs fit into memory; "
                "delete both and run again, with as much memory for each"
            )


def _copy_own(file: h5py.File, whole: h5py.File, shard: str) -> None:
    """Copy a shard's own traces or pairs into the whole store, chunk by chunk, still compressed."""
    arrays: list[h5py.Dataset] = []
    file.visititems(lambda _, item: arrays.append(item) if "unit" in item.attrs else None)
    for array in arrays:
        if array.dims[0].label in SHARDED_AXES:
            for number in shard_range(shard, len(array)):
                chunk = (number, *[0] * (array.ndim - 1))
                if array.id.get_chunk_info_by_coord(chunk).byte_offset is not None:
                    filters, stored = array.id.read_direct_chunk(chunk)
                    whole[array.name].id.write_direct_chunk(chunk, stored, filters)

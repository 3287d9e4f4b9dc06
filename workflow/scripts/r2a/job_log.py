"""A job's log: everything that the job prints goes there, native code's output too."""

import contextlib
import fcntl
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from r2a import progress


@contextlib.contextmanager
def job_log(path: Path | str, is_online: bool = False, claim: TextIO | None = None) -> Iterator[None]:
    """Send this process's and its children's output to `path` until the block ends; progress to a terminal too.

    Only a job that is_online may ask the Hugging Face hub; for others, what is not there already is an error.
    claim: the job, where this process has it already (see claim_job). Else waits for a process that is at the same job:
    one that a killed Snakemake left behind, or that makes the job's files along with its own.
    On an exception the log ends with one line that says what is wrong, then the traceback; the
    process then exits with status 1. (Snakemake shows the log of a failed job.)
    """
    if not is_online:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read at huggingface_hub's import, which is still to come
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    originals = {stream: os.dup(stream) for stream in (1, 2)}
    for stream in originals:
        os.dup2(log, stream)
    os.close(log)
    if os.isatty(originals[2]):
        progress.terminal = os.fdopen(originals[2], "w", closefd=False)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("r2a").setLevel(logging.INFO)
    try:
        with claim or _wait_for_job(Path(path)):
            yield
    except Exception as error:
        sys.stdout.flush()
        print(f"\nERROR {type(error).__name__}: {error}\n", file=sys.stderr)
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        progress.terminal = None
        for stream, original in originals.items():
            os.dup2(original, stream)
            os.close(original)


def claim_job(log: Path | str) -> TextIO | None:
    """Take a job for this process until the returned file is closed; None where another process is at it.

    The kernel frees the lock, which lies beside the job's log, however the process ends. Raises OSError where the file
    system has no locks.
    """
    lock = _open_lock(Path(log))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return _signed(lock)


def _wait_for_job(log: Path) -> TextIO:
    """As claim_job, once no other process is at it; without a lock where the file system has none."""
    try:
        while (claim := claim_job(log)) is None:
            with _open_lock(log) as lock:
                lock.seek(0)
                progress.logger.info(f"waits for {lock.read()}, which is at this job")
                fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        progress.logger.warning(f"continues without a lock, because this file system has none ({error})")
        return _signed(_open_lock(log))
    return claim


def _open_lock(log: Path) -> TextIO:
    log.parent.mkdir(parents=True, exist_ok=True)
    return open(log.with_name(f".{log.name}.lock"), "a+")  # closed by whoever holds it


def _signed(lock: TextIO) -> TextIO:
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock

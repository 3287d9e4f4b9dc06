"""A job's log: all output of the job goes there, including that of native code."""

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
    """Send the output of this process and its children to `path` until the block ends; progress also to a terminal.

    is_online: whether the job may use the Hugging Face hub; for other jobs, a file that is not in the cache is an
    error. claim: the job's lock, if this process holds it already (see claim_job). Otherwise this waits for any other
    process that works on the same job: one that a killed Snakemake left behind, or one that makes this job's files
    along with its own. On an exception the log ends with one line that says what is wrong and the traceback, and the
    process exits with status 1. (Snakemake shows the log of a failed job.)
    """
    if not is_online:
        os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads this when it is imported, which happens later
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


def claim_job(log: Path | str, how: str = "") -> TextIO | None:
    """Claim a job for this process until the returned file is closed; None if another process works on it.

    The lock is a file beside the job's log, which names the process and `how` it works on the job; the kernel releases
    it however the process ends. Raises OSError if the file system has no locks.
    """
    lock = _locked(Path(log))
    return _signed(lock, how) if lock else None


def is_claimed(log: Path | str) -> bool:
    """Whether a process works on a job. Raises OSError if the file system has no locks."""
    lock = _locked(Path(log))
    if lock:
        lock.close()
    return lock is None


def _wait_for_job(log: Path) -> TextIO:
    """As claim_job, but wait until no other process works on the job; without a lock if the file system has none."""
    try:
        while (claim := claim_job(log)) is None:
            with _open_lock(log) as lock:
                lock.seek(0)
                progress.logger.info(f"waits for {lock.read()}, which works on this job")
                fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        progress.logger.warning(f"continues without a lock, because this file system has none ({error})")
        return _signed(_open_lock(log))
    return claim


def _locked(log: Path) -> TextIO | None:
    lock = _open_lock(log)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _open_lock(log: Path) -> TextIO:
    log.parent.mkdir(parents=True, exist_ok=True)
    return open(log.with_name(f".{log.name}.lock"), "a+")  # closed by whoever holds it


def _signed(lock: TextIO, how: str = "") -> TextIO:
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}{how}")
    lock.flush()
    return lock

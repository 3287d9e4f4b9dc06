"""A job's log: everything that the job prints goes there, native code's output too."""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from r2a import progress


@contextlib.contextmanager
def job_log(path: Path | str, is_online: bool = False) -> Iterator[None]:
    """Send this process's and its children's output to `path` until the block ends; progress to a terminal too.

    Only a job that is_online may ask the Hugging Face hub; for others, what is not there already is an error.
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

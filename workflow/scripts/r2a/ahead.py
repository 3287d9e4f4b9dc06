"""How every script runs: one start of Python can also make the files of later jobs.

Most small jobs spend more time importing torch, or pandas, than working. So a process that has finished its own job
continues with planned jobs of the same kind (r2a.plan), one after the other, and puts their files aside. When Snakemake
starts such a job, the job finds its files and moves them into place. If its settings or inputs have changed since the
files were made, it deletes them and makes its own. A long job would gain little, so it makes no files ahead.
"""

import contextlib
import gc
import hashlib
import json
import os
import runpy
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from r2a import engine
from r2a.devices import leased_gpus
from r2a.job_log import claim_job, job_log
from r2a.plan import HOME, RUNS_A_MODEL, SCRIPTS, PlannedJob, companions, has_begun

AHEAD = ", ahead"
# starting takes two seconds without a model, and up to two minutes with one on a GPU
LONG_SECONDS, LONG_SECONDS_WITH_A_MODEL = 30, 300
# Importing makes objects by the hundred thousand, none of them garbage: with Python's own threshold, looking through
# them again and again takes up to a fifth of the time.
OBJECTS_BETWEEN_COLLECTIONS = 50_000


def run(main: Callable[[Any], None], snakemake: Any) -> None:
    """Make a job's files with its script's `main`, unless they were made ahead, then make those of its companions.

    snakemake: the job as Snakemake passes it to a script. All output of the job goes to its log. A job that runs a
    model keeps its GPUs until the process ends.
    """
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    until = time.monotonic() + LONG_SECONDS
    with contextlib.ExitStack() as held:
        with job_log(snakemake.log[0], _is_online(snakemake)):
            if _take_made(snakemake):
                return
            if RUNS_A_MODEL in dict(snakemake.resources.items()):
                until += LONG_SECONDS_WITH_A_MODEL - LONG_SECONDS
                held.enter_context(leased_gpus(snakemake.resources, snakemake.output[0]))
            main(snakemake)
        _make_others(main, snakemake, until)
    gc.freeze()  # as it ends, Python looks through all that is left; torch's modules alone would take it a second


def _make_others(main: Callable[[Any], None], own: Any, until: float) -> None:
    """Make companions' files until none is ready, time is up, or one fails; that job then runs and fails by itself."""
    engine.may_start = False
    tried = {own.output[0]}
    with contextlib.suppress(OSError, SystemExit):  # the file system lacks locks or hard links; a companion fails
        while time.monotonic() < until:
            ready = [job for job in companions(own.output[0]) if job.output[0] not in tried]
            if not ready:
                break
            if len(tried) == 1:  # if this process is killed meanwhile, Snakemake deletes the job's own files
                _put_aside(own, _origin(own), os.link)
            job = ready[0]
            tried.add(job.output[0])
            claim = claim_job(job.log[0], AHEAD) if job.is_local and not _is_online(job) else None
            if claim is not None:
                _make_ahead(main, job, claim)
    _discard(own)


def _make_ahead(main: Callable[[Any], None], job: PlannedJob, claim: TextIO) -> None:
    if _record(job).exists() or has_begun(job):
        claim.close()
        return
    origin = _origin(job)
    _delete(Path(job.log[0]))  # an earlier run's
    with job_log(job.log[0], claim=claim):
        try:
            # jobs without times of their own come of any script
            (main if job.is_timed else runpy.run_path(str(SCRIPTS / job.script))["main"])(job)
            _put_aside(job, origin, os.replace)
        except BaseException:
            for path in map(Path, job.output):
                _delete(path)
            raise


def _take_made(job: Any) -> bool:
    """Move a job's files into place if they were made from its present settings and inputs; return whether."""
    try:
        is_current = json.loads(_record(job).read_text()) == _origin(job)
    except (OSError, ValueError):
        is_current = False
    if is_current and all(_aside(path).exists() for path in _files(job)):
        for path in _files(job):
            os.replace(_aside(path), path)
            os.utime(path)  # made in an earlier run, they would be too old to say that this job has begun
        _record(job).unlink()
        return True
    _discard(job)
    return False


def _put_aside(job: Any, origin: dict[str, Any], move: Callable[[Path, Path], None]) -> None:
    """Move (or link) a job's files to names that Snakemake does not know, and record last that they are complete."""
    for path in _files(job):
        _delete(_aside(path))
        move(path, _aside(path))
    _record(job).parent.mkdir(parents=True, exist_ok=True)
    part = _record(job).with_suffix(".part")
    part.write_text(json.dumps(origin))
    part.replace(_record(job))


def _discard(job: Any) -> None:
    for path in (_record(job), *map(_aside, _files(job))):
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(job: Any) -> Iterator[Path]:
    """The files that Snakemake deletes before it starts a job."""
    return map(Path, [*job.output, *job.log])


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.ahead")


def _record(job: Any) -> Path:
    return HOME / f"{hashlib.sha256(str(job.output[0]).encode()).hexdigest()[:32]}.json"


def _origin(job: Any) -> dict[str, Any]:
    """All that a job's files depend on: its settings and the identity of its inputs (inode, size, last change)."""
    stats = {path: os.stat(path) for path in job.input}
    return {
        "params": json.loads(json.dumps(dict(job.params.items()), default=str)),
        "inputs": {path: [stat.st_ino, stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()},
    }


def _is_online(job: Any) -> bool:
    """Whether a job may use the Hugging Face hub, for a model or dataset in its settings."""
    settings = job.params.get("settings", {})
    return bool(settings.get("hub") or settings.get("source", {}).get("hub"))

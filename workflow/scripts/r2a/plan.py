"""The jobs of a run, so that one start of Python, or of an engine, can serve several small jobs.

The main process writes the plan once it knows its jobs. In the plan, a job finds the jobs of its own kind that are
ready: while its engine runs, it also completes their requests (r2a.generation.siblings), and before it ends, it makes
their files (r2a.ahead). Every job is complete without a plan: none is written if Snakemake runs no hooks (--no-hooks),
or if this workflow is used as a module and the importing one does not call write_plan.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2a.job_log import is_claimed

HOME = Path(".snakemake/r2a")  # in the folder that Snakemake and all its jobs run in
PLAN = HOME / "plan.json"
SCRIPTS = Path(__file__).parents[1]
RUNS_A_MODEL = "gpus_needed"  # the resource by which jobs that run a model are known


@dataclass(frozen=True)
class PlannedJob:
    """A job as its script receives it: `input`, `output` and so on are Snakemake's named lists."""

    since: int  # when the plan was written, in nanoseconds
    script: str
    is_local: bool  # whether it runs on the main process's machine
    is_timed: bool  # whether Snakemake keeps its times, as a benchmark
    log: list[str]
    input: Any
    output: Any
    params: Any
    wildcards: Any
    resources: Any

    @property
    def kind(self) -> tuple[str, ...]:
        """The script, and the model or judge that it runs; one process can run all jobs of the same kind.

        All jobs without a benchmark are of one kind, tables and figures alike. Others are joined with those of their
        own script alone, so that the sum of a rule's times is right.
        """
        if not self.is_timed:
            return ()
        subjects = ("model", "judge") if RUNS_A_MODEL in dict(self.resources.items()) else ()
        return self.script, *(self.wildcards.get(subject, "") for subject in subjects)


def write_plan(jobs: Iterable[Any]) -> None:
    """Write the jobs that Snakemake will start, replacing the plan of an earlier run.

    jobs: all of Snakemake's jobs; those whose scripts belong to another project are left out.
    """
    ours = [job for job in jobs if (SCRIPTS / Path(str(job.rule.script)).name).is_file()]
    PLAN.parent.mkdir(parents=True, exist_ok=True)
    part = PLAN.with_suffix(".part")
    part.write_text(json.dumps([_written(job) for job in ours], default=str))
    part.replace(PLAN)


def companions(output: str, kind: Callable[[PlannedJob], Hashable] = lambda job: job.kind) -> list[PlannedJob]:
    """The planned jobs of the same kind as the one that makes `output` that have not begun and whose inputs exist."""
    try:
        with PLAN.open() as plan:
            # of this very plan, for that of the next run may take its place: then jobs would seem not to have begun
            since = os.fstat(plan.fileno()).st_mtime_ns
            jobs = [_read(job, since) for job in json.load(plan)]
    except (OSError, ValueError):
        return []
    by_output = {path: job for job in jobs for path in job.output}
    if output not in by_output:
        return []

    @functools.cache
    def is_there(path: str) -> bool:
        """Whether a file is ready for this run's jobs; if this run makes it, once its job has ended."""
        return _is_new(path, since) and _is_free(by_output[path]) if path in by_output else Path(path).exists()

    own = by_output[output]
    return [
        job
        for job in jobs
        if job is not own and kind(job) == kind(own) and not has_begun(job) and all(map(is_there, job.input))
    ]


def has_begun(job: PlannedJob) -> bool:
    """Whether a job was started after the plan was written: its log is then newer."""
    return _is_new(job.log[0], job.since)


def _is_free(job: PlannedJob) -> bool:
    with contextlib.suppress(OSError):
        return not is_claimed(job.log[0])
    return False


def _is_new(path: str, since: int) -> bool:
    """Whether a file is there and no older than that; Snakemake deletes files at any moment."""
    try:
        return Path(path).stat().st_mtime_ns >= since
    except FileNotFoundError:
        return False


def _written(job: Any) -> dict[str, Any]:
    """A job of Snakemake in JSON's types."""
    named = {part: dict(getattr(job, part).items()) for part in ("input", "output", "params", "wildcards")}
    named["resources"] = {name: value for name, value in job.resources.items() if isinstance(value, int | str)}
    script = Path(str(job.rule.script)).name
    told = {"script": script, "is_local": bool(job.is_local), "is_timed": bool(job.benchmark)}
    return {**told, "log": list(map(str, job.log)), **named}


def _read(job: dict[str, Any], since: int) -> PlannedJob:
    parts = {part: _named(value) if isinstance(value, dict) else value for part, value in job.items()}
    return PlannedJob(since=since, **parts)


def _named(values: dict[str, Any]) -> Any:
    """Snakemake's named list, as a script receives it: the items of a list become separate items."""
    from snakemake.iocontainers import Namedlist

    flat: list[Any] = []
    names = []
    for name, value in values.items():
        first = len(flat)
        flat += value if isinstance(value, list) else [value]
        names.append((name, (first, len(flat) if isinstance(value, list) else None)))
    named = Namedlist(toclone=flat)
    named._take_names(names)
    return named

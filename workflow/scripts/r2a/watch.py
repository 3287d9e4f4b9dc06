"""A live view of a run, from the files that its jobs write: in the terminal, and as a page that refreshes itself."""

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r2a.devices import LEASES
from r2a.engine import NO_ENGINE
from r2a.store import write_text
from r2a.summary.page import render_page

SECONDS = 2.0  # seconds between updates
RECENT = 180  # a job on another machine counts as running for so many seconds after its log's last line
TAIL = 20_000  # bytes of a log's end that are read
N_WARNINGS = 5
SAID = re.compile(r"^\d\d:\d\d:\d\d (?P<words>.+)$")  # by this workflow, not by a library
PROGRESS = re.compile(r"(?P<what>.+): (?P<done>\d+)/(?P<total>\d+)(?: and \d+% of the next)?(?:, (?P<rate>.+))?")
FILES = re.compile(r"^(?:results/\S+ ?)+")  # named in a line; the job's name is enough
WARNING = re.compile(r"^ERROR |\b[Ww]arning\b|nothing to measure|waits for .*GPUs|\bretries\b")
HOLDER = re.compile(r"process (\d+) on ([^\s,]+)(, ahead)?")


@dataclass
class RunningJob:
    """A job that holds its log's lock.

    quiet: seconds since its log's last line. phase: what it does, from the last line that says so. done, total, rate:
    its last line of progress. is_ahead: whether another job's process makes its files (r2a.ahead).
    """

    name: str
    holder: str
    quiet: float
    is_ahead: bool
    phase: str = "starts"
    done: int = 0
    total: int = 0
    rate: str = ""


@dataclass
class Run:
    """What can be seen of a run. steps: done and planned, as Snakemake counts them. leases: (GPU, job).

    n_ahead: jobs whose files another job's process has made (r2a.ahead); Snakemake has yet to count them.
    """

    study: str
    steps: tuple[int, int] | None
    n_ahead: int
    jobs: list[RunningJob]
    leases: list[tuple[str, str]]
    free_gigabytes: float
    warnings: list[tuple[str, str]]
    time: str


def look(results: Path, snakemake_logs: Path, leases: Path = LEASES) -> Run:
    """The current state of a run. results: the study's folder. snakemake_logs: the folder of Snakemake's own logs."""
    return Run(
        results.name,
        _steps(snakemake_logs),
        _n_ahead(results / "logs"),
        list(_running_jobs(results / "logs")),
        [
            (path.name, path.read_text())
            for path in sorted(leases.glob("*"))
            if path.name != "queue" and _is_locked(path)
        ],
        shutil.disk_usage(results).free / 1e9,
        _warnings(results / "logs"),
        time.strftime("%H:%M:%S"),
    )


def _locked_files() -> set[tuple[int, int, int]]:
    """(major, minor, inode) of every file that a process of this machine holds a lock on."""
    held = set()
    for line in Path("/proc/locks").read_text().splitlines():
        if "->" not in line:  # a process that waits
            major, minor, inode = line.split()[-3].split(":")
            held.add((int(major, 16), int(minor, 16), int(inode)))
    return held


def _is_locked(path: Path) -> bool:
    found = path.stat()
    return (os.major(found.st_dev), os.minor(found.st_dev), found.st_ino) in _locked_files()


def _running_jobs(logs: Path) -> Iterator[RunningJob]:
    """Jobs that hold the lock of their log; on other machines, whose locks are invisible, jobs with a recent log."""
    for lock in sorted(logs.rglob(".*.log.lock")):
        log = lock.with_name(lock.name[1:].removesuffix(".lock"))
        holder = HOLDER.search(lock.read_text())
        if not log.exists() or holder is None:
            continue
        quiet = time.time() - log.stat().st_mtime
        if _is_locked(lock) or (holder[2] != os.uname().nodename and quiet < RECENT):
            name = log.relative_to(logs).with_suffix("").as_posix()
            job = RunningJob(name, f"{holder[1]} on {holder[2]}", quiet, holder[3] is not None)
            said = [found["words"] for line in _last_lines(log) if (found := SAID.match(line))]
            for words in said[-1:]:
                job.phase = FILES.sub("", words)
                if told := PROGRESS.fullmatch(words):
                    job.done, job.total, job.rate = int(told["done"]), int(told["total"]), told["rate"] or ""
                    what = told["what"].rpartition(": ")[2]  # without the model and dataset, which the name has
                    job.phase = f"{what} done, then the rest" if job.done == job.total else what
            yield job


def _last_lines(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        return file.read().decode(errors="replace").splitlines()


def _steps(snakemake_logs: Path) -> tuple[int, int] | None:
    """From Snakemake's newest log; None before its first job is done."""
    newest = max(snakemake_logs.glob("*.snakemake.log"), key=lambda path: path.stat().st_mtime, default=None)
    counted = re.findall(r"(\d+) of (\d+) steps", "\n".join(_last_lines(newest))) if newest else []
    return (int(counted[-1][0]), int(counted[-1][1])) if counted else None


def _n_ahead(logs: Path) -> int:
    """Logs that were put aside along with what was made, and not yet moved into place."""
    put_aside = logs.rglob(".*.log.ahead")
    return sum(not path.with_name(path.name[1:].removesuffix(".ahead")).exists() for path in put_aside)


def _warnings(logs: Path) -> list[tuple[str, str]]:
    """(job, line) of the last warnings and errors, the newest job's first; a line of several jobs is listed once."""
    found: dict[str, tuple[str, str]] = {}  # by a line without its numbers
    for log in sorted(logs.rglob("*.log"), key=lambda path: -path.stat().st_mtime)[:50]:
        name = log.relative_to(logs).with_suffix("").as_posix()
        for line in [line for line in reversed(_last_lines(log)) if WARNING.search(line) and NO_ENGINE not in line][:1]:
            found.setdefault(re.sub(r"\d+", "", line), (name, line))
    return list(found.values())[:N_WARNINGS]


def shown(run: Run) -> RenderableType:
    """A run, rendered for the terminal."""
    steps = f"{run.steps[0]} of {run.steps[1]} steps" if run.steps else "no step done yet"
    steps += f" and {run.n_ahead} ahead" if run.n_ahead else ""
    columns = ("job", "what it does", "progress", "", "rate and time left", "last line")
    jobs = Table(*columns, box=None, expand=True, header_style="dim")
    for job in run.jobs:
        bar = ProgressBar(total=job.total, completed=job.done, width=20) if job.total else Text("")
        counted = f"{job.done}/{job.total}" if job.total else ""
        name = f"{job.name} (ahead)" if job.is_ahead else job.name
        jobs.add_row(Text(name), Text(job.phase), bar, counted, Text(job.rate), f"{job.quiet:.0f} s ago")
    parts: list[RenderableType] = [
        Text(
            f"{run.study}: {steps}, {len(run.jobs)} running, {run.free_gigabytes:.0f} GB free, {run.time}", style="bold"
        ),
        jobs if run.jobs else Text("no job is running", style="dim"),
        *(Text(f"GPU {device}: {job}") for device, job in run.leases),
        *(Text(f"{name}: {line}", style="yellow", overflow="ellipsis", no_wrap=True) for name, line in run.warnings),
    ]
    return Group(*parts)


def main() -> None:
    """Watch the study of this name, or the one whose logs changed last, until interrupted; wait until it starts."""
    name = sys.argv[1] if sys.argv[1:] else ""
    if not _studies(name):
        print(f"Waits until a study {f'called {name} ' if name else ''}starts in this folder.", flush=True)
    while not (studies := _studies(name)):
        time.sleep(SECONDS)
    results = max(
        studies, key=lambda path: max((log.stat().st_mtime for log in path.rglob("logs/**/*.log")), default=0)
    )
    page = results / "watch.html"
    print(f"The same as a page that refreshes itself: {page}")
    with Live(refresh_per_second=1) as live:
        while True:
            with contextlib.suppress(FileNotFoundError):  # Snakemake deletes logs at any moment: look again
                run = look(results, Path(".snakemake/log"))
                live.update(shown(run))
                write_text(page, render_page("watch.html.j2", "watch", run=run, seconds=round(SECONDS + 1)))
            time.sleep(SECONDS)


def _studies(name: str) -> list[Path]:
    """The folders of studies that have started, of this name if there is one."""
    return [path.parent for path in Path("results").glob(f"{name or '*'}/logs")]


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()

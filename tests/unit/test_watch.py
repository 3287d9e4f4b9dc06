"""The live view of a run tells what the files of its jobs say."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from r2a.summary.page import render_page
from r2a.watch import look, shown

SCRIPTS = str(Path(__file__).parents[2] / "workflow/scripts")
JOB = """
import sys
from r2a.job_log import job_log
from r2a.progress import Progress
with job_log(sys.argv[1]), Progress("requests", 8) as progress:
    for _ in range(3):
        progress.advance()
    progress._log()
    sys.stdin.read()
"""


def a_run(tmp_path):
    results, snakemake_logs, leases = (tmp_path / name for name in ("results/mine", "snakemake", "leases"))
    for folder in (results / "logs", snakemake_logs, leases):
        folder.mkdir(parents=True)
    (snakemake_logs / "1.snakemake.log").write_text("3 of 9 steps (33%) done\nnoise\n4 of 9 steps (44%) done\n")
    return results, snakemake_logs, leases


def test_a_running_job_is_shown_with_its_progress_and_a_finished_one_is_not(tmp_path):
    places = a_run(tmp_path)
    log = places[0] / "logs/traces/m/d.log"
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, str(log)], stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SCRIPTS}
    )
    deadline = time.monotonic() + 60
    while not (seen := look(*places)).jobs or not seen.jobs[0].total:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.communicate(b"end")
    (shown_job,) = seen.jobs
    assert (shown_job.name, shown_job.what, shown_job.done, shown_job.total) == ("traces/m/d", "requests", 3, 8)
    assert shown_job.holder == f"{job.pid} on {os.uname().nodename}"
    assert seen.steps == (4, 9)
    assert look(*places).jobs == []


def test_a_job_of_another_machine_counts_as_running_while_its_log_is_recent(tmp_path):
    places = a_run(tmp_path)
    log = places[0] / "logs/patching/m.log"
    log.parent.mkdir()
    log.write_text("12:00:00 pairs: 10/40, 2.0 a second, 0:00:15 left\n")
    (log.parent / ".m.log.lock").write_text("process 7 on elsewhere")
    (job,) = look(*places).jobs
    assert (job.done, job.rate, job.holder) == (10, "2.0 a second, 0:00:15 left", "7 on elsewhere")
    os.utime(log, (time.time() - 1000,) * 2)
    assert look(*places).jobs == []


def test_leases_that_are_held_and_the_last_warnings_are_shown_as_text_in_both_views(tmp_path):
    places = a_run(tmp_path)
    (places[0] / "logs/grades.log").write_text("12:00:00 reads\n\nERROR StoreError: <b>[red]x</b>\n")
    for device in ("0", "1"):
        (places[2] / device).write_text(f"job {device}")
    with open(places[2] / "0") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        run = look(*places)
    assert run.leases == [("0", "job 0")]
    assert run.warnings == [("grades", "ERROR StoreError: <b>[red]x</b>")]
    console = Console(width=120, record=True)
    console.print(shown(run))
    told = console.export_text()
    assert "GPU 0: job 0" in told and "<b>[red]x</b>" in told and "4 of 9 steps" in told
    page = render_page("watch.html.j2", "notes", run=run, seconds=3)
    assert "&lt;b&gt;[red]x&lt;/b&gt;" in page and '<meta http-equiv="refresh" content="3">' in page

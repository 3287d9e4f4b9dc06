"""The live view of a run shows what the files of its jobs say."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from r2a.ahead import AHEAD
from r2a.engine import NO_ENGINE
from r2a.job_log import claim_job
from r2a.summary.page import render_page
from r2a.watch import look, shown
from waiting import wait_until

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

    def seen_with_progress():
        run = look(*places)
        return run if run.jobs and run.jobs[0].total else None

    seen = wait_until(seen_with_progress)
    job.communicate(b"end")
    (shown_job,) = seen.jobs
    assert (shown_job.name, shown_job.phase, shown_job.done, shown_job.total) == ("traces/m/d", "requests", 3, 8)
    assert shown_job.holder == f"{job.pid} on {os.uname().nodename}"
    assert seen.steps == (4, 9)
    assert look(*places).jobs == []


def test_a_job_of_another_machine_counts_as_running_while_its_log_is_recent(tmp_path):
    places = a_run(tmp_path)
    log = places[0] / "logs/patching/m.log"
    log.parent.mkdir()
    log.write_text("12:00:00 m, d: pairs: 10/40 and 45% of the next, 2.0 a second, 0:00:15 left\n")
    (log.parent / ".m.log.lock").write_text("process 7 on elsewhere")
    (job,) = look(*places).jobs
    assert (job.done, job.rate, job.holder) == (10, "2.0 a second, 0:00:15 left", "7 on elsewhere")
    assert job.phase == "pairs"
    os.utime(log, (time.time() - 1000,) * 2)
    assert look(*places).jobs == []


def test_what_a_job_does_is_shown_from_its_start_to_its_end(tmp_path):
    places = a_run(tmp_path)
    log = places[0] / "logs/attention/m/d.log"
    log.parent.mkdir(parents=True)
    phases, lines = [], ["", "12:00:01 results/mine/a.parquet, results/mine/b.parquet: 9 traces", "12:00:01 loads m"]
    lines += ["Loading weights: 3/47 [00:00<?]", "12:00:02 m, d: reruns: 0/9"]
    with claim_job(log, AHEAD):
        for line in [*lines, "12:00:09 m, d: reruns: 9/9, 1.3 per second"]:
            with log.open("a") as file:
                file.write(f"{line}\n")
            (job,) = look(*places).jobs
            assert job.is_ahead and job.holder == f"{os.getpid()} on {os.uname().nodename}"
            phases.append((job.phase, job.done))
    assert [phase for phase, _ in phases[:-1]] == ["starts", "9 traces", "loads m", "loads m", "reruns"]
    assert phases[-1] == ("reruns done, then the rest", 9)
    console = Console(width=200, record=True)
    run = look(*places)
    run.jobs.append(job)
    console.print(shown(run))
    assert "attention/m/d (ahead)" in (told := console.export_text()) and "reruns done" in told
    assert "(ahead)</span></td><td>reruns done" in render_page("watch.html.j2", "watch", run=run, seconds=3)


def test_jobs_made_ahead_are_told_until_they_are_taken_and_their_usual_waiting_is_no_warning(tmp_path):
    places = a_run(tmp_path)
    logs = places[0] / "logs/tables"
    logs.mkdir()
    for name in ("made", "taken"):
        (logs / f".{name}.log.ahead").touch()
    (logs / "taken.log").write_text("12:00:00 waits for process 7 on here, which works on this job\n")
    (logs / "other.log").write_text(f"\nERROR EngineError: {NO_ENGINE}\n")
    run = look(*places)
    assert (run.n_ahead, run.warnings) == (1, [])
    assert "4 of 9 steps and 1 ahead" in Console(width=120).render_str(str(shown(run).renderables[0])).plain
    assert "4 of 9 steps and 1 ahead" in render_page("watch.html.j2", "watch", run=run, seconds=3)


def test_what_several_jobs_say_is_told_once_and_a_wait_for_gpus_is_told(tmp_path):
    places = a_run(tmp_path)
    for number in range(3):
        (places[0] / f"logs/{number}.log").write_text(f"[W1126 08:24:0{number}] Warning: NUMA binding\n")
    (places[0] / "logs/traces.log").write_text("08:24:00 a: waits for 2 of the GPUs in use: b\n")
    lines = [line for _, line in look(*places).warnings]
    assert len(lines) == 2 and sum("NUMA" in line for line in lines) == 1


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
    page = render_page("watch.html.j2", "watch", run=run, seconds=3)
    assert "&lt;b&gt;[red]x&lt;/b&gt;" in page and 'data-seconds="3"' in page


def test_watching_may_begin_before_the_study(tmp_path):
    command = [sys.executable, "-m", "r2a.watch", "mine"]
    watch = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": SCRIPTS}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert "Waits until a study called mine starts" in watch.stdout.readline()
        a_run(tmp_path)
        page = tmp_path / "results/mine/watch.html"
        assert "No job is running" in wait_until(lambda: page.exists() and page.read_text())
    finally:
        watch.kill()
        watch.communicate()

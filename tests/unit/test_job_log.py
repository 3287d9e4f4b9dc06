"""A job's log holds all output, and a failure begins with what matters."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import r2a.progress
from r2a.progress import Progress
from waiting import wait_until

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def run(tmp_path, body, *options):
    code = f"import os, sys, subprocess\nsys.path.insert(0, {str(SCRIPTS)!r})\nfrom r2a.job_log import job_log\n"
    opened = ", ".join(["'logs/job.log'", *options])
    code += f"with job_log({opened}):\n    {body}\nprint('after')\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    return done, (tmp_path / "logs/job.log").read_text()


def test_native_output_and_childrens_go_to_the_log(tmp_path):
    body = "print('python'); sys.stdout.flush(); os.write(2, b'native\\n'); subprocess.run(['echo', 'child'])"
    done, log = run(tmp_path, body)
    assert log.split() == ["python", "native", "child"]
    assert done.stdout == "after\n"


def test_a_failure_ends_the_log_with_its_line_and_traceback_and_exits_with_1(tmp_path):
    done, log = run(tmp_path, "raise ValueError('rows 3 and 4 are the same')")
    assert done.returncode == 1
    assert "after" not in done.stdout
    lines = [line for line in log.splitlines() if line]
    assert lines[0] == "ERROR ValueError: rows 3 and 4 are the same"
    assert lines[1].startswith("Traceback")


def test_no_job_but_one_that_is_online_may_ask_the_hub(tmp_path, monkeypatch):
    """As huggingface_hub itself sees it, in the job and in the processes that it starts."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    asked = "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    body = f"{asked}; sys.stdout.flush(); subprocess.run([sys.executable, '-c', {asked!r}])"
    assert run(tmp_path, body)[1].split() == ["True", "True"]
    (tmp_path / "logs/job.log").unlink()
    assert run(tmp_path, body, "is_online=True")[1].split() == ["False", "False"]


WORK = "from r2a.progress import Progress; Progress('pairs', 3).__enter__().__exit__(None, None, None)"


def test_progress_goes_to_a_terminal_where_there_is_one(tmp_path):
    ours, jobs = pty.openpty()
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\nfrom r2a.job_log import job_log\n"
    code += f"with job_log('job.log'):\n    {WORK}\n    print('not for a person')\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=jobs, stderr=jobs, check=True)
    os.close(jobs)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    assert shown.startswith("pairs: 0/3")
    assert "not for a person" not in shown
    assert "pairs: 0/3" in (tmp_path / "job.log").read_text()


def test_progress_has_done_rate_and_time_left_and_rarer_lines_the_longer_it_lasts(monkeypatch, caplog):
    seconds = [0.0]
    monkeypatch.setattr(r2a.progress, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    caplog.set_level("INFO", logger="r2a")
    with Progress("pairs", 7200) as progress:
        for second in range(1, 7201):
            seconds[0] = float(second)
            progress.advance(tokens=30)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == ["pairs: 0/7200", "pairs: 6/7200, 1.0 per second, 30 tokens per second, 1:59:54 left"]
    assert lines[-1] == "pairs: 7200/7200, 1.0 per second, 30 tokens per second"
    assert lines[-2].endswith("left")
    assert 120 < len(lines) < 200  # about one a minute, more at first


def test_slow_work_has_seconds_each_no_guess_after_the_first_and_one_last_line(monkeypatch, caplog):
    seconds = [0.0]
    monkeypatch.setattr(r2a.progress, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    caplog.set_level("INFO", logger="r2a")
    with Progress("pairs", 3) as progress:
        for second in (400, 600, 800):
            seconds[0] = float(second)
            progress.advance()
    assert [record.getMessage() for record in caplog.records] == [
        "pairs: 0/3", "pairs: 1/3, 400.0 seconds each", "pairs: 2/3, 300.0 seconds each, 0:05:00 left",
        "pairs: 3/3, 266.7 seconds each",
    ]  # fmt: skip


def test_without_a_terminal_progress_is_in_the_log_alone(tmp_path):
    done, log = run(tmp_path, WORK)
    assert done.stdout == "after\n"
    assert done.stderr == ""
    assert "pairs: 0/3" in log


def test_a_job_waits_for_the_orphan_that_is_at_the_same_work_and_says_so(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\nfrom r2a.job_log import job_log\n"
    code += "with job_log('logs/job.log'):\n    print('began', flush=True)\n    sys.stdin.read()\n"
    log = tmp_path / "logs/job.log"

    def started(line):
        job = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE)
        wait_until(lambda: job.poll() is not None or (log.exists() and line in log.read_text()))
        assert job.poll() is None
        return job

    orphan = started("began")
    log.unlink()  # as Snakemake does
    second = started(f"waits for process {orphan.pid} on")
    assert "began" not in log.read_text()
    orphan.kill()
    second.communicate()
    assert second.returncode == 0
    assert log.read_text().endswith("began\n")

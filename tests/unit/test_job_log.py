"""A job's log holds everything, and a failure says first what matters."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def run(tmp_path, body):
    code = f"import os, sys, subprocess\nsys.path.insert(0, {str(SCRIPTS)!r})\nfrom r2a.job_log import job_log\n"
    code += f"with job_log('logs/job.log'):\n    {body}\nprint('after')\n"
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

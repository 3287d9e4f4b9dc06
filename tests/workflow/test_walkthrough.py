"""The walkthrough's files and commands, run as they are on the page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

PAGE = Path(__file__).parents[2] / "docs/walkthrough.md"
BLOCK = re.compile(r"(?:^`([^`]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_walkthrough_works_as_written(copy):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name, language, text in BLOCK.findall(PAGE.read_text()):
        if language == "sh":
            command = ["sh", "-e", "-c", text]
            done = subprocess.run(
                command, cwd=copy.folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, text + done.stdout + done.stderr
        else:
            (copy.folder / name).write_text(text)
    results = copy.folder / "results/mine"
    problems = pd.read_csv(results / "tables/problems.csv").set_index("uid")
    assert set(problems["area"]) == {"turns", "cups", "lists"}
    assert problems["right_in"].isin(["both", "only with"]).sum() == 6  # a toy that solves 98 % with its reasoning
    for figure in ("accuracy.png", "my-model/my-problems/head_map.png"):
        assert (results / "figures" / figure).stat().st_size > 10_000

"""Copies of the repository: one for each test that asks, and one in which the shipped study is run once for all."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".models", ".snakemake", "results", "__pycache__", ".*_cache")


class Workflow:
    """A copy of the repository in which Snakemake is run as a user would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results/tiny"
        self.connections = folder.parent / "connections"  # attempts of its jobs to reach other machines
        self.torch_importers = folder.parent / "torch_importers"  # the scripts that imported torch
        self.said = ""  # the output of the complete study's run
        self.runs_a_model: dict[str, bool] = {}  # by the scripts of that run

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", *arguments]
        notes = {"CONNECTIONS": str(self.connections), "TORCH_IMPORTERS": str(self.torch_importers)}
        env = {**os.environ, "PYTHONPATH": str(ROOT / "tests/offline"), **notes}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def written(self, store: str, model: str, dataset: str) -> list[Path]:
        """A store's files of a model and dataset, of every condition and decoding."""
        return sorted((self.results / store / model / dataset).glob("*.parquet"))

    def planned(self, *arguments: str) -> dict[str, int]:
        """Job counts by rule of a dry run; empty if nothing is to be done."""
        done = self.run("--dry-run", *arguments)
        said = done.stdout + done.stderr
        assert done.returncode == 0 and not re.search(r"\wError in", said), said
        counts = re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}


@pytest.fixture
def copy(tmp_path) -> Workflow:
    """Only the repository's files, with nothing computed; a test may change them."""
    folder = tmp_path / "r2a"
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    return Workflow(folder)


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Workflow:
    """The shipped study, complete. Tests read it; those that change something copy it first."""
    folder = tmp_path_factory.mktemp("study") / "r2a"
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    workflow = Workflow(folder)
    done = workflow.run("--cores", "2")  # on any machine: which jobs share a start depends on how many run at a time
    workflow.said = done.stdout + done.stderr
    assert done.returncode == 0, workflow.said
    plan = json.loads((folder / ".snakemake/r2a/plan.json").read_text())
    workflow.runs_a_model = {job["script"]: "gpus_needed" in job["resources"] for job in plan}
    return workflow

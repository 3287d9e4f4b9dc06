"""docs/extending.md: its studies are valid, and its files, changes and commands work in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from r2a.datasets import load_dataset
from r2a.study import load_study, stage_settings

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text()
BLOCK = re.compile(r"(?:^(?:At the end of )?`([^`]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE)
STUDY = {
    "study": "mine",
    "seed": 1,
    "models": {"m": {"path": "resources/models/tiny-qwen"}},
    "datasets": {"d": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}},
    "decodings": {"greedy": {"temperature": 0}},
}


def change(path, difference):
    """Put the lines of a difference with + in the place of those with -; the others tell where."""
    lines = difference.splitlines()
    before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
    text = path.read_text()
    assert text.count(before) == 1, (path, before)
    path.write_text(text.replace(before, after))


@pytest.fixture
def extended(study, tmp_path):
    """A copy of the complete study with every file and change of the page, and its commands run."""
    folder = tmp_path / "r2a"
    shutil.copytree(study.folder, folder)
    commands = []
    for name, language, text in BLOCKS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if language == "diff":
            change(path, text)
        elif language == "snakemake":
            path.write_text(path.read_text() + text)
        elif name:
            path.write_text(text)
        elif language == "sh":
            commands.append(text)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            ["sh", "-e", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, command + done.stdout + done.stderr
    return folder


def test_the_pages_studies_are_valid(tmp_path, monkeypatch):
    pairs = next(text for name, _, text in BLOCKS if name == "my/pairs.csv")
    studies = [yaml.safe_load(text) for name, language, text in BLOCKS if language == "yaml"]
    assert len(studies) == 4
    (tmp_path / "my").mkdir()
    (tmp_path / "my/pairs.csv").write_text(pairs)
    (tmp_path / "resources").symlink_to(Path(__file__).parents[2] / "resources")
    monkeypatch.chdir(tmp_path)
    for part in studies:
        study = load_study(STUDY | part)
    settings = stage_settings(study, "datasets", dataset="my-pairs")
    load_dataset(Path("my/pairs.parquet"), settings)
    assert pd.read_parquet("my/pairs.parquet")["pair"].nunique() == 2


def test_the_pages_score_grader_control_and_figure_work(extended):
    results = extended / "results/tiny"
    heads = pd.read_parquet(results / "heads/tiny-qwen/puzzles.parquet")
    assert heads["first_sentence"].between(0, 1).all()
    assert (heads["first_sentence_low"] <= heads["first_sentence"]).all()
    assert "first_sentence" in pd.read_csv(results / "figures/tiny-qwen/puzzles/head_atlas.csv")
    assert (extended / "my/verdicts.txt").read_text() == "True near\nNone error\n"
    length = pd.read_csv(results / "figures/tiny-llama/puzzles/length.csv")
    assert length["n_tokens"].min() > 0
    code = (
        "from r2a.figures.patching import PUT_IN; from r2a.patching import measurement; from r2a.roles import CONTROLS"
    )
    command = [sys.executable, "-c", f"{code}; assert set(CONTROLS) < set(PUT_IN)"]
    environment = os.environ | {"PYTHONPATH": "workflow/scripts"}
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

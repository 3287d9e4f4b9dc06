"""docs/extending.md: its studies are valid, and its files and commands work in a copy of the repository."""

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
BLOCK = re.compile(r"(?:^`([^`]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE)
STUDY = {
    "study": "mine",
    "seed": 1,
    "models": {"m": {"path": "resources/models/tiny-qwen"}},
    "datasets": {"d": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}},
    "decodings": {"greedy": {"temperature": 0}},
}


@pytest.fixture
def extended(study, tmp_path):
    """A copy of the complete study with every file of the page, and its commands run."""
    folder = tmp_path / "r2a"
    shutil.copytree(study.folder, folder)
    commands = []
    for name, language, text in BLOCKS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name:
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
    assert len(studies) == 5
    (tmp_path / "my").mkdir()
    (tmp_path / "my/pairs.csv").write_text(pairs)
    (tmp_path / "resources").symlink_to(Path(__file__).parents[2] / "resources")
    monkeypatch.chdir(tmp_path)
    for part in studies:
        if "length" not in part.get("judges", {}):  # its kind is not installed here
            study = load_study(STUDY | part)
    settings = stage_settings(study, "datasets", dataset="my-pairs")
    load_dataset(Path("my/pairs.parquet"), settings)
    assert pd.read_parquet("my/pairs.parquet")["pair"].nunique() == 2


def test_everything_that_the_page_adds_works_as_written(extended):
    results = extended / "results/tiny"
    perturbed = pd.read_csv(results / "tables/tiny-llama/comparisons/perturbation.csv").query("by == 'all'")
    assert perturbed["kind"].eq("shuffled_lines").sum() == 1
    drawn = (results / "figures/tiny-llama/comparisons/perturbation.svg").read_text()
    assert "<!-- lines in another order -->" in drawn
    judged = pd.read_parquet(results / "judgements/length/requests.parquet")
    assert judged.loc[judged["status"] == "scored", "score"].between(2, 10).all()
    heads = pd.read_parquet(results / "heads/tiny-qwen/puzzles.parquet")
    assert heads["first_sentence"].between(0, 1).all()
    assert (heads["first_sentence_low"] <= heads["first_sentence"]).all()
    assert "first_sentence" in pd.read_csv(results / "figures/tiny-qwen/puzzles/head_atlas.csv")
    assert (extended / "my/verdicts.txt").read_text() == "True near\nNone error\n"
    controls = pd.read_csv(results / "tables/tiny-llama/comparisons/patching_controls.csv")
    assert set(controls["control"]) >= {"effect", "opposite_vector"}
    assert set(controls["probe"]) == {"conclusion"}
    opposite = controls.query("control == 'opposite_vector' and component == 'resid_pre'")
    assert opposite["mean"].max() < controls.query("control == 'effect'")["mean"].max()
    assert "| `mindful` | Mindful 7B | `<\\|mind\\|>` |" in (extended / "docs/formats.md").read_text()
    assert pd.read_csv(results / "figures/tiny-llama/puzzles/length.csv")["n_tokens"].min() > 0
    code = f"""
from pathlib import Path
from r2a.extensions import HINTS, PERTURBATION_KINDS
from r2a.summary.registry import FINDINGS
path = Path({str(results)!r}) / "traces/tiny-llama/puzzles/with_reasoning.greedy.parquet"
settings = {{"model_labels": {{"tiny-llama": "M"}}, "dataset_labels": {{"puzzles": "D"}}}}
print(FINDINGS["length"].function(traces=[path], settings=settings).verdicts["tokens of reasoning"]["M", "D"].note)
print(HINTS["friend"].function().after("How many?", "7"))
print(PERTURBATION_KINDS["first_half_twice"].function.__module__)
"""
    places = f"{extended / 'workflow/scripts'}{os.pathsep}{extended / 'my/installed'}"
    environment = {**os.environ, "PYTHONPATH": places}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert said == "n = 176 traces\nHow many?\n\nMy friend is sure that it is 7.\nmy_r2a\n"


def test_what_the_page_adds_is_refused_by_name_where_it_is_not_installed(copy):
    done = copy.run("--dry-run", "--config", "perturbation={kinds: [shuffled_lines]}")
    assert done.returncode != 0
    assert "perturbation.kinds" in done.stdout + done.stderr
    assert "'cut'" in done.stdout + done.stderr

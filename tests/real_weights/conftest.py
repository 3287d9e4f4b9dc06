"""A part of the small real model's study, run once for all tests with real weights, in a copy of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[2]
MODELS = ROOT / ".models"
NOT_COPIED = shutil.ignore_patterns(".*", "results", "__pycache__")
REASONER, PRETRAINED = "smollm2-reasoner", "smollm2-135m"
TARGETS = [
    *(f"results/real-weights/attention/{REASONER}/{dataset}.h5" for dataset in ("word-problems", "comparisons")),
    *(
        f"results/real-weights/grades/{REASONER}/word-problems/{condition}.greedy.parquet"
        for condition in ("with_reasoning", "without_reasoning")
    ),
    f"results/real-weights/patching/{REASONER}/comparisons.h5",
    f"results/real-weights/diagnostics/{PRETRAINED}.h5",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("real_weights")


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the real models."""
    if not (MODELS / REASONER / "model.safetensors").exists():
        pytest.skip("the real models are not built: make real-model")
    return MODELS


@pytest.fixture(scope="session")
def results(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the reduced study: the stores that TARGETS names, and what they are made from."""
    folder = tmp_path_factory.mktemp("real-weights") / "r2a"
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    (folder / ".models").symlink_to(models)
    configuration = ["config/smollm2.yaml", "tests/real_weights/reduced.yaml"]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", *configuration, "--", *TARGETS]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests/offline"), "CONNECTIONS": str(folder.parent / "connections")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results/real-weights"


@pytest.fixture(scope="session")
def reasoner(models: Path) -> Any:
    """The reasoner as transformers runs it, without any of our own code."""
    return AutoModelForCausalLM.from_pretrained(models / REASONER, dtype=torch.float32).eval()

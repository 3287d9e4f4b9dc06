"""The workflow used as a module of another workflow, in another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from r2a.plan import PLAN

ROOT = Path(__file__).parents[2]
SNAKEFILE = f"""
configfile: "study.yaml"

module r2a:
    snakefile: "{ROOT}/Snakefile"
    config: config

use rule * from r2a as r2a_*

onstart:
    from r2a.plan import write_plan

    write_plan(workflow.dag.needrun_jobs())
"""
STUDY = """
study: elsewhere
seed: 1
models: {tiny: {path: resources/models/tiny-qwen, dtype: float32}}
datasets: {mine: {kind: problems, path: mine.jsonl}}
decodings: {greedy: {temperature: 0}}
"""


def test_neither_paths_nor_the_library_depend_on_where_the_importing_workflow_runs(tmp_path):
    other = tmp_path / "other/r2a"  # as another version that is installed
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError\n")
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "study.yaml").write_text(STUDY)
    row = {"uid": "a", "problem": "1 + 1?", "answer": "2", "area": "sums", "level": 1}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    made = "results/elsewhere/datasets/mine.parquet", "results/elsewhere/models/tiny.json"
    for arguments in (("r2a_all", "--dry-run"), (*made, "--cores", "1")):
        command = [sys.executable, "-m", "snakemake", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(other.parent)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert list(pd.read_parquet(tmp_path / made[0])["uid"]) == ["a"]
    model = json.loads((tmp_path / made[1]).read_text())  # from the repository; the importing workflow has none
    assert model["folder"] == str(ROOT / "resources/models/tiny-qwen")


def test_a_run_plans_its_jobs_unless_hooks_are_off(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "mine.jsonl").write_text(json.dumps({"uid": "a", "problem": "1 + 1?", "answer": "2"}) + "\n")
    wanted = [
        f"results/elsewhere/traces/tiny/mine/{condition}.greedy.parquet"
        for condition in ("with_reasoning", "without_reasoning")
    ]
    plan = tmp_path / PLAN
    for arguments in (["--no-hooks"], []):
        assert not plan.exists()
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--touch", *arguments, "--", *wanted]
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)  # touches nothing, as nothing is there
    outputs = [job["output"].get("traces") for job in json.loads(plan.read_text())]
    assert sorted(filter(None, outputs)) == wanted

"""The shipped study on a real Slurm cluster of one node, with a job killed on the way."""

import contextlib
import filecmp
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm import Cluster, obstacle

ROOT = Path(__file__).parents[2]
PROFILE = ["--profile", "profiles/slurm", "--slurm-status-command", "squeue", "--slurm-no-account"]
QUICK = [
    "--seconds-between-status-checks",
    "1",
    "--slurm-init-seconds-before-status-checks",
    "1",
    "--latency-wait",
    "5",
]

ENGINE_STARTS = "Initializing a V1 LLM engine"

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"no Slurm cluster here: {obstacle()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm"), n_cpus=2, memory_mb=16_000, n_gpus=2) as cluster:
        yield cluster


def test_a_job_killed_on_the_cluster_is_submitted_again_and_the_tables_come_out_the_same(cluster, study, tmp_path):
    folder = tmp_path / "r2a"
    shutil.copytree(
        ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv*", ".models", ".snakemake", "results", ".*_cache")
    )
    tables = [str(table.relative_to(study.folder)) for table in (study.results / "tables").rglob("*.csv")]
    assert len(tables) > 5
    # Everything that the cluster computes; figures are drawn on Snakemake's own machine anyway.
    command = [sys.executable, "-m", "snakemake", *PROFILE, *QUICK, "--", *sorted(tables)]
    with open(tmp_path / "out", "w") as output:
        snakemake = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        killed = kill_first_job_of("generate_traces", folder / "results/tiny/logs/traces", cluster, snakemake)
        assert snakemake.wait(timeout=2400) == 0, (tmp_path / "out").read_text()[-3000:]
    shown = (tmp_path / "out").read_text()
    assert f"SLURM-job '{killed}' failed" in shown, shown[-3000:]
    for table in tables:
        assert filecmp.cmp(study.folder / table, folder / table, shallow=False), table


@pytest.mark.parametrize("more", [[], ["--set-resources", "check_model:gres=gpu:1"]], ids=["gpus", "gpus and gres"])
def test_a_job_that_needs_a_gpu_asks_the_cluster_for_one_and_sees_it_alone(cluster, copy, more):
    wanted = [
        "--configfile",
        "config/config.yaml",
        "--config",
        "models={tiny-qwen: {gpus: 1}}",
        "--",
        "results/tiny/model_checks/tiny-qwen.json",
    ]
    command = [sys.executable, "-m", "snakemake", *PROFILE, *QUICK, "--retries=0", *more, *wanted]
    done = subprocess.run(command, cwd=copy.folder, capture_output=True, text=True, check=False)
    (job,) = set(re.findall(r"SLURM jobid '?(\d+)", done.stdout + done.stderr))
    asked = cluster.run("scontrol", "show", "job", job).stdout
    shown = asked.replace("gres/", "gres:")  # by version
    assert "TresPerJob=gres:gpu:1" in shown and ("TresPerNode=gres:gpu:1" in shown) == bool(more), asked
    # the GPU is pretended, so the job has it and then finds that torch does not see it
    log = (copy.results / "logs/model_checks/tiny-qwen.log").read_text()
    assert "tiny-qwen.json: has GPU 0\n" in log and "has GPU 0, but torch sees none" in log
    assert done.returncode != 0


def kill_first_job_of(rule, logs, cluster, snakemake):
    """SIGKILL every process of a rule's first job that starts an engine, as it does; return its Slurm id."""
    while snakemake.poll() is None:
        jobs = cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").stdout
        for line in jobs.splitlines():
            job, _, comment = line.partition(" ")
            processes = re.findall(r"^(\d+)", cluster.run("scontrol", "listpids", job).stdout, re.MULTILINE)
            if rule in comment and starting_engine(logs) & {*processes}:
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                return job
        time.sleep(0.1)
    raise AssertionError("Snakemake ended before a job of the rule started an engine")


def starting_engine(logs):
    """The processes whose job's log says that its engine starts, by the lock beside each log."""
    found = set()
    for lock in logs.rglob(".*.log.lock"):
        with contextlib.suppress(FileNotFoundError):  # Snakemake deletes a log before it starts the job
            if ENGINE_STARTS in lock.with_name(lock.name[1:].removesuffix(".lock")).read_text():
                found |= {*re.findall(r"process (\d+) on", lock.read_text())}
    return found

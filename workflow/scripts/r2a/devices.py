"""GPUs of a workstation, each leased to one job at a time, because Snakemake counts GPUs but does not assign them."""

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2a.progress import logger

# One for all users of a machine, on its own disk; with Slurm one per job, as a job may number its devices differently.
LEASES = Path("/tmp/r2a-gpus") / os.environ.get("SLURM_JOB_ID", "machine")
POLL_SECONDS = 0.2
FULL_CAPABILITY = (8, 0)  # of the first GPUs that compute in bfloat16 and have flash attention
in_place_of: dict[str, str] = {}  # the dtype that this process computes in, by the one that was asked for


class DeviceError(Exception):
    """A job has fewer GPUs than it needs; the message says why and what to do."""


@contextlib.contextmanager
def leased_gpus(resources: Any, job: str) -> Iterator[list[str]]:
    """Make resources.gpus_needed GPUs visible to this process, and no others, until the block ends.

    Waits until enough of the GPUs that it may use (CUDA_VISIBLE_DEVICES, or all) are free, with a line in the log that
    names the jobs that hold them. The kernel releases a killed job's lease. A job that needs no GPU sees none.
    resources.gpu is what Snakemake counted for the job. Raises DeviceError if Snakemake granted, or the machine has,
    fewer than needed.
    """
    n_needed, n_granted = resources.gpus_needed, resources.gpu
    if n_granted < n_needed:
        raise DeviceError(
            f"{job}: needs {n_needed} GPUs, but Snakemake's limit allows {n_granted}; raise --resources "
            f"gpu={n_needed}, or lower models.*.gpus"
        )
    usable = _usable_devices() if n_needed else []
    if len(usable) < n_needed:
        raise DeviceError(
            f"{job}: needs {n_needed} GPUs, but sees {len(usable)} ({', '.join(usable) or 'none'}); request more when "
            "submitting it, widen CUDA_VISIBLE_DEVICES, or lower models.*.gpus"
        )
    with contextlib.ExitStack() as leases:
        devices = _take(usable, n_needed, job, leases)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        try:
            yield devices
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def share_of_cores(n_threads: int, n_gpus: int, all_cores: int | None, all_gpus: int | None) -> int:
    """n_threads of a job on n_gpus, or its GPUs' share of the cores if that is less, so that jobs on all GPUs fit.

    all_cores, all_gpus: those that Snakemake may use; None if it does not count them, as on a cluster.
    """
    if not (n_gpus and all_cores and all_gpus):
        return n_threads
    return max(1, min(n_threads, all_cores * n_gpus // all_gpus))


def usable_dtype(dtype: str, capability: tuple[int, int] | None) -> str:
    """`dtype`, or float16 instead of bfloat16 on a GPU whose compute capability is below FULL_CAPABILITY.

    The replacement is logged, and kept in `in_place_of`.
    capability: the lowest of the GPUs', None without a GPU.
    """
    if dtype != "bfloat16" or capability is None or capability >= FULL_CAPABILITY:
        return dtype
    logger.warning(
        f"float16 in place of bfloat16, which a GPU of compute capability {'.'.join(map(str, capability))} does not "
        "compute; if values overflow, set models.*.dtype to float32"
    )
    in_place_of["bfloat16"] = "float16"
    return "float16"


def _usable_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [device.strip() for device in allowed.split(",") if device.strip()]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def _take(usable: list[str], n_needed: int, job: str, leases: contextlib.ExitStack) -> list[str]:
    """Lock `n_needed` of the devices, waiting for them; `leases` frees them."""
    taken: list[str] = []
    if n_needed == 0:
        return taken
    # One job collects at a time: two that each held half of what both need would wait for ever.
    with contextlib.closing(_Lock("queue")) as queue:
        if not queue.take():
            logger.info(f"{job}: waits for GPUs behind another waiting job")
            queue.wait()
        is_told = False
        while True:
            for device in usable:
                lease = _Lock(device)
                if device not in taken and len(taken) < n_needed and lease.take():
                    leases.enter_context(contextlib.closing(lease))
                    lease.write(job)
                    taken.append(device)
                else:
                    lease.close()
            if len(taken) == n_needed:
                logger.info(f"{job}: has GPU {', '.join(taken)}")
                return taken
            if not is_told:
                holders = [f"{device} ({(LEASES / device).read_text()})" for device in usable if device not in taken]
                logger.info(f"{job}: waits for {n_needed - len(taken)} of the GPUs in use: {'; '.join(holders)}")
                is_told = True
            time.sleep(POLL_SECONDS)


class _Lock:
    """A lock on a file in LEASES; the kernel drops it when the process that holds it ends, however it ends."""

    def __init__(self, name: str) -> None:
        umask = os.umask(0)  # other users take their turns at the same files
        try:
            LEASES.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(LEASES / name, os.O_RDWR | os.O_CREAT, 0o666)
        finally:
            os.umask(umask)

    def take(self) -> bool:
        """Whether the lock could be had at once."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def write(self, text: str) -> None:
        os.truncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def close(self) -> None:
        os.close(self.descriptor)

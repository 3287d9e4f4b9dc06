"""GPUs of a workstation, each leased to one job at a time, because Snakemake counts GPUs but does not assign them."""

import contextlib
import ctypes
import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from r2a.progress import logger

# One for all users of a machine, on its own disk; with Slurm one per job, as a job may number its devices differently.
LEASES = Path("/tmp/r2a-gpus") / os.environ.get("SLURM_JOB_ID", "machine")
POLL_SECONDS = 0.2
FULL_CAPABILITY = (8, 0)  # of the first GPUs that compute in bfloat16 and have flash attention
in_place_of: dict[str, str] = {}  # the dtype that this process computes in, by the one that was asked for
held: list[str] = []  # the GPUs that this process has leased
DEVICE = re.compile(r"\d+$|(GPU|MIG)-")  # a GPU's number or name, or that of a part of one, in CUDA_VISIBLE_DEVICES
ON_WINDOWS = "/usr/lib/wsl/lib/nvidia-smi"  # which is not always in PATH there
PR_SET_PDEATHSIG = 1  # of Linux' prctl
PATIENCE_SECONDS = 60  # until the memory of a process that has ended, or was killed, must be free


class DeviceError(Exception):
    """A job cannot use the GPUs that it needs; the message says why and what to do."""


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
            f"{job}: needs {n_needed} GPUs, but sees {len(usable)} ({', '.join(usable) or 'none'}) of those that "
            "nvidia-smi and CUDA_VISIBLE_DEVICES name; request more when submitting it, widen CUDA_VISIBLE_DEVICES, or "
            "lower models.*.gpus"
        )
    with contextlib.ExitStack() as leases:
        devices = _take(usable, n_needed, job, leases)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's; by default, CUDA counts from the fastest GPU
        held[:] = devices
        try:
            yield devices
        finally:
            held.clear()
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


def refuse_unseen(n_seen: int) -> None:
    """Raise DeviceError if torch sees fewer GPUs than this process has leased; it would compute on the CPU instead."""
    if n_seen < len(held):
        raise DeviceError(
            f"has GPU {', '.join(held)}, but torch sees {n_seen or 'none'}: the driver is too old (docs/gpu.md), a GPU "
            "is closed or lost (nvidia-smi), torch is a build for CPUs, or these are parts of GPUs (MIG), of which a "
            "process sees only one"
        )


@functools.cache
def end_forks_with_this_process() -> None:
    """Let processes that are forked from now on end when this one does, even if it is killed.

    vLLM's do not notice, and would keep the GPU's memory and the locks that they inherit: of the lease, the log and the
    ledger.
    """
    libc, forking = ctypes.CDLL(None), 0

    def note() -> None:
        nonlocal forking
        forking = os.getpid()

    def end_too() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != forking:  # it has ended already
            os.kill(os.getpid(), signal.SIGKILL)

    os.register_at_fork(before=note, after_in_child=end_too)


def wait_for_memory(percent: float) -> None:
    """Return when a share of each leased GPU's memory is free.

    Raises DeviceError, which names the processes that hold it, if it is not after PATIENCE_SECONDS. What nvidia-smi
    does not know counts as free.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    is_told = False
    while taken := [words for device in held for words in _taken_memory(device, percent)]:
        if time.monotonic() >= until:
            raise DeviceError(f"{'; '.join(taken)}; end the processes, or lower generation.gpu_memory_percent")
        if not is_told:
            logger.info(f"waits for memory: {'; '.join(taken)}")
            is_told = True
        time.sleep(POLL_SECONDS)


def memory_in_words() -> str:
    """How much memory is free on each leased GPU, and the processes that hold the rest."""
    return "; ".join(words for device in held for words in _taken_memory(device, 100)) or "all memory is free"


def _taken_memory(device: str, percent: float) -> Iterator[str]:
    """If less than a share of a GPU's memory is free: how much is, and who holds the rest."""
    query = "--query-gpu=memory.free,memory.total,memory.reserved,mig.mode.current"
    for free, total, reserved, mig in _nvidia_smi(query, device) if not device.startswith("MIG-") else ():
        # nothing is known of a part of a GPU, or of a GPU that shares the machine's memory
        if mig == "Enabled" or not (free.isdigit() and total.isdigit()):
            return
        usable = int(total) - (int(reserved) if reserved.isdigit() else 0)
        if int(free) < percent / 100 * usable:
            processes = _nvidia_smi("--query-compute-apps=pid,process_name,used_memory", device)
            holders = ", ".join(map(" ".join, processes)) or "no process that is visible from here"
            asked = f", but {percent:g} % are needed" if percent < 100 else ""
            yield f"GPU {device} has {free} of {usable} MiB free{asked}; the rest is held by (process, MiB): {holders}"


def _nvidia_smi(query: str, device: str | None = None) -> list[list[str]]:
    """The fields of nvidia-smi's answer, a list for each line; no line if it is missing, or fails, which is logged."""
    program = shutil.which("nvidia-smi") or ON_WINDOWS
    only = [] if device is None else [f"--id={device}"]
    try:
        command = [program, *only, query, "--format=csv,noheader,nounits"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError:
        return []
    except subprocess.CalledProcessError as error:
        logger.warning(f"nvidia-smi fails: {(error.stdout + error.stderr).strip()}")
        return []
    return [[field.strip() for field in line.split(",")] for line in run.stdout.splitlines() if "," in line]


def _usable_devices() -> list[str]:
    """The GPUs that this process may use, by nvidia-smi's numbers, and parts of GPUs by their names.

    A GPU that CUDA_VISIBLE_DEVICES names gets its number, so that it has one lease, however jobs name it.
    """
    numbers = {name: number for number, name in _nvidia_smi("--query-gpu=index,uuid")}
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return list(numbers.values())
    # CUDA ignores everything from the first entry on that is no GPU, such as -1
    named = takewhile(DEVICE.match, map(str.strip, allowed.split(",")))

    def number_of(device: str) -> str:
        return next((numbers[name] for name in numbers if device[:4] == "GPU-" and name.startswith(device)), device)

    return list(dict.fromkeys(map(number_of, named)))


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

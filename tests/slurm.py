"""A real Slurm cluster whose only node is this machine, on separate ports; needs Debian's packages and root."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from servers import free_ports
from waiting import wait_until

# Where srun looks inside a job: Snakemake's plugin takes SLURM_CONF out of a job's environment.
SYSTEM_CONFIGURATION, SYSTEM_GPUS = Path("/etc/slurm/slurm.conf"), Path("/etc/slurm/gres.conf")
NAME = "r2a-tests"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")


def obstacle() -> str:
    """Why no cluster can be started on this machine; empty if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "only root can start one"
    if not SYSTEM_CONFIGURATION.exists() or _is_left_over():
        return ""
    return f"{SYSTEM_CONFIGURATION} exists, so this machine is part of one"


def _is_left_over() -> bool:
    """Whether the system's configuration is the link of an interrupted run, whose cluster has ended."""
    controller = SYSTEM_CONFIGURATION.resolve().with_name("slurmctld.pid")
    is_ours = SYSTEM_CONFIGURATION.is_symlink() and f"ClusterName={NAME}\n" in SYSTEM_CONFIGURATION.read_text()
    return is_ours and not (controller.exists() and Path("/proc", controller.read_text().strip()).exists())


class Cluster:
    """Starts munged, slurmctld and slurmd, and ends them and every job on exit."""

    def __init__(self, folder: Path, n_cpus: int, memory_mb: int, n_gpus: int = 0) -> None:
        """n_gpus: of the node, pretended; Slurm counts and assigns them, but there is none."""
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        host, (controller, node) = socket.gethostname(), free_ports(2)
        settings = {
            "ClusterName": NAME, "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller, "SlurmdPort": node,
            "AuthType": "auth/munge", "AuthInfo": f"socket={folder}/munge.socket",
            "SlurmUser": "root", "SlurmdUser": "root",
            "StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool",
            "SlurmctldPidFile": folder / "slurmctld.pid", "SlurmdPidFile": folder / "slurmd.pid",
            "SlurmctldLogFile": folder / "slurmctld.log", "SlurmdLogFile": folder / "slurmd.log",
            # no systemd, no cgroups, no accounting daemon: this runs in a container
            "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none", "AccountingStorageType": "accounting_storage/none",
            "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core_Memory",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1", "ReturnToService": 2,
            "MinJobAge": 600, "KillWait": 5, "MailProg": "/bin/true", "MpiDefault": "none", "GresTypes": "gpu",
            "SlurmdParameters": "config_overrides",  # its cores and memory are those below, whatever this machine has
        }  # fmt: skip
        lines = [f"{key}={value}" for key, value in settings.items()]
        lines += [
            f"NodeName={host} NodeAddr=127.0.0.1 CPUs={n_cpus} RealMemory={memory_mb} Gres=gpu:{n_gpus} State=UNKNOWN",
            f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO",
        ]
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        devices = ["/dev/null", "/dev/zero", "/dev/full"][:n_gpus]
        (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))

    def __enter__(self) -> "Cluster":
        SYSTEM_CONFIGURATION.parent.mkdir(exist_ok=True)
        for path in (SYSTEM_CONFIGURATION, SYSTEM_GPUS):
            path.unlink(missing_ok=True)  # left by an interrupted run
            path.symlink_to(self.folder / path.name)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        folder = self.folder
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder}/munge.{suffix}" for option, suffix in names.items()]
        # --force: it refuses a socket in a folder that others can write to, such as /tmp
        self._start(["munged", "--foreground", "--force", *options])
        self._wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        self._start(["slurmctld", "-D"])
        self._start(["slurmd", "-D"])
        self._wait_for(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%t").stdout, "slurmd")
        return self

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--user=root")
        with contextlib.suppress(RuntimeError):
            self._wait_for(lambda: not self.run("squeue", "--noheader").stdout.strip(), "the jobs' end")
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=60)
            daemon.kill()
            daemon.wait()
        for path in (SYSTEM_CONFIGURATION, SYSTEM_GPUS):
            path.unlink()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _start(self, command: list[str]) -> None:
        with open(self.folder / f"{command[0]}.out", "wb") as output:
            self.daemons.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_until(condition)
        except AssertionError:
            logs = [f"{log.name}: {log.read_text()[-500:]}" for log in self.folder.glob("*.out")]
            raise RuntimeError(f"{what} did not come\n" + "\n".join(logs)) from None

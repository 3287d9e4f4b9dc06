"""Kill a small study and damage its files again and again, and count what is lost each time.

    make torture        writes results/benchmarks/torture.csv (half an hour on two cores)

After each fault, `snakemake` is started as a user would start it: with --unlock first if it asks for that, and after
deleting the file that it names, if it names one. In the end, all tables must equal those of an undisturbed run byte for
byte. Columns:

fault           what was done
times           how often
recovered       how often the study continued and gave the same results
lost            finished results that disappeared, or had to be deleted
computed_twice  finished results that were computed again although the fault damaged none of their inputs

A result is finished if it is a whole line of a ledger (a completion, a judge's reply, an ablated answer), a file in a
folder of parts (a rerun trace, a patched pair), or a file under results/ whose job Snakemake has recorded as complete.
The work in progress of a killed job is not finished, nor is a file that was written while no Snakemake was running.
"""

import argparse
import base64
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
import psutil
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = "tests/torture.yaml"
COPIED = ("Snakefile", "workflow", "config", "profiles", "resources", "envs", CONFIG)
OUTPUT = Path("results/benchmarks/torture.csv")
COLUMNS = ["fault", "times", "recovered", "lost", "computed_twice"]
JOB, SNAKEMAKE, BOTH = KINDS = ("a job killed", "Snakemake killed, its jobs go on", "Snakemake and its jobs killed")
TARGETS = (
    "tables/effect.csv",
    "tables/grader_disagreements.csv",
    "tables/judge_effect.csv",
    "tables/attention_by_correctness.csv",
    "tables/tiny-qwen/comparisons/perturbation.csv",
    "tables/tiny-qwen/comparisons/ablation.csv",
    "tables/tiny-qwen/comparisons/pair_funnel.csv",
    "tables/tiny-qwen/comparisons/patching_curves.csv",
    "tables/tiny-qwen/comparisons/carriers.csv",
    "figures/tiny-qwen/comparisons/head_map.png",
    "explorer/index.html",
)
PARTS, LEDGERS = ".*.parts", ".*.ledger.jsonl"
ORPHANS = ("generate_traces", "capture_attention", "ablate_heads", "patch_pairs")
SECONDS_INTO_JOB = 4
MOST_STARTS = 8  # in a row, without a fault between them
MOST_ROOM = 2**20  # KB
LONGEST = 18  # seconds from one kill to the next, at most
Finished = dict[str, tuple[int, int]]


class TortureError(Exception):
    """The study did not continue, or gave other results; the message says how."""


class Study:
    """A copy of the repository in which the small study runs, and what of it was finished at the last look."""

    def __init__(
        self, folder: Path, like: Path | None = None, config: str = CONFIG, targets: Sequence[str] = TARGETS,
        anew: str = "",
    ) -> None:  # fmt: skip
        """like: a folder to copy, with all that it has computed. anew: the rule that `clear` goes back to, or none."""
        self.folder, self.config, self.anew = folder, config, anew
        self.results = folder / "results" / yaml.safe_load((ROOT / config).read_text())["study"]
        self.targets = [f"{self.results.relative_to(folder)}/{target}" for target in targets]
        self.snakemake = [sys.executable, "-m", "snakemake", "--configfile", config]
        self.seen: Finished = {}
        self.groups: list[int] = []
        if like is not None:
            shutil.copytree(like, folder)
            return
        for name in COPIED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder / name)

    def start(self, *also: str) -> subprocess.Popen[bytes]:
        """Start Snakemake in the background, in its own process group, for the targets and any further arguments."""
        command = [*self.snakemake, "--cores", "2", "--", *self.targets, *also]
        with open(self.folder / "said", "wb") as said:
            snakemake = subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said, start_new_session=True)
        self.groups.append(snakemake.pid)
        return snakemake

    def obey(self) -> int:
        """Do what the last run asked for before it failed: unlock, or delete the files that it names; return how many.

        Raises TortureError if a job failed by itself and the run named no file.
        """
        said = (self.folder / "said").read_text(errors="replace")
        if "--unlock" in said:
            subprocess.run([*self.snakemake, "--unlock"], cwd=self.folder, capture_output=True, check=True)
            return 0
        named = set(re.findall(r"^ERROR \w+: (\S+): .*delete it and run again$", said, re.MULTILINE))
        if not named and "ERROR " in said:
            raise TortureError(said[-5000:])
        for name in named:
            (self.folder / name).unlink()
        return len(named)

    def finish(self, *also: str) -> int:
        """Run Snakemake as `start` does until it succeeds; return the number of files that had to be deleted."""
        n_deleted = 0
        for _ in range(MOST_STARTS):
            if self.start(*also).wait() == 0:
                return n_deleted
            n_deleted += self.obey()
        raise TortureError(f"{MOST_STARTS} starts did not end well: {(self.folder / 'said').read_text()[-5000:]}")

    def look(self, spoilt: Iterable[str] = ()) -> tuple[int, int]:
        """Count finished results that have gone since the last look (lost), and those made again (computed twice).

        spoilt: outputs that had to be made again. Call this only while no Snakemake runs.
        """
        now, spoilt = self._finished(), set(spoilt)
        lost = [path for path in self.seen.keys() - now.keys() - spoilt if ".parts/" not in path]
        again = [path for path, made in self.seen.items() if now.get(path, made) != made and path not in spoilt]
        if lost or again:
            print(f"lost: {lost}; computed twice: {again}", flush=True)
        self.seen = now
        return len(lost), len(again)

    def _finished(self) -> Finished:
        """Files recorded as complete, and parts, each with its inode and time."""
        recorded, incomplete = (_named_in(self.folder / ".snakemake" / place) for place in ("metadata", "incomplete"))
        parts = {str(path.relative_to(self.folder)) for path in self.results.rglob(f"{PARTS}/[!.]*.npz")}
        states = {name: self.folder / name for name in (recorded - incomplete) | parts}
        return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in states.items() if path.is_file()}

    def n_repeated_requests(self) -> int:
        """The number of ledger lines whose request is also in an earlier line, over all ledgers."""
        n = 0
        for ledger in self.results.rglob(LEDGERS):
            keys = [json.loads(line)["key"] for line in ledger.read_text().splitlines()]
            n += len(keys) - len(set(keys))
        return n

    def check(self, reference: dict[str, bytes]) -> None:
        """Raise TortureError if a table differs from the reference's."""
        tables = self.tables()
        other = [name for name in reference.keys() | tables.keys() if reference.get(name) != tables.get(name)]
        if other:
            raise TortureError(f"{self.folder}: other than in the undisturbed run: {sorted(other)}")

    def tables(self) -> dict[str, bytes]:
        """Every table, and every file of the trace explorer, by its path."""
        return {
            str(path.relative_to(self.results)): path.read_bytes()
            for place in ("tables", "figures", "explorer")
            for path in sorted((self.results / place).rglob("*"))
            if path.suffix in (".csv", ".html", ".js")
        }

    def made_by(self, rule: str) -> set[str]:
        """The outputs of a rule, and everything made from them."""
        command = [*self.snakemake, "--dry-run", "--forcerun", rule, "--", *self.targets]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        lines = re.findall(r"^ +output: (.*)$", done.stdout + done.stderr, re.MULTILINE)
        return {name.removesuffix(" (report)") for line in lines for name in line.split(", ")}

    def jobs(self) -> list[psutil.Process]:
        """The running processes of jobs, orphans among them."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or [""]
            is_job = command[-1].startswith(f"{self.folder}/.snakemake/scripts/")  # a shell's is one long word
            found += [process] if is_job and group_of(process) in self.groups else []
        return found

    def wait_for_job(self, script: str, snakemake: subprocess.Popen[bytes]) -> psutil.Process:
        """The process of a script that one Snakemake has started, as soon as it exists."""
        while snakemake.poll() is None:
            for process in self.jobs():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if group_of(process) == snakemake.pid and process.cmdline()[-1].endswith(f".{script}.py"):
                        return process
            time.sleep(0.1)
        raise TortureError(f"{script} did not run: {(self.folder / 'said').read_text()[-5000:]}")

    def clear(self) -> None:
        """Wait for orphans, then remove what was computed: all, or the outputs of the rule `anew` and what follows."""
        psutil.wait_procs(self.jobs())
        if self.anew:
            self.remove(self.made_by(self.anew))
        else:
            shutil.rmtree(self.results)
            shutil.rmtree(self.folder / ".snakemake")
        self.seen = {}

    def remove(self, outputs: Iterable[str]) -> None:
        for name in outputs:
            if (self.folder / name).is_file():
                (self.folder / name).unlink()


def group_of(process: psutil.Process) -> int | None:
    """The process group, None if the process has ended."""
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def _named_in(records: Path) -> set[str]:
    """The outputs that Snakemake's records of one kind are about; their names are base64, cut into folders if long."""
    names = ["".join(path.relative_to(records).parts).replace("@", "") for path in records.rglob("*") if path.is_file()]
    return {base64.urlsafe_b64decode(name).decode() for name in names}


class Tally:
    """The table's rows, as they accumulate."""

    def __init__(self, output: Path | None = None) -> None:
        self.rows: dict[str, dict[str, int]] = {}
        self.output = output

    def add(self, fault: str, **counts: int) -> None:
        row = self.rows.setdefault(fault, dict.fromkeys(COLUMNS[1:], 0))
        for column, n in counts.items():
            row[column] += n
        print(f"{time.strftime('%H:%M:%S')} {fault}: {row}", flush=True)
        if self.output is not None:
            table = pd.DataFrame([{"fault": fault, **row} for fault, row in self.rows.items()], columns=COLUMNS)
            self.output.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(self.output, index=False)


def kill(study: Study, snakemake: subprocess.Popen[bytes], kind: str, rng: random.Random) -> bool:
    """Kill what `kind` names by SIGKILL; return False if that is a job and none is running."""
    if kind == JOB:
        jobs = [process for process in study.jobs() if group_of(process) == snakemake.pid]
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends by itself
            if jobs:
                rng.choice(jobs).kill()
                return True
        return False
    if kind == SNAKEMAKE:
        snakemake.kill()
    else:
        os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    return True


def kill_often(study: Study, reference: dict[str, bytes], kinds: Sequence[str], rng: random.Random, tally: Tally,
               longest: float = LONGEST) -> None:  # fmt: skip
    """One kill of each of `kinds`, at random moments; the study starts over whenever it is complete."""
    left = list(kinds)
    pending: list[str] = []  # kills whose study is not complete yet
    snakemake, n_idle_starts = study.start(), 0
    while left or pending:
        try:
            status = snakemake.wait(timeout=rng.uniform(1, longest) if left else None)
        except subprocess.TimeoutExpired:
            if not kill(study, snakemake, left[0], rng):
                continue
            kind, n_idle_starts = left.pop(0), 0
            pending.append(kind)
            tally.add(kind, times=1)
            if kind != JOB:
                _count(study, tally, kind)
                snakemake = study.start()
            continue
        fault = pending[-1] if pending else ""
        if status == 0:
            if pending:
                _count(study, tally, fault)
                tally.add(fault, computed_twice=study.n_repeated_requests())
                study.check(reference)
                for kind in pending:
                    tally.add(kind, recovered=1)
            pending = []
            study.clear()
        else:
            tally.add(fault, lost=study.obey())
            _count(study, tally, fault)
            n_idle_starts += 1
            if n_idle_starts > MOST_STARTS:
                raise TortureError((study.folder / "said").read_text()[-5000:])
        if left or pending:
            snakemake = study.start()


def _count(study: Study, tally: Tally, fault: str, spoilt: Iterable[str] = ()) -> None:
    lost, computed_twice = study.look(spoilt)
    tally.add(fault, lost=lost, computed_twice=computed_twice)


def leave_orphans(study: Study, reference: dict[str, bytes], scripts: Sequence[str], tally: Tally) -> None:
    """Kill Snakemake while each script is running, and let the next Snakemake start the same job beside the orphan.

    The orphan is held until then, so that both run at the same time.
    """
    fault, snakemake = "a job beside its orphan", study.start()
    for script in scripts:
        orphan = study.wait_for_job(script, snakemake)
        time.sleep(SECONDS_INTO_JOB)
        orphan.suspend()
        snakemake.kill()
        snakemake.wait()
        _count(study, tally, fault)
        study.start().wait()  # finds the folder locked, and says so
        study.obey()
        snakemake = study.start()
        study.wait_for_job(script, snakemake)
        time.sleep(SECONDS_INTO_JOB)
        orphan.resume()
        tally.add(fault, times=1)
    if snakemake.wait() != 0:
        study.finish()
    _count(study, tally, fault)
    tally.add(fault, computed_twice=study.n_repeated_requests())
    study.check(reference)
    tally.add(fault, recovered=tally.rows[fault]["times"])


def spoil(
    study: Study, reference: dict[str, bytes], fault: str, rule: str, name: str, change: Callable[[Path], int],
    tally: Tally,
) -> None:  # fmt: skip
    """Apply `change`, which returns how many results it has destroyed, to a complete study's output of a rule."""
    # named, because Snakemake ignores a missing file if everything made from it exists
    file = str((study.results / name).relative_to(study.folder))
    study.finish(file)
    study.look()
    spoilt = study.made_by(rule)
    tally.add(fault, times=1, lost=change(study.results / name))
    if not (study.results / name).exists():  # as a killed job leaves it: what is made from it does not exist yet either
        study.remove(spoilt)
    tally.add(fault, lost=study.finish(file))
    _count(study, tally, fault, spoilt)
    tally.add(fault, computed_twice=study.n_repeated_requests())
    study.check(reference)
    tally.add(fault, recovered=1)


def tear_last_line(output: Path) -> int:
    """Truncate the last line of an output's ledger and remove the output, as a killed job would leave them."""
    ledger = output.with_name(f".{output.stem}.ledger.jsonl")
    os.truncate(ledger, ledger.stat().st_size - 7)
    output.unlink()
    return 1


def truncate(output: Path) -> int:
    os.truncate(output, output.stat().st_size // 2)
    return 0


def corrupt(output: Path) -> int:
    """Change a byte of the first data, because a small file ends in its metadata."""
    content = bytearray(output.read_bytes())
    content[100] ^= 0x40
    output.write_bytes(content)
    return 0


TRACES = "traces/tiny-qwen/comparisons/with_reasoning.greedy.parquet"
FILE_FAULTS = (
    (
        "a truncated last line",
        "generate_traces",
        TRACES,
        tear_last_line,
    ),
    ("a truncated last line", "judge_answers", "judgements/tiny-judge/requests.parquet", tear_last_line),
    ("a truncated HDF5 file", "capture_attention", "attention/tiny-qwen/comparisons.h5", truncate),
    ("a truncated HDF5 file", "capture_activations", "activations/tiny-qwen/comparisons.h5", truncate),
    ("a truncated HDF5 file", "patch_pairs", "patching/tiny-qwen/comparisons.h5", truncate),
    (
        "a corrupted Parquet file",
        "generate_traces",
        TRACES,
        corrupt,
    ),
    ("a corrupted Parquet file", "score_heads", "heads/tiny-qwen/comparisons.parquet", corrupt),
    ("a corrupted Parquet file", "align_pairs", "pairs/tiny-qwen/comparisons.parquet", corrupt),
)


def fill_disk(study: Study, reference: dict[str, bytes], tally: Tally) -> None:
    """Run the study on a disk, a tmpfs at its folder, that gets some more room each time it is full."""
    fault, room = "a full disk", 300
    fits = f"remount,size={shutil.disk_usage(study.folder).used // 1024 + room}k"
    subprocess.run(["mount", "-o", fits, study.folder], check=True)
    while study.start().wait() != 0:
        said = (study.folder / "said").read_text(errors="replace")
        if room > MOST_ROOM:
            raise TortureError(said[-5000:])
        room *= 2
        used = shutil.disk_usage(study.folder).used // 1024
        subprocess.run(["mount", "-o", f"remount,size={used + room}k", study.folder], check=True)
        tally.add(fault, times=1)
        _count(study, tally, fault)
    _count(study, tally, fault)
    tally.add(fault, computed_twice=study.n_repeated_requests())
    study.check(reference)
    tally.add(fault, recovered=tally.rows[fault]["times"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="How many, of the three kinds in turn.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments and of the jobs chosen.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--only", choices=["kills", "orphans", "disk", "files"], help="One part; all by default.")
    chosen = parser.parse_args()
    tally = Tally(chosen.output)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as disks:
        folder = Path(name)
        undisturbed = Study(folder / "undisturbed")
        undisturbed.finish()
        reference = undisturbed.tables()
        if chosen.only in (None, "kills"):
            kinds = list(itertools.islice(itertools.cycle(KINDS), chosen.kills))
            kill_often(Study(folder / "killed"), reference, kinds, random.Random(chosen.seed), tally)
        if chosen.only in (None, "orphans"):
            leave_orphans(Study(folder / "orphans"), reference, ORPHANS, tally)
        if chosen.only in (None, "disk") and os.geteuid() != 0:
            print("a full disk: not run, as only root can make one", flush=True)
        elif chosen.only in (None, "disk"):
            disk = folder / "disk"
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
            disks.callback(subprocess.run, ["umount", disk], check=True)
            fill_disk(Study(disk), reference, tally)
        if chosen.only in (None, "files"):
            spoilt = Study(folder / "spoilt", undisturbed.folder)
            for fault, rule, output, change in FILE_FAULTS:
                spoil(spoilt, reference, fault, rule, output, change, tally)


if __name__ == "__main__":
    main()

"""Leases of GPUs, with pretended devices and real processes."""

import logging
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from fake_nvidia_smi import write_nvidia_smi
from r2a import devices
from r2a.config_file import TRIED
from r2a.devices import DeviceError, leased_gpus, share_of_cores, usable_dtype, wait_for_memory
from r2a.model_check import check_model
from r2a.models import ModelError, load_model, read_manifest
from r2a.store import provenance
from random_traces import write_random_traces
from waiting import wait_until

# Takes leases forever; each time, it marks its devices with its process id, and reports one that a living process has.
WORKER = """
    import os, random, sys, time
    from pathlib import Path
    from types import SimpleNamespace
    from r2a import devices
    devices.LEASES, devices.POLL_SECONDS = Path(sys.argv[1]) / "leases", 0.002
    marks = Path(sys.argv[1])
    def lives(process):
        try:
            return "State:\\tZ" not in Path(f"/proc/{process}/status").read_text()
        except OSError:
            return False
    while True:
        asked = SimpleNamespace(gpus_needed=random.choice([1, 1, 2, 3]), gpu=4)
        with devices.leased_gpus(asked, f"job {os.getpid()}") as taken:
            for device in taken:
                mark = marks / f"mark-{device}"
                owner = mark.read_text() if mark.exists() else ""
                if owner and owner != str(os.getpid()) and lives(owner):
                    (marks / "shared").write_text(f"{device}: {owner} and {os.getpid()}")
                mark.write_text(str(os.getpid()))
            with open(marks / "count", "a") as count:
                count.write(f"{len(taken)}\\n")
            time.sleep(random.uniform(0, 0.01))
            for device in taken:
                (marks / f"mark-{device}").unlink()
"""


def asked(n_needed, n_granted):
    """A job's resources, as Snakemake passes them."""
    return SimpleNamespace(gpus_needed=n_needed, gpu=n_granted)


@pytest.fixture(autouse=True)
def leases(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "LEASES", tmp_path / "leases")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("PYTHONPATH", str(Path(devices.__file__).parents[1]))  # for the processes that a test starts
    return tmp_path


@pytest.mark.slow
def test_eight_jobs_under_random_kills_never_share_a_device_and_leak_none(leases):
    def start():
        return subprocess.Popen([sys.executable, "-c", textwrap.dedent(WORKER), str(leases)], stderr=subprocess.DEVNULL)

    def n_leases():
        return len((leases / "count").read_text().splitlines()) if (leases / "count").exists() else 0

    draw = random.Random(1)
    workers = [start() for _ in range(8)]
    try:
        for kill in range(30):
            wait_until(lambda kill=kill: n_leases() >= 10 * kill)  # those that are killed are at work
            time.sleep(draw.uniform(0.02, 0.15))
            number = draw.randrange(8)
            workers[number].send_signal(signal.SIGKILL)
            workers[number].wait()
            workers[number] = start()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert not (leases / "shared").exists(), (leases / "shared").read_text()
    assert n_leases() >= 290
    with leased_gpus(asked(4, 4), "after all were killed") as taken:
        assert sorted(taken) == ["0", "1", "2", "3"]


def test_a_job_sees_its_own_devices_alone_and_others_get_the_rest():
    with leased_gpus(asked(1, 1), "first") as first:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(first)
        os.environ["CUDA_VISIBLE_DEVICES"] = "0,1,2,3"
        with leased_gpus(asked(3, 3), "second") as second:
            assert sorted(first + second) == ["0", "1", "2", "3"]


def test_a_job_without_gpus_sees_none():
    with leased_gpus(asked(0, 0), "job"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_devices_are_taken_from_those_allowed(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ad9, 7")
    with leased_gpus(asked(2, 2), "job") as taken:
        assert taken == ["GPU-5ad9", "7"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, ["0", "1"]),
        ("1,0", ["1", "0"]),
        ("1, 0,", ["1", "0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,0", ["1"]),
        ("0,0", ["0"]),
        ("GPU-bbbb-2", ["1"]),
        ("GPU-bb,GPU-aa,1", ["1", "0"]),
        ("GPU-cc", ["GPU-cc"]),
        ("MIG-aaaa,MIG-bbbb", ["MIG-aaaa", "MIG-bbbb"]),
    ],
)
def test_gpus_are_those_that_cuda_would_see_each_by_its_number(allowed, expected, monkeypatch, tmp_path):
    write_nvidia_smi(tmp_path, [{"uuid": "GPU-aaaa-1"}, {"uuid": "GPU-bbbb-2"}])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if allowed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert devices._usable_devices() == expected


def test_cuda_counts_gpus_as_nvidia_smi_does():
    with leased_gpus(asked(1, 1), "job"):
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_what_a_failing_nvidia_smi_says_is_logged(monkeypatch, tmp_path, caplog):
    write_nvidia_smi(
        tmp_path, says="Unable to determine the device handle for GPU0000:41:00.0: Unknown Error", code=255
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(DeviceError, match=r"needs 1 GPUs, but sees 0 \(none\)"):
        leased_gpus(asked(1, 1), "job").__enter__()
    assert "Unable to determine the device handle" in caplog.text


def test_a_model_is_not_loaded_onto_the_cpu_in_place_of_a_gpu_and_its_check_does_not_blame_it(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_random_traces(tmp_path)
    with leased_gpus(asked(2, 2), "job"):
        for run in (
            lambda: load_model(read_manifest(tmp_path / "manifest.json"), "sdpa"),
            lambda: check_model(tmp_path / "manifest.json", tmp_path / "check.json", {"model": "m", "stages": TRIED}),
        ):
            with pytest.raises(DeviceError, match="has GPU 0, 1, but torch sees none: the driver is too old"):
                run()
    assert not (tmp_path / "check.json").exists()
    assert load_model(read_manifest(tmp_path / "manifest.json"), "sdpa").device.type == "cpu"


def test_a_process_that_holds_a_gpus_memory_is_waited_for_and_named(monkeypatch, tmp_path, caplog):
    def write(free, mig="Disabled"):
        told = [{"memory.free": free, "memory.total": "24564", "mig.mode.current": mig}]
        write_nvidia_smi(tmp_path, told, ["4711, python, 22000"] if free == "2000" else [])

    def end_process_once_it_is_named():
        wait_until(lambda: "waits for memory" in caplog.text)
        write("24000")

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # 64 MiB of the usable ones are the display's; of a part of a GPU, nothing is known
    for told in (("[N/A]",), ("24000",), ("2000", "Enabled")):
        write(*told)
        with leased_gpus(asked(1, 1), "job"):
            wait_for_memory(99)
    write("2000")
    with caplog.at_level(logging.INFO, "r2a"), ThreadPoolExecutor(1) as thread, leased_gpus(asked(1, 1), "job"):
        thread.submit(end_process_once_it_is_named)
        wait_for_memory(90)
    monkeypatch.setattr(devices, "PATIENCE_SECONDS", 0)
    write("2000")
    words = r"GPU 0 has 2000 of 24064 MiB free, but 90 % are needed; .* 4711 python 22000; end the processes"
    with leased_gpus(asked(1, 1), "job"), pytest.raises(DeviceError, match=words):
        wait_for_memory(90)
    wait_for_memory(90)  # no lease, no wait


def test_a_killed_jobs_engine_dies_with_it_and_frees_the_lease(leases):
    """As vLLM's engine, the child is forked, holds its parent's lease, and waits for ever."""
    job = f"""
import multiprocessing, os, time
from pathlib import Path
from types import SimpleNamespace
from r2a import devices
devices.LEASES = Path({str(leases / "leases")!r})
with devices.leased_gpus(SimpleNamespace(gpus_needed=4, gpu=4), "job"):
    devices.end_forks_with_this_process()
    engine = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    engine.start()
    print(engine.pid, flush=True)
    engine.join()
"""
    killed = subprocess.Popen([sys.executable, "-c", job], stdout=subprocess.PIPE)
    engine = int(killed.stdout.readline())
    killed.kill()
    killed.wait()
    with leased_gpus(asked(4, 4), "next") as taken:  # which waits for as long as the engine lives
        assert len(taken) == 4
    wait_until(
        lambda: not Path(f"/proc/{engine}").exists() or "State:\tZ" in Path(f"/proc/{engine}/status").read_text()
    )


def test_a_waiting_job_names_who_has_the_devices(leases, caplog):
    holder = subprocess.Popen(
        [sys.executable, "-c", f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from r2a import devices
devices.LEASES = Path({str(leases / "leases")!r})
with devices.leased_gpus(SimpleNamespace(gpus_needed=4, gpu=4), "attention of R1"):
    print("held", flush=True)
    sys.stdin.read()
"""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip

    def end_holder_once_it_is_named():
        try:
            wait_until(lambda: "waits for 2" in caplog.text)
        finally:
            holder.stdin.close()

    assert holder.stdout.readline() == b"held\n"
    with caplog.at_level(logging.INFO, "r2a"), ThreadPoolExecutor(1) as thread:
        thread.submit(end_holder_once_it_is_named)
        with leased_gpus(asked(2, 2), "traces of R1"):
            assert holder.wait() == 0
    assert "traces of R1: waits for 2 of the GPUs in use: 0 (attention of R1); 1 (attention of R1)" in caplog.text


def test_a_request_that_snakemake_clipped_is_refused():
    with pytest.raises(DeviceError, match="needs 2 GPUs, but Snakemake's limit allows 1; raise --resources gpu=2"):
        leased_gpus(asked(2, 1), "job").__enter__()


def test_too_few_devices_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(DeviceError, match=r"needs 2 GPUs, but sees 1 \(0\)"):
        leased_gpus(asked(2, 2), "job").__enter__()


def test_bfloat16_becomes_float16_only_where_a_gpu_cannot_compute_in_it_and_provenance_says_so(caplog, monkeypatch):
    monkeypatch.setattr(devices, "in_place_of", {})
    assert usable_dtype("bfloat16", None) == usable_dtype("bfloat16", (8, 0)) == "bfloat16"
    assert usable_dtype("float32", (7, 5)) == "float32"
    assert "dtype_in_place_of" not in provenance({})
    assert usable_dtype("bfloat16", (7, 5)) == "float16"
    assert "float16 in place of bfloat16, which a GPU of compute capability 7.5 does not compute" in caplog.text
    assert provenance({})["dtype_in_place_of"] == {"bfloat16": "float16"}


def test_a_model_that_overflows_in_float16_is_told_a_format_that_its_gpu_computes_in(tmp_path, monkeypatch):
    write_random_traces(tmp_path)
    manifest = read_manifest(tmp_path / "manifest.json")
    manifest["models"]["random"]["dtype"] = "float16"
    model = load_model(manifest, "sdpa")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(6e4)
    for replaced, remedy in (({}, "bfloat16 or float32"), ({"bfloat16": "float16"}, "float32")):
        monkeypatch.setattr("r2a.models.loading.in_place_of", replaced)
        with pytest.raises(ModelError, match=rf"infinity in float16.*; set models\.random\.dtype to {remedy}$"):
            model(torch.tensor([[1, 5, 6, 7]]))


def test_jobs_on_all_gpus_fit_into_the_cores():
    for n_gpus, all_cores, all_gpus in ((1, 16, 8), (2, 16, 8), (1, 64, 8), (1, 4, 8), (3, 20, 4)):
        n_threads = share_of_cores(8, n_gpus, all_cores, all_gpus)
        assert 1 <= n_threads <= 8
        assert n_threads == 1 or n_threads * (all_gpus // n_gpus) <= all_cores
    assert share_of_cores(8, 0, 16, 8) == share_of_cores(8, 1, None, 8) == share_of_cores(8, 1, 16, None) == 8


def test_the_slurm_profile_names_every_rule_that_may_use_a_gpu():
    root = Path(__file__).parents[2]
    profile = (root / "profiles/slurm/config.yaml").read_text()
    listed = re.search(r"(?m)^# set-resources:\n(?:#   .*\n)+", profile)[0]
    asked = yaml.safe_load(re.sub("(?m)^# ", "", listed))["set-resources"]
    written = "\n".join(path.read_text() for path in root.glob("workflow/rules/*.smk"))
    rules = re.split("(?m)^(?=rule |use rule )", written)
    on_gpus = {rule.split()[1].rstrip(":") for rule in rules if "**ON_MODEL" in rule or "**ON_JUDGE" in rule}
    of_shards = re.findall(r"(?m)^use rule (\w+) as (\w+)", written)
    assert asked.keys() == on_gpus | {shard for rule, shard in of_shards if rule in on_gpus}
    assert {tuple(of.items()) for of in asked.values()} == {(("slurm_partition", "GPU_PARTITION"), ("gres", "gpu:1"))}

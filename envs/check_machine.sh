#!/usr/bin/env bash
# usage: check_machine.sh PYTHON cpu|gpu
# Stops, naming the remedy, where the machine lacks something that pip cannot install.
set -euo pipefail
python=$1
environment=$2

stop() {
    echo "$1" >&2
    exit 1
}

case $environment in
    cpu | gpu) ;;
    *) stop "ENVIRONMENT=$environment: there are two environments, cpu and gpu" ;;
esac
command -v "$python" > /dev/null ||
    stop "$python is missing: sudo apt-get install python3 python3-venv, or name another with make PYTHON=..."
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' ||
    stop "$python is $("$python" --version 2>&1), but 3.11 to 3.14 is needed: name another with make PYTHON=..."
"$python" -c 'import ensurepip, venv' 2> /dev/null ||
    stop "$python cannot create environments: sudo apt-get install python3-venv"
"$python" -c '
import platform, sys
name, version = platform.libc_ver()
sys.exit(name != "glibc" or tuple(map(int, version.split("."))) < (2, 31))' ||
    stop "The packages are built for glibc 2.31 or newer (Debian 11, Ubuntu 20.04, RHEL 9), which this system lacks: use the Dockerfile"
# immutables, which Snakemake needs, is compiled from version 3.14 on; Triton compiles its driver on every GPU machine,
# and loads it from its cache.
"$python" - "$environment" << 'END' || exit 1
import ctypes, os, pathlib, shlex, subprocess, sys, sysconfig, tempfile
if sys.version_info < (3, 14) and sys.argv[1] == "cpu":
    sys.exit()
folders = [tempfile.gettempdir()] + [os.environ.get("TRITON_HOME") or pathlib.Path.home()] * (sys.argv[1] == "gpu")
for folder in folders:
    try:
        with tempfile.TemporaryDirectory(dir=folder) as made:
            library = pathlib.Path(made, "tried.so")
            compiler = [*shlex.split(os.environ.get("CC", "gcc")), "-xc", "-", "-shared", "-fPIC", "-o", str(library)]
            headers = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
            source = b"#include <Python.h>\n#include <stdlib.h>\nint tried;\n"
            try:
                subprocess.run([*compiler, *headers], input=source, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                sys.exit("A package is compiled here, which needs a compiler and Python's headers: "
                         "sudo apt-get install gcc libc6-dev python3-dev")
            ctypes.CDLL(str(library))
    except OSError as error:
        sys.exit(f"A library that is compiled in {folder} cannot be loaded from there ({error}): set TMPDIR, and on GPU "
                 "machines TRITON_HOME, to folders that can be written to, on a file system without noexec")
END

if [ "$environment" = cpu ]; then
    # vLLM's CPU kernels are linked to it; without it vLLM starts and then fails in an obscure place.
    "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2> /dev/null ||
        stop "The system library libnuma.so.1, which vLLM needs, is missing: sudo apt-get install libnuma1"
    exit
fi

# From here on: a machine with NVIDIA GPUs, before 9 GB are downloaded.
oldest_driver=580 # of CUDA 13, which the lock's torch and vLLM are built for
oldest_capability=7.5
PATH=$PATH:/usr/lib/wsl/lib # where Windows puts nvidia-smi
if ! command -v nvidia-smi > /dev/null; then
    compgen -G "/dev/nvidia[0-9]*" > /dev/null &&
        stop "nvidia-smi is missing beside a GPU: start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    stop "nvidia-smi is missing: install NVIDIA's driver, version $oldest_driver or newer, or take ENVIRONMENT=cpu"
fi
only=()
case ${CUDA_VISIBLE_DEVICES-all} in
    all | MIG-*) ;;
    '' | -* | NoDevFiles) stop "CUDA_VISIBLE_DEVICES='$CUDA_VISIBLE_DEVICES' hides all GPUs: unset it, or take ENVIRONMENT=cpu" ;;
    *) only=(--id="${CUDA_VISIBLE_DEVICES// /}") ;; # an old one beside them is no obstacle
esac
of_gpus() { nvidia-smi "${only[@]}" --query-gpu="$1" --format=csv,noheader,nounits 2>&1; }
is_older() { [ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort --version-sort | head -n 1)" = "$1" ]; }
# With NVIDIA's package for forward compatibility, an old driver runs a newer CUDA on GPUs of the data centre.
runs_cuda_13() {
    "$python" -c '
import ctypes
version = ctypes.c_int()
ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
raise SystemExit(version.value < 13000)' 2> /dev/null
}

# Asked by itself, because drivers that are too old do not know all that is asked below.
drivers=$(of_gpus driver_version) && [[ $drivers =~ ^[0-9] ]] ||
    stop "nvidia-smi finds no GPU that works ($drivers): is the driver loaded, and was the machine restarted after its update?"
driver=$(head -n 1 <<< "$drivers")
is_older "$driver" "$oldest_driver" && ! runs_cuda_13 &&
    stop "The NVIDIA driver is $driver, but the locked builds for CUDA 13 need $oldest_driver or newer: update the driver"
gpus=$(of_gpus index,name,compute_cap,memory.free,memory.total,compute_mode,mig.mode.current) || stop "$gpus"
while IFS=, read -r index name capability free total mode mig; do
    is_older "$capability" "$oldest_capability" &&
        stop "GPU $index ($name) has compute capability $capability, but the locked torch needs $oldest_capability (Turing) or newer: if there are others, name them in CUDA_VISIBLE_DEVICES, here and for snakemake"
    [ "$mode" = Prohibited ] &&
        stop "GPU $index ($name) is closed to computations: sudo nvidia-smi --id=$index --compute-mode=DEFAULT"
    is_older "$capability" 8.0 && echo "GPU $index ($name) has no bfloat16: models run in float16 on it."
    [ "$mig" = Enabled ] &&
        echo "GPU $index ($name) is split by MIG: jobs use its first part, unless CUDA_VISIBLE_DEVICES names others (nvidia-smi -L)."
    # vLLM takes 90 % of a GPU by default, and does not start where less is free. Shared memory is given as [N/A], and of parts nothing is known.
    if [ "$mig" != Enabled ] && [[ $free,$total =~ ^[0-9]+,[0-9]+$ ]] && [ $((free * 10)) -lt $((total * 9)) ]; then
        echo "GPU $index ($name) has $free of $total MiB free. vLLM takes 90 % (generation.gpu_memory_percent) and would not start beside:"
        processes=$(nvidia-smi --id="$index" --query-compute-apps=pid,process_name,used_memory --format=csv,noheader) || true
        sed 's/^/  /' <<< "${processes:-no process that is visible from here: of a display, or of another container}"
    fi
done <<< "${gpus//, /,}"
if [ "$(wc -l <<< "$gpus")" -gt 1 ] && [ "$(df --output=avail -k /dev/shm | tail -n 1)" -lt 1000000 ]; then
    echo "/dev/shm has less than 1 GB, too little for a model on several GPUs: start the container with --ipc=host."
fi
# pip downloads all packages into TMPDIR, and keeps them in its cache, before it installs them.
has_room() { # folder, gigabytes, remedy
    local gigabytes
    gigabytes=$(($(df --output=avail -k "$1" | tail -n 1) / 1000000))
    [ "$gigabytes" -ge "$2" ] || stop "The GPU environment takes $2 GB in $1 while it is installed, and $gigabytes GB are free there: $3"
}
has_room . 20 "make room, or clone the repository to a larger disk"
has_room "${TMPDIR:-/tmp}" 6 "set TMPDIR to a folder on a larger disk"
if [ -z "${PIP_NO_CACHE_DIR-}" ]; then
    cache=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}
    mkdir -p "$cache" 2> /dev/null || exit 0 # then pip keeps nothing there
    has_room "$cache" 6 "set PIP_CACHE_DIR to a folder on a larger disk, or PIP_NO_CACHE_DIR=1"
fi

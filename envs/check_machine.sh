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
# immutables, which Snakemake needs, is compiled from version 3.14 on; Triton compiles its driver on every GPU machine.
"$python" -c '
import pathlib, shutil, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
is_needed = sys.version_info >= (3, 14) or sys.argv[1] == "gpu"
sys.exit(is_needed and not (shutil.which("gcc") and header.exists()))' "$environment" ||
    stop "A package is compiled here, which needs a compiler and Python's headers: sudo apt-get install gcc python3-dev"

if [ "$environment" = cpu ]; then
    # vLLM's CPU kernels are linked to it; without it vLLM starts and then fails in an obscure place.
    "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2> /dev/null ||
        stop "The system library libnuma.so.1, which vLLM needs, is missing: sudo apt-get install libnuma1"
    exit
fi

# From here on: a machine with NVIDIA GPUs, before 9 GB are downloaded.
oldest_driver=580 # of CUDA 13, which the lock's torch and vLLM are built for
oldest_capability=7.5
command -v nvidia-smi > /dev/null ||
    stop "nvidia-smi is missing: install NVIDIA's driver, version $oldest_driver or newer, or take ENVIRONMENT=cpu"
gpus=$(nvidia-smi --query-gpu=index,name,driver_version,compute_cap,memory.free,memory.total --format=csv,noheader,nounits) ||
    stop "nvidia-smi finds no GPU that works ($gpus): is the driver loaded, and was the machine restarted after its update?"
is_older() { [ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort --version-sort | head -n 1)" = "$1" ]; }
while IFS=, read -r index name driver capability free total; do
    is_older "$driver" "$oldest_driver" &&
        stop "The NVIDIA driver is $driver, but the locked builds for CUDA 13 need $oldest_driver or newer: update the driver"
    is_older "$capability" "$oldest_capability" &&
        stop "GPU $index ($name) has compute capability $capability, but the locked torch needs $oldest_capability (Turing) or newer"
    is_older "$capability" 8.0 && echo "GPU $index ($name) has no bfloat16: models run in float16 on it."
    # vLLM takes 90 % of a GPU by default, and does not start where less is free.
    if [ $((free * 10)) -lt $((total * 9)) ]; then
        echo "GPU $index ($name) has $free of $total MiB free. vLLM takes 90 % (generation.gpu_memory_percent) and would not start beside:"
        nvidia-smi --id="$index" --query-compute-apps=pid,process_name,used_memory --format=csv,noheader | sed 's/^/  /'
    fi
done <<< "${gpus//, /,}"
gigabytes=$(($(df --output=avail -k . | tail -n 1) / 1000000))
[ "$gigabytes" -ge 20 ] || stop "The GPU environment takes 20 GB while it is installed, and $gigabytes GB are free here"

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
# immutables, which Snakemake needs, is compiled from version 3.14 on.
"$python" -c '
import pathlib, shutil, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
sys.exit(sys.version_info >= (3, 14) and not (shutil.which("gcc") and header.exists()))' ||
    stop "On Python 3.14 a package is compiled, which needs: sudo apt-get install gcc python3-dev"
# vLLM's CPU kernels are linked to it; without it vLLM starts and then fails in an obscure place.
[ "$environment" = gpu ] || "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2> /dev/null ||
    stop "The system library libnuma.so.1, which vLLM needs, is missing: sudo apt-get install libnuma1"

#!/usr/bin/env bash
# usage: install.sh cpu|gpu PYTHON
# Installs a lock into the environment that PYTHON belongs to: the Makefile and the conda environments share this.
set -euo pipefail
environment=$1
python=$2
envs=$(dirname "$0")
torch=$(grep '^torch==' "$envs/requirements.in")

# What torch needs depends on its build. The GPU lock names all of it, so it pins the versions for every build.
echo "Step 1 of 2: $torch with what it needs (200 MB for a CPU build, 3 GB for the default build)"
"$python" -m pip install --constraint "$envs/gpu.lock.txt" "$torch"
# A GPU machine may have pip set up for CPU builds.
if [ "$environment" = gpu ] && ! "$python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
    echo "pip took a torch without CUDA: see 'pip config list' and PIP_* variables for where it found that" >&2
    exit 1
fi

# The locks are complete and hold versions that contradict some package's wishes: see README.md.
echo "Step 2 of 2: $(wc -l < "$envs/$environment.lock.txt") more packages, one to five minutes without further word"
"$python" -m pip install --quiet --no-deps --requirement "$envs/$environment.lock.txt"

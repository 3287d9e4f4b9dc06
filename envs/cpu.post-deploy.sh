#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: 3e49d3acd8007632f6972358797a1b58321e5ad3d392c5f0fc92c6ccf712e550
set -euo pipefail
bash envs/install.sh cpu python

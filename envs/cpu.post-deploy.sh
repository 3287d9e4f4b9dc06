#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: daab49fcd13a28700a6035fd5639bc1f03d038b352b9cd616566f3e024ff0994
set -euo pipefail
bash envs/install.sh cpu python

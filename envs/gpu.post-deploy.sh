#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: 7b42b49f37bbf883b94b0f619d92a48390082867fe973246774a33a7aaaac660
set -euo pipefail
bash envs/install.sh gpu python

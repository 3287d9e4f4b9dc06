#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: e8c3a5fb98cdb996d34554653cf86af52f25772bd78053f03b2aa8f3b9fd8197
set -euo pipefail
bash envs/install.sh cpu python

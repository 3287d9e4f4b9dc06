#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: c4d400d65b0dba3319ea68e002f5fe7e3366edd7402ff9ec3cc96c311666e38a
set -euo pipefail
bash envs/install.sh gpu python

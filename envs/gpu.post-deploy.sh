#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: 976b8a60dda274701b7a4667b28925a07d07165f7e931ff984e70851894e1b27
set -euo pipefail
bash envs/install.sh gpu python

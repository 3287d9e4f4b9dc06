#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: 5c3a67279976dc4e3a6ef8050dd3eb097bd8762070b0f7fd292b66c984b4928c
set -euo pipefail
bash envs/install.sh cpu python

#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: 77beffd983e7b80683dcf13136cd7d2d7623cd317cc4fe2aa00411e5081d909b
set -euo pipefail
bash envs/install.sh cpu python

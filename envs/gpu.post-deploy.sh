#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: 8014699dcf52c6c6cfd951f52d1f81addf66e9cb14299a2be813351a3b99b746
set -euo pipefail
bash envs/install.sh gpu python

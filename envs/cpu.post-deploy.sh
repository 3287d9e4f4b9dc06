#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, from the folder of the Snakefile.
# A changed hash, written by `make lock`, makes Snakemake build the environment anew.
# locks: ec121bd66a2bddb2fd5c3be4dd654e1a284d898752004d8d1aee674f5baf1bd0
set -euo pipefail
bash envs/install.sh cpu python

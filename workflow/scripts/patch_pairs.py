"""Patch each pair's runs into each other, and controls into them, and store every metric."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.patching.runs import patch_pairs
    from r2a.shards import WHOLE
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        patch_pairs(
            Path(snakemake.input.pairs),
            Path(snakemake.input.activations),
            Path(snakemake.input.manifest),
            Path(snakemake.output.patching),
            snakemake.params.settings,
            snakemake.resources.batch_tokens,
            snakemake.wildcards.get("shard", WHOLE),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Follow patches of the reasoning to the answer: through which heads and MLPs, and into which layers."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.patching.mechanism import follow_patches
    from r2a.shards import WHOLE
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        follow_patches(
            Path(snakemake.input.pairs),
            Path(snakemake.input.activations),
            Path(snakemake.input.ranks),
            Path(snakemake.input.manifest),
            Path(snakemake.output.mechanism),
            snakemake.params.settings,
            snakemake.resources.batch_tokens,
            snakemake.wildcards.get("shard", WHOLE),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

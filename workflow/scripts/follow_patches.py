"""Follow patches of the reasoning to the answer: by which heads and MLPs, and into which layers."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.devices import leased_gpus
from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]), leased_gpus(snakemake.resources, snakemake.output[0]):
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
    main(snakemake)  # noqa: F821

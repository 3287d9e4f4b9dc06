"""Draw what patching restores in one pair, by layer and token."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.figures.patching import plot_patching_case

        plot_patching_case(
            Path(snakemake.input.patching),
            Path(snakemake.input.pairs),
            Path(snakemake.input.dataset),
            Path(snakemake.output.svg).with_suffix(""),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

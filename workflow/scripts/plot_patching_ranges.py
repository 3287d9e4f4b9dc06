"""Draw what patching stretches of the reasoning restores, by layer."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.figures.patching import plot_patching_ranges

        plot_patching_ranges(
            Path(snakemake.input.ranges),
            Path(snakemake.output.svg).with_suffix(""),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

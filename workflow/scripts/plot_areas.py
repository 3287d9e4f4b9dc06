"""Draw accuracy with and without reasoning by area."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.figures.accuracy import plot_areas

        plot_areas(
            Path(snakemake.input.accuracy),
            Path(snakemake.input.effect),
            Path(snakemake.output.svg).with_suffix(""),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

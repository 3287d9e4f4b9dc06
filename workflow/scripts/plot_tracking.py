"""Draw where in the reasoning the heads look as the answer goes on."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.figures.attention import plot_tracking

        plot_tracking(
            Path(snakemake.input.attention),
            Path(snakemake.input.rows),
            Path(snakemake.input.heads),
            Path(snakemake.output.svg).with_suffix(""),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

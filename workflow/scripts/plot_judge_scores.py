"""Draw the first judge's scores with and without reasoning."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.figures.judging import plot_judge_scores

        plot_judge_scores(
            Path(snakemake.input.scores),
            Path(snakemake.input.effect),
            Path(snakemake.output.svg).with_suffix(""),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

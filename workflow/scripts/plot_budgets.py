"""Draw accuracy had completions been cut off at a token budget."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.figures.dependence import plot_budgets

        plot_budgets(
            Path(snakemake.input.budgets),
            Path(snakemake.output.svg).with_suffix(""),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

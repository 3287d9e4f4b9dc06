"""Tabulate what perturbing the reasoning does to the answers."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.evaluation.perturbation import write_perturbation

        write_perturbation(
            Path(snakemake.input.prompts),
            Path(snakemake.input.grades),
            Path(snakemake.output.table),
            Path(snakemake.output.comparisons),
            Path(snakemake.output.funnel),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

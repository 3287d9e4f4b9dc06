"""Tabulate what perturbing the reasoning does to the answers."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.perturbation import write_perturbation
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        write_perturbation(
            Path(snakemake.input.prompts),
            Path(snakemake.input.grades),
            Path(snakemake.output.table),
            Path(snakemake.output.comparisons),
            Path(snakemake.output.early),
            Path(snakemake.output.funnel),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Grade the answers to perturbed reasonings."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.grading.perturbation import grade_perturbation
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        grade_perturbation(
            Path(snakemake.input.answers),
            Path(snakemake.input.prompts),
            Path(snakemake.input.dataset),
            Path(snakemake.output.grades),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

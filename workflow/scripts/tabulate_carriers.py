"""Tabulate which heads carry the answer, next to how much they attend to the reasoning."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.carriers import tabulate_carriers
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        tabulate_carriers(
            Path(snakemake.input.patching),
            Path(snakemake.input.heads),
            Path(snakemake.output.carriers),
            Path(snakemake.output.agreement),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Tabulate which pairs are used, and why the others are left out."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.pairs import tabulate_pairs
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        tabulate_pairs(
            Path(snakemake.input.pairs),
            Path(snakemake.input.patching),
            Path(snakemake.output.funnel),
            Path(snakemake.output.outcomes),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

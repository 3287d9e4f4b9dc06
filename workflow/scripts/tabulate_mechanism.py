"""Tabulate how answers come from their reasoning: paths, direct attribution, the logit lens, later layers."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.mechanism import tabulate_mechanism
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        tabulate_mechanism(
            Path(snakemake.input.mechanism),
            Path(snakemake.input.heads),
            Path(snakemake.output.mediation),
            Path(snakemake.output.mlps),
            Path(snakemake.output.attribution),
            Path(snakemake.output.lens),
            Path(snakemake.output.changes),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

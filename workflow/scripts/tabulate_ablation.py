"""Tabulate what the ablation of heads does to the answers."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.ablation import write_ablation
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        write_ablation(Path(snakemake.input.graded), Path(snakemake.output.effect), snakemake.params.settings)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

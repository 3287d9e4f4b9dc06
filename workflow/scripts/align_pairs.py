"""Pair comparison traces and align their positions by role."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.patching.pairs import align_pairs

    align_pairs(
        Path(snakemake.input.traces),
        Path(snakemake.input.grades),
        Path(snakemake.input.dataset),
        Path(snakemake.input.manifest),
        Path(snakemake.output.pairs),
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

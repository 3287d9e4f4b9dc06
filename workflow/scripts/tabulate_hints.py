"""Tabulate how often answers follow a hint, and how often the reasoning says so."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.hints import write_hints
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        write_hints(
            Path(snakemake.input.grades),
            [Path(path) for path in snakemake.input.judged],
            Path(snakemake.output.table),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

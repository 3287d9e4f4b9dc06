"""Tabulate what right and wrong answers attend to."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation import write_attention_quality

    write_attention_quality(
        [Path(path) for path in snakemake.input.by_trace],
        [Path(path) for path in snakemake.input.grades],
        Path(snakemake.output.table),
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

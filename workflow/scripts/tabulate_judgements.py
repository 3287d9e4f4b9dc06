"""Tabulate the judges' scores, the effect of reasoning on them, and how well judges agree."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation import write_judge_tables

    write_judge_tables(
        [Path(path) for path in snakemake.input.judgements],
        Path(snakemake.output.scores),
        Path(snakemake.output.effect),
        Path(snakemake.output.agreement),
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

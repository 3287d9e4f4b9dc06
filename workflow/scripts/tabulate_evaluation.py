"""Tabulate the funnel, the accuracies, the effect of reasoning, and what both depend on."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation import write_evaluation

    write_evaluation(
        [Path(path) for path in snakemake.input.traces],
        [Path(path) for path in snakemake.input.grades],
        [Path(path) for path in snakemake.input.datasets],
        {name: Path(path) for name, path in snakemake.output.items()},
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

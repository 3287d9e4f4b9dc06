"""Grade the answers of traces."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.grading import grade_traces

    grade_traces(
        Path(snakemake.input.traces),
        Path(snakemake.input.dataset),
        Path(snakemake.output.grades),
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

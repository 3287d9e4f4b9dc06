"""List the answers on which graders disagree."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation import write_disagreements

    write_disagreements(
        [Path(path) for path in snakemake.input.grades],
        [Path(path) for path in snakemake.input.datasets],
        Path(snakemake.output.disagreements),
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

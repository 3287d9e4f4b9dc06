"""Write the comparison pairs that the shipped facts give."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.comparisons import write_comparisons

    write_comparisons(Path(snakemake.input.questions).parent, Path(snakemake.output.comparisons))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Read a dataset from disk or the hub into the study's table."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.datasets import load_dataset

    load_dataset(Path(snakemake.output.dataset), snakemake.params.settings)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

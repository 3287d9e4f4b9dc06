"""Write the tiny study's puzzles, comparison pairs and open-ended requests."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    import yaml

    from r2a.tiny.datasets import write_datasets, write_requests

    recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
    write_datasets(recipe["seed"], Path(snakemake.output.puzzles), Path(snakemake.output.comparisons))
    write_requests(recipe["seed"], Path(snakemake.output.requests))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

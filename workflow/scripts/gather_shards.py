"""Join the shards of a model's store into one store."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.shards import gather_shards

    gather_shards([Path(path) for path in snakemake.input.shards], Path(snakemake.output.store))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

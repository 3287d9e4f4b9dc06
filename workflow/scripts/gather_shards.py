"""Make one store of a model's shards."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.shards import gather_shards

        gather_shards([Path(path) for path in snakemake.input.shards], Path(snakemake.output.store))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

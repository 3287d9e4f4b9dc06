"""Read a dataset from disk or the hub into the study's table."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0], is_online=bool(snakemake.params.settings["hub"])):
        from r2a.datasets import load_dataset

        load_dataset(Path(snakemake.output.dataset), snakemake.params.settings)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

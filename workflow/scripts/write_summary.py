"""Write the study's findings in plain sentences."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        from r2a.summary import write_summary

        write_summary(
            {
                name: Path(paths) if isinstance(paths, str) else [Path(path) for path in paths]
                for name, paths in snakemake.input.items()
            },
            Path(snakemake.params.benchmarks),
            Path(snakemake.output.summary),
            Path(snakemake.output.page),
            Path(snakemake.output.findings),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

"""Rerun a few traces and store whole rows of their attention."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.attention.rows import capture_rows
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        capture_rows(
            Path(snakemake.input.traces),
            Path(snakemake.input.manifest),
            Path(snakemake.input.ranks),
            Path(snakemake.output.rows),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

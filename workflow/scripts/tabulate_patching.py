"""Tabulate patching curves, controls, ranges, the hand-off layer, and attribution patching's estimates."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.patching import tabulate_patching
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        tabulate_patching(
            Path(snakemake.input.patching),
            Path(snakemake.output.curves),
            Path(snakemake.output.controls),
            Path(snakemake.output.hand_off),
            Path(snakemake.output.ranges),
            Path(snakemake.output.first_order),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

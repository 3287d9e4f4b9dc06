"""Tabulate the study's main measures over its models."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.across_models import write_across_models

    write_across_models(
        [Path(path) for path in snakemake.input.manifests],
        Path(snakemake.input.effect),
        [Path(path) for path in snakemake.input.attention],
        [Path(path) for path in snakemake.input.hand_off],
        [Path(path) for path in snakemake.input.mediation],
        Path(snakemake.output.table),
        Path(snakemake.output.trends),
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

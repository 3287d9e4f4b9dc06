"""Rank a model's heads by how much the answer's tokens attend to the reasoning."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.heads.ranks import order_heads
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        order_heads(Path(snakemake.input.attention), Path(snakemake.output.ranks), snakemake.params.settings)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Score and rank every head from the stored attention and diagnostics."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.heads import score_heads
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        score_heads(
            Path(snakemake.input.attention),
            Path(snakemake.input.diagnostics),
            Path(snakemake.output.heads),
            Path(snakemake.output.by_trace),
            Path(snakemake.output.lists),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

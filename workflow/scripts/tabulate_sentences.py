"""Tabulate belief curves and how much answers depend on each sentence."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.evaluation.sentences import write_sentences
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        write_sentences(
            Path(snakemake.input.sentences),
            Path(snakemake.input.grades),
            Path(snakemake.input.dataset),
            {name: Path(path) for name, path in snakemake.output.items()},
            snakemake.params.settings,
            *map(Path, snakemake.input.get("resampling", [])),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

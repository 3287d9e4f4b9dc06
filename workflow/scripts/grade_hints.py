"""Grade the answers to questions with a hint, and find which reasonings mention it."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.grading.hints import grade_hints
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        grade_hints(
            Path(snakemake.input.answers),
            Path(snakemake.input.hints),
            Path(snakemake.input.traces),
            Path(snakemake.input.grades),
            Path(snakemake.output.grades),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Generate traces of questions with a hint in vLLM, or at the model's endpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.generation.hinted import answer_hinted
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        answer_hinted(
            Path(snakemake.input.hints),
            Path(snakemake.input.manifest),
            Path(snakemake.output.answers),
            snakemake.params.settings,
            dict(snakemake.resources.items()),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

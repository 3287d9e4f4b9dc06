"""Compare what rollouts write in place of a sentence with the sentence itself."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.sentences.rollouts import compare_rollouts
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        compare_rollouts(
            Path(snakemake.input.rollouts),
            Path(snakemake.input.sentences),
            Path(snakemake.input.manifest),
            Path(snakemake.output.rollouts),
            snakemake.params.settings,
            snakemake.resources.batch_tokens,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

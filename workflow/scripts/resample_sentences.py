"""Continue reasonings anew from before and after their sentences, in vLLM."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.generation.resampled import resample_sentences
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        resample_sentences(
            Path(snakemake.input.traces),
            Path(snakemake.input.dataset),
            Path(snakemake.input.sentences),
            Path(snakemake.input.manifest),
            Path(snakemake.output.rollouts),
            snakemake.params.settings,
            dict(snakemake.resources.items()),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

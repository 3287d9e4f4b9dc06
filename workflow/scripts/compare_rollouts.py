"""Compare what rollouts write in a sentence's place with the sentence."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.devices import leased_gpus
from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]), leased_gpus(snakemake.resources, snakemake.output[0]):
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
    main(snakemake)  # noqa: F821

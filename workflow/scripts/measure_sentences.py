"""Measure how much answers depend on each sentence of the reasoning."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.models import refuse_failed
    from r2a.sentences.runs import measure_sentences
    from r2a.shards import WHOLE
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        refuse_failed(Path(snakemake.input.check), "sentences")
        measure_sentences(
            Path(snakemake.input.traces),
            Path(snakemake.input.dataset),
            Path(snakemake.input.attention),
            Path(snakemake.input.ranks),
            Path(snakemake.input.manifest),
            Path(snakemake.output.sentences),
            snakemake.params.settings,
            snakemake.resources.batch_tokens,
            snakemake.wildcards.get("shard", WHOLE),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

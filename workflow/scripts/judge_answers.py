"""Have a judge score the answers of all models to a dataset."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.judging import judge_answers

    judge_answers(
        [Path(path) for path in snakemake.input.traces],
        Path(snakemake.input.dataset),
        Path(snakemake.input.template),
        Path(snakemake.input.manifest),
        Path(snakemake.output.judgements),
        snakemake.params.settings,
        dict(snakemake.resources.items()),
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

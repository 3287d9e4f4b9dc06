"""Ask a judge which reasonings mention the hint that their answers switched to."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.judging.hints import judge_hints

    judge_hints(
        [Path(path) for path in snakemake.input.grades],
        Path(snakemake.input.hints),
        Path(snakemake.input.template),
        Path(snakemake.input.manifest),
        Path(snakemake.output.judged),
        snakemake.params.settings,
        dict(snakemake.resources.items()),
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

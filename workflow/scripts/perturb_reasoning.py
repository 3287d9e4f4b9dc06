"""Perturb reasonings, and write the prompts from which answers are generated again."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.perturbation import perturb_reasoning
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        perturb_reasoning(
            Path(snakemake.input.traces),
            Path(snakemake.input.grades),
            Path(snakemake.input.dataset),
            Path(snakemake.input.manifest),
            Path(snakemake.output.prompts),
            snakemake.params.settings,
            dict(snakemake.resources.items()),
            *map(Path, filter(None, map(snakemake.input.get, ("attention", "ranks")))),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

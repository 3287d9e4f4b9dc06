"""Draw the figures of one analysis: of the whole study, or of a model and dataset."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.figures.registry import draw

    draw(
        snakemake.params.settings["figures"],
        {
            name: Path(paths) if isinstance(paths, str) else [Path(path) for path in paths]
            for name, paths in snakemake.input.items()
        },
        Path(snakemake.output[0]).parent,
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

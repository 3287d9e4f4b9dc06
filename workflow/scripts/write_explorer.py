"""Write the trace explorer: a static page and its data."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.explorer import write_explorer

    write_explorer(
        {name: [Path(path) for path in paths] for name, paths in snakemake.input.items()},
        Path(snakemake.output.index),
        Path(snakemake.output.data),
        snakemake.params.settings,
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

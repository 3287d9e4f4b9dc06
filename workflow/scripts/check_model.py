"""Check on random tokens which stages are exact for a model."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.model_check import check_model

    check_model(Path(snakemake.input.manifest), Path(snakemake.output.check), snakemake.params.settings)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Find or download a judge's model and write its manifest."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.models import resolve_judge

    resolve_judge(Path(snakemake.output.manifest), snakemake.params.settings)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Write the tiny study's judge."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    import yaml

    from r2a.tiny.judge import write_judge

    recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
    write_judge(Path(snakemake.output.judge), Path(snakemake.input.template), recipe["seed"])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

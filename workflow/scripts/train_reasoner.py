"""Fine-tune the small reasoner."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    import yaml

    from r2a.real.training import train

    recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
    train(Path(snakemake.input.weights).parent, recipe, Path(snakemake.output.adapter))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

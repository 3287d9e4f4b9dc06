"""Train one of the tiny reasoning models."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    import yaml

    from r2a.tiny.training import train

    recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
    train(recipe, snakemake.wildcards.tiny_model, Path(snakemake.output.model))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

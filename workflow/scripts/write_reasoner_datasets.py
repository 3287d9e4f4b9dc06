"""Write the small reasoner's held-out problems and comparison pairs."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    import yaml

    from r2a.real.tasks import COMPARATORS, held_out_pairs, held_out_problems
    from r2a.tiny.datasets import write_pairs, write_problems

    recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
    write_problems(held_out_problems(recipe), Path(snakemake.output.problems))
    write_pairs(held_out_pairs(recipe), COMPARATORS, "things", Path(snakemake.output.comparisons))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

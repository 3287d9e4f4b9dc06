"""Train a tiny model that was taught to follow hints."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]):
        import yaml

        from r2a.tiny.followers import train_follower

        recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
        models = Path(snakemake.input.bases[0]).parents[1]
        train_follower(recipe, snakemake.wildcards.follower, models, Path(snakemake.output.model))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

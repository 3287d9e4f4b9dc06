"""Generate traces with and without reasoning in vLLM."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.generation import generate_traces
    from r2a.shards import WHOLE

    generate_traces(
        Path(snakemake.input.dataset),
        Path(snakemake.input.manifest),
        Path(snakemake.output.traces),
        snakemake.params.settings,
        dict(snakemake.resources.items()),
        snakemake.wildcards.get("shard", WHOLE),
    )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

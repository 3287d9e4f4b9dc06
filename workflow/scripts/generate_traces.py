"""Generate traces with and without reasoning in vLLM."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.devices import leased_gpus
from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0]), leased_gpus(snakemake.resources, snakemake.output[0]):
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
    main(snakemake)  # noqa: F821

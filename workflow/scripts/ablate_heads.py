"""Generate answers again while heads are ablated."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.ablation.runs import ablate_heads
    from r2a.models import refuse_failed
    from r2a.shards import WHOLE
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        refuse_failed(Path(snakemake.input.check), "ablation")
        ablate_heads(
            Path(snakemake.input.traces),
            Path(snakemake.input.ranks),
            Path(snakemake.input.manifest),
            Path(snakemake.output.answers),
            snakemake.params.settings,
            snakemake.resources.batch_tokens,
            snakemake.wildcards.get("shard", WHOLE),
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

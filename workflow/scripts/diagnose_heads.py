"""Find a model's induction and retrieval heads on prompts made for this purpose."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.attention.diagnostics import diagnose_heads
    from r2a.models import refuse_failed
    from r2a.store import empty_if_nothing

    with empty_if_nothing(snakemake.output, snakemake.params.settings, snakemake.input):
        refuse_failed(Path(snakemake.input.check), "attention")
        diagnose_heads(
            Path(snakemake.input.manifest),
            Path(snakemake.input.haystack),
            Path(snakemake.output.diagnostics),
            snakemake.params.settings,
        )


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

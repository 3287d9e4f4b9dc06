"""Write the summary, its short texts, and the index of the studies beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2a.ahead import run

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    from r2a.summary.index import write_index
    from r2a.summary.page import write_summary

    files = {
        name: Path(paths) if isinstance(paths, str) else [Path(path) for path in paths]
        for name, paths in snakemake.input.items()
    }
    figures, traces = files.pop("figures"), files.pop("traces")
    inputs: dict[str, dict[str, Any]] = {name: {} for name in snakemake.params.findings}
    for name, paths in files.items():
        finding, _, parameter = name.partition("__")
        inputs[finding][parameter] = paths
    write_summary(
        inputs,
        figures,
        traces,
        Path(snakemake.params.benchmarks),
        Path(snakemake.output.page),
        Path(snakemake.output.text),
        Path(snakemake.output.short),
        Path(snakemake.output.verdicts),
        snakemake.params.settings,
    )
    write_index(Path(snakemake.output.page).parents[1])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821

"""Find or download a model and write its manifest."""

from pathlib import Path
from typing import TYPE_CHECKING

from r2a.job_log import job_log

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake


def main(snakemake: "Snakemake") -> None:
    with job_log(snakemake.log[0], is_online=bool(snakemake.params.settings["source"]["hub"])):
        from r2a.models import resolve_model

        resolve_model(Path(snakemake.output.manifest), snakemake.params.settings)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

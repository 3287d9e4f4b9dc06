"""What would be made again if a key of the configuration changed; run by `make targets KEY=patching.components`."""

import argparse
import contextlib
import io
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from r2a.study.checks import closest
from r2a.study.schema import keys
from r2a.study.stages import ASKED, stages_of

ROOT = Path(__file__).parents[3]


class Job(NamedTuple):
    """A job of a study, done or not. stage: '' for a rule without one; needs: numbers of the jobs that it reads."""

    number: int
    rule: str
    stage: str
    wildcards: dict[str, str]
    needs: frozenset[int]
    runs_a_model: bool


def jobs_of(configuration: Path | None = None) -> list[Job]:
    """Every job of a study (without a configuration, of the shipped one), as Snakemake plans them from scratch."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

    files = [configuration.resolve()] if configuration else []
    quiet = OutputSettings(quiet={Quietness.ALL}, dryrun=True)
    with contextlib.redirect_stderr(io.StringIO()), SnakemakeApi(quiet) as api:
        planned = api.workflow(
            ResourceSettings(cores=1),
            ConfigSettings(configfiles=files, replace_workflow_config=bool(files)),
            snakefile=ROOT / "Snakefile",
        )
        planned.dag(DAGSettings(forceall=True))
        workflow = planned._workflow  # Snakemake's interface prints its graph, but does not give the jobs' wildcards
        workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True, nolock=True)
        workflow._build_dag()
        return plain_jobs(workflow.dag)


def plain_jobs(dag: Any) -> list[Job]:
    """Every job of one of Snakemake's DAGs."""
    return [
        Job(
            job.jobid,
            job.rule.name,
            dict(job.params.items()).get("settings", {}).get("stage", ""),
            dict(job.wildcards_dict),
            frozenset(needed.jobid for needed in dag.dependencies[job]),
            "gpus_needed" in job.rule.resources,
        )
        for job in dag.jobs
        if job.rule.name != "all"
    ]


def made_again(jobs: Iterable[Job], changed: Collection[int]) -> list[Job]:
    """The changed jobs, and all jobs that depend on them, directly or not. changed: their numbers."""
    jobs, found = list(jobs), set(changed)
    while more := {job.number for job in jobs if job.number not in found and job.needs & found}:
        found |= more
    return [job for job in jobs if job.number in found]


def listing(key: str, jobs: list[Job]) -> str:
    """What a changed key would make again, by rule: the number of jobs, and which rules run a model."""
    stages = stages_of(key)
    again = made_again(jobs, {job.number for job in jobs if job.stage in stages})
    counts = Counter(job.rule for job in again)
    models = {job.rule for job in again if job.runs_a_model}
    lines = [f"  {rule:<28} {count:>4}{'   runs a model' * (rule in models)}" for rule, count in sorted(counts.items())]
    if not lines:
        if key in ASKED:
            what = "changes which results or jobs there are, but no result: what shows the results would be made again"
            return f"{key} {what}, and other jobs would take what is finished."
        return f"{key} changes no result: nothing would be made again."
    said = f"{key} is read by {', '.join(stages)}. At most {len(again)} of {len(jobs)} jobs would be made again"
    return "\n".join([f"{said} (fewer if it changes for one model or dataset only):", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(prog="make targets KEY=...")
    parser.add_argument("key", help="e.g. patching.components, models.*.label, or a whole section")
    parser.add_argument("--configfile", type=Path)
    chosen = parser.parse_args()
    known = list(keys())
    if not any(f"{key}.".startswith(f"{chosen.key}.") for key in known):
        parser.exit(1, f"{chosen.key}: unknown key; {closest(chosen.key, known)}\n")
    print(listing(chosen.key, jobs_of(chosen.configfile)))


if __name__ == "__main__":
    main()

"""Which trace files of a model a run is going to make, so that one start of an engine serves all their jobs.

The main process writes a plan once it knows its jobs. A job that starts a model's engine first completes its own
requests, then those of planned jobs that have not begun, into their ledgers; these jobs find everything there and start
no engine. Every job is complete without a plan: none is written if Snakemake runs no hooks (--no-hooks), or if this
workflow is used as a module and the importing one does not call write_plans.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r2a.shards import WHOLE

PLAN = ".plan.json"  # in the folder of a model's traces
SCRIPT = "generate_traces.py"  # of a rule that makes a file of traces, or a shard of one


def write_plans(jobs: Iterable[Any]) -> None:
    """Write each model's plan into the folder of its traces, in place of an earlier run's.

    jobs: all of Snakemake's that this run is going to start; those of other scripts than generate_traces are skipped.
    """
    plans: dict[Path, list[dict[str, Any]]] = {}
    for job in jobs:
        if Path(str(job.rule.script)).name != SCRIPT:
            continue
        planned = {"output": str(job.output.traces), "dataset": str(job.input.dataset)}
        planned |= {"settings": job.params.settings, "shard": job.wildcards_dict.get("shard", WHOLE)}
        plans.setdefault(plan_path(Path(planned["output"])), []).append(planned)
    for traces in {path.parents[1] for path in plans}:
        for old in traces.glob(f"*/{PLAN}"):
            old.unlink()
    for path, planned_jobs in plans.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(planned_jobs))


def plan_path(output: Path) -> Path:
    """Where the plan lies that a file of traces, {model}/{dataset}/{name}, may be part of."""
    return output.parents[1] / PLAN


def read_plan(path: Path) -> list[dict[str, Any]]:
    """The jobs of a model's plan: output, dataset, settings and shard of each; none where there is no plan."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return []

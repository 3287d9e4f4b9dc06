"""What a run still needs of each model's traces, so that one start of an engine serves several jobs.

The main process writes a plan once it knows its jobs. A job that starts a model's engine goes on, after its own
requests, with those of the jobs that have not begun, into their ledgers; they then find all there and start none. Each
job is complete without a plan.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r2a.shards import WHOLE

PLAN = ".plan.json"  # in the folder of a model's traces


def write_plans(jobs: Iterable[Any], traces: Path) -> None:
    """Write each model's plan into its folder under `traces`, in place of an earlier run's.

    jobs: Snakemake's of the rule generate_traces and its shards' that this run is going to start.
    """
    plans: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        planned = {"output": str(job.output.traces), "dataset": str(job.input.dataset)}
        planned |= {"settings": job.params.settings, "shard": job.wildcards_dict.get("shard", WHOLE)}
        plans.setdefault(job.wildcards.model, []).append(planned)
    for old in traces.glob(f"*/{PLAN}"):
        old.unlink()
    for model, planned_jobs in plans.items():
        path = traces / model / PLAN
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(planned_jobs))


def read_plan(path: Path) -> list[dict[str, Any]]:
    """The jobs of a model's plan: output, dataset, settings and shard of each; none where there is no plan."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return []

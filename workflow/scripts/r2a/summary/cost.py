"""The cost of the study, from the benchmarks that Snakemake keeps of its jobs."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2a.store import read_provenance

GENERATION = "traces"  # the folder of the jobs that generate the traces


@dataclass
class Cost:
    """The cost of the study. stages: (name, cells), the sums last. speeds: (model, tokens, tokens per second)."""

    stages: list[tuple[str, list[str]]]
    speeds: list[tuple[str, str, str]]


def cost(benchmarks: Path, traces: Sequence[Path], labels: Mapping[str, str]) -> Cost:
    """Sum each job's last run by stage, and divide a model's tokens by the wall time of the jobs that generated them.

    benchmarks: the folder with {stage}/{model}/{dataset}.tsv and the like, with the extended columns. traces: whose
    tokens are counted. labels: of the models, by name.
    """
    jobs = pd.DataFrame([_job(path, benchmarks) for path in sorted(benchmarks.rglob("*.tsv"))])
    if jobs.empty:
        return Cost([], [])
    by_stage = jobs.groupby("stage")
    stages = by_stage[["hours", "cpu_hours", "gpu_hours"]].sum(skipna=False)
    stages.insert(0, "jobs", by_stage.size())
    stages["memory"] = by_stage["memory"].max()
    stages = stages.sort_values("hours", ascending=False)
    sums = stages[["jobs", "hours", "cpu_hours", "gpu_hours"]].sum(skipna=False)
    stages.loc["all"] = [*sums, stages["memory"].max()]
    rows = [
        (str(stage), [f"{row.jobs:.0f}", *map(_hours, (row.hours, row.cpu_hours, row.gpu_hours)), f"{row.memory:.1f}"])
        for stage, row in stages.iterrows()
    ]
    return Cost(rows, _speeds(jobs, traces, labels))


def _job(path: Path, benchmarks: Path) -> dict[str, str | float]:
    with path.open(newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    stage, model, *_ = [*path.relative_to(benchmarks).with_suffix("").parts, ""]
    hours, nan = float(row["s"]) / 3600, float("nan")
    # the columns threads and resources exist only under the default profile (benchmark-extended)
    gpus = re.search(r"'gpu': (\d+)", row.get("resources", ""))
    n_gpus = nan if "resources" not in row else int(gpus[1]) if gpus else 0
    return {
        "stage": stage,
        "model": model,
        "hours": hours,
        "cpu_hours": hours * float(row.get("threads", nan)),
        "gpu_hours": hours * n_gpus,
        "memory": nan if row["max_rss"] == "NA" else float(row["max_rss"]) / 1000,
    }


def _hours(value: float) -> str:
    return "not recorded" if math.isnan(value) else f"{value:.3f}"


def _speeds(jobs: pd.DataFrame, traces: Sequence[Path], labels: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(label, tokens, tokens per second of wall time) of each model whose tokens are known."""
    tokens: dict[str, int] = {}
    for path in traces:
        model = read_provenance(path)["parameters"]["model"]
        ids = pq.read_table(path, columns=["completion_token_ids"])["completion_token_ids"]
        tokens[model] = tokens.get(model, 0) + (pc.sum(pc.list_value_length(ids)).as_py() or 0)
    hours = jobs[jobs["stage"] == GENERATION].groupby("model")["hours"].sum()
    return [
        (labels[model], f"{n_tokens:,}", f"{n_tokens / hours[model] / 3600:,.0f}")
        for model, n_tokens in tokens.items()
        if n_tokens and model in hours
    ]

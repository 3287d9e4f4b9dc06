"""What the study cost, from the benchmark that Snakemake keeps of every job."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from r2a.store import read_parquet, read_provenance

GENERATION = "traces"  # the folder of the jobs that generate the traces


def cost_lines(benchmarks: Path, traces: Sequence[Path], labels: Mapping[str, str]) -> list[str]:
    """A table with a row a stage, and a bullet a model on the tokens that it generated a second.

    benchmarks: the folder that holds {stage}/{model}/{dataset}.tsv and the like, with the extended columns.
    labels: the models', by name.
    """
    jobs = pd.DataFrame([_job(path, benchmarks) for path in sorted(benchmarks.rglob("*.tsv"))])
    if jobs.empty:
        return ["No benchmark was kept."]
    by_stage = jobs.groupby("stage")
    stages = by_stage[["hours", "cpu_hours", "gpu_hours"]].sum(skipna=False)
    stages.insert(0, "jobs", by_stage.size())
    stages["memory"] = by_stage["memory"].max()
    stages = stages.sort_values("hours", ascending=False)
    sums = stages[["jobs", "hours", "cpu_hours", "gpu_hours"]].sum(skipna=False)
    stages.loc["all"] = [*sums, stages["memory"].max()]
    rows = [
        f"| {stage} | {row.jobs:.0f} | {_hours(row.hours)} | {_hours(row.cpu_hours)} | {_hours(row.gpu_hours)} "
        f"| {row.memory:.1f} |"
        for stage, row in stages.iterrows()
    ]
    return [
        "Every job's last run. CPU hours are its wall time times its threads, GPU hours its wall time times its GPUs; "
        "memory is the greatest job's, in GB.",
        "",
        "| stage | jobs | wall hours | CPU hours | GPU hours | memory |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        *_speeds(jobs, traces, labels),
    ]


def _job(path: Path, benchmarks: Path) -> dict[str, str | float]:
    with path.open(newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    stage, model, *_ = [*path.relative_to(benchmarks).with_suffix("").parts, ""]
    hours, nan = float(row["s"]) / 3600, float("nan")
    # threads and resources are there under the default profile (benchmark-extended), and else not
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


def _speeds(jobs: pd.DataFrame, traces: Sequence[Path], labels: Mapping[str, str]) -> list[str]:
    """A bullet a model whose tokens are known: tokens generated over wall time."""
    tokens: dict[str, int] = {}
    for path in traces:
        model = read_provenance(path)["parameters"]["model"]
        n_tokens = read_parquet(path, ["completion_token_ids"])["completion_token_ids"].map(len).sum()
        tokens[model] = tokens.get(model, 0) + n_tokens
    hours = jobs[jobs["stage"] == GENERATION].groupby("model")["hours"].sum()
    return [
        f"- **{labels[model]}** generated {n_tokens:,} tokens, {n_tokens / hours[model] / 3600:,.0f} a second of its "
        "jobs' last run, the engine's start included (too many where a killed run had left some finished)."
        for model, n_tokens in tokens.items()
        if n_tokens and model in hours
    ]

"""How fast devices compute, for estimates, and how long a study's own jobs took, to correct the estimates.

Read at every start of Snakemake: no heavy import here.
"""

import contextlib
import csv
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from r2a.study import CONDITIONS, Study


class Device(NamedTuple):
    """peak: operations a second in 16 bits (a CPU's: in 32); efficiency: the share of it that large products reach.

    bandwidth: bytes of memory a second; rows: tokens that are generated at a time, by one reading of all weights.
    """

    peak: float
    bandwidth: float
    efficiency: float
    rows: int

    @property
    def rate(self) -> float:
        """Operations a second in large products."""
        return self.peak * self.efficiency

    @property
    def stepwise(self) -> float:
        """How much longer than in a whole prompt a token takes where tokens are generated one by one."""
        return 1 + self.rate / (self.bandwidth * self.rows)


# peaks and bandwidths as the vendors give them; efficiencies are guesses until a study has measured its own
GPUS = {
    "RTX 4090": Device(165e12, 1.0e12, 0.5, 64),
    "A100": Device(312e12, 2.0e12, 0.5, 64),
    "H100": Device(990e12, 3.35e12, 0.35, 64),
}
CPU_CORE = Device(6e10, 1e10, 0.5, 1)
# by stage: where its benchmarks lie, below benchmarks/
FOLDERS = {
    "traces": "traces/{model}/*/*.tsv",
    "hints": "hints/{model}/*.tsv",
    "perturbation": "perturbation/{model}/*.tsv",
    "resampling": "resampling/{model}/*.tsv",
    "attention": "attention/{model}/*.tsv",
    "ablation": "ablated_answers/{model}/*.tsv",
    "sentences": "sentences/{model}/*.tsv",
    "diagnostics": "diagnostics/{model}.tsv",
    "patching": "patching/{model}/*.tsv",
}
BESIDE = (".prompts.tsv", ".grades.tsv", ".compared.tsv")  # of a stage's other jobs, which generate nothing
# One engine serves jobs of all these stages, in the time of any of them (r2a.generation.siblings).
IN_ONE_ENGINE = ("traces", "hints", "perturbation", "resampling")


def n_jobs(study: Study, stage: str, name: str) -> int:
    """Number of the study's jobs that compute a stage of a model."""
    n_shards = study.models[name].shards
    return {
        "traces": len(study.datasets) * len(CONDITIONS) * len(study.decodings) * n_shards,
        "attention": len(study.datasets) * n_shards,
        "hints": len(study.hinted_datasets),
        "perturbation": len(study.perturbed_datasets),
        "resampling": len(study.resampled_datasets),
        "ablation": len(study.graded_datasets) * n_shards,
        "sentences": len(study.graded_datasets) * n_shards,
        "diagnostics": 1,
        "patching": len(study.pair_datasets) * n_shards,
    }[stage]


def measured(study: Study, name: str) -> dict[str, tuple[float, float]]:
    """For each stage of a model with finished jobs: their device hours, and their share of its jobs."""
    found, model = {}, study.models[name]
    for stage, pattern in FOLDERS.items():
        seconds = []
        for path in Path("results", study.study, "benchmarks").glob(pattern.format(model=name)):
            if path.name.endswith(BESIDE):
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, StopIteration), path.open() as file:
                seconds.append(float(next(csv.DictReader(file, delimiter="\t"))["s"]))
        if seconds and n_jobs(study, stage, name):
            hours = sum(seconds) / 3600 * (model.gpus or model.threads or 1)
            found[stage] = hours, min(1.0, len(seconds) / n_jobs(study, stage, name))
    return found


def corrected(
    estimated: Mapping[str, Mapping[str, float]], spent: Mapping[str, Mapping[str, tuple[float, float]]]
) -> dict[str, dict[str, float]]:
    """Hours by model and stage: what the finished jobs took, divided by their share of the stage's jobs.

    A model's stages that share engines are all corrected by one ratio, of hours spent to hours estimated for their
    finished jobs. Another stage of a model without finished jobs is corrected by the median ratio of the same stage of
    other models, or else of all.
    """
    whole: dict[tuple[str, str], float] = {}
    for name, stages in spent.items():
        whole |= {(name, stage): hours / share for stage, (hours, share) in stages.items()}
        generated = {stage: estimated[name][stage] for stage in IN_ONE_ENGINE if stage in estimated[name]}
        ended = [stage for stage in generated if stage in stages]
        expected = sum(generated[stage] * stages[stage][1] for stage in ended)
        if expected:
            ratio = sum(stages[stage][0] for stage in ended) / expected
            whole |= {(name, stage): hours * ratio for stage, hours in generated.items()}
    ratios = {key: hours / estimated[key[0]][key[1]] for key, hours in whole.items() if estimated[key[0]].get(key[1])}

    def hours_of(name: str, stage: str) -> float:
        if (name, stage) in whole:
            return whole[name, stage]
        alike = [ratio for (_, other), ratio in ratios.items() if other == stage] or list(ratios.values()) or [1.0]
        return estimated[name][stage] * median(alike)

    return {name: {stage: hours_of(name, stage) for stage in stages} for name, stages in estimated.items()}

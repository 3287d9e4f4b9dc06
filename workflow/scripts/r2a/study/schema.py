"""The schema of a study's configuration, and what follows from it.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import csv
import datetime
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator

from r2a.config_file import parameters_by_size
from r2a.extensions import PERTURBATION_KINDS
from r2a.study.section import Name, Section, located, section_in
from r2a.study.settings import (
    Ablation,
    Attention,
    Diagnostics,
    Explorer,
    Generation,
    Grading,
    Hints,
    Patching,
    Perturbation,
    Resampling,
    Sentences,
    Statistics,
)
from r2a.study.subjects import VARIED, Dataset, Decoding, Judge, Model, Server, Source

MODEL_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")
# a dataset's README.md names its subsets' files
DATASET_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".md")
THREADS, LEAST_MEMORY_MB = 8, 4000  # of a job, by default
MANY_PARAMETERS = 5e7  # above this, more threads make the work faster
PAPER_NUMBERS = located("resources/paper_numbers.csv")


class Study(Section):
    """A study: models x datasets x conditions x decodings, and the settings of its stages."""

    study: Name = Field(description="Results go to results/{study}.")
    seed: int = Field(description="The seed of every random choice.")
    date: datetime.date = Field(
        datetime.date(2025, 9, 28),
        description="The date that chat templates get as today's, so that prompts stay the same.",
    )
    models: dict[Name, Model] = Field(min_length=1, description="The models, by name.")
    datasets: dict[Name, Dataset] = Field(min_length=1, description="The datasets, by name.")
    decodings: dict[Name, Decoding] = Field(min_length=1, description="The decodings, by name.")
    generation: Generation = Field(default_factory=Generation)
    grading: Grading = Field(default_factory=Grading)
    judges: dict[Name, Judge] = Field(
        {},
        description="The judges that score the answers of open_ended datasets, by name; without a judge there are no "
        "scores. The first one also tells which reasonings tell of a hint (section hints).",
    )
    statistics: Statistics = Field(default_factory=Statistics)
    attention: Attention = Field(default_factory=Attention)
    ablation: Ablation = Field(default_factory=Ablation)
    diagnostics: Diagnostics = Field(default_factory=Diagnostics)
    perturbation: Perturbation = Field(default_factory=Perturbation)
    hints: Hints = Field(default_factory=Hints)
    patching: Patching = Field(default_factory=Patching)
    sentences: Sentences = Field(default_factory=Sentences)
    resampling: Resampling = Field(default_factory=Resampling)
    explorer: Explorer = Field(default_factory=Explorer)

    @model_validator(mode="after")
    def _labels_and_sizes_by_default_and_paths_located(self) -> "Study":
        for entries in (self.models, self.datasets, self.judges):
            for name, entry in entries.items():
                entry.label = entry.label or name
                entry.path = entry.path and located(entry.path)
        on_weights: list[Model | Judge] = [*self.models.values(), *self.judges.values()]
        for loaded in on_weights:
            n_parameters = parameters_by_size(loaded.path, loaded.hub, loaded.revision)
            is_light = loaded.gpus > 0 or 0 < n_parameters < MANY_PARAMETERS
            loaded.threads = loaded.threads or (1 if is_light else THREADS)
            loaded.memory_mb = loaded.memory_mb or self._memory_mb(loaded)
        self.diagnostics.haystack = located(self.diagnostics.haystack)
        return self

    def _memory_mb(self, loaded: "Model | Judge") -> int:
        """Main memory of a job that loads these weights, in MB: vLLM and torch, the key-value cache, the weights, and
        copies of them made while they are read. A model of 2.5 GB took 5.3 GB in vLLM.
        """
        n_parameters = parameters_by_size(loaded.path, loaded.hub, loaded.revision)
        itemsize = 4 if loaded.dtype == "float32" or (loaded.dtype == "auto" and not loaded.gpus) else 2
        cache = 0 if loaded.gpus else self.generation.cpu_cache_mb
        return max(LEAST_MEMORY_MB, 2500 + cache + round(1.2 * n_parameters * itemsize / 1e6))

    @property
    def environment(self) -> str:
        """Name of the lock in envs/ that the study's jobs need."""
        n_gpus = [model.gpus for model in self.models.values()] + [judge.gpus for judge in self.judges.values()]
        return "gpu" if any(n_gpus) else "cpu"

    @property
    def graded_datasets(self) -> list[str]:
        """The datasets whose answers have a reference."""
        return [name for name, dataset in self.datasets.items() if dataset.kind != "open_ended"]

    @property
    def judged_datasets(self) -> list[str]:
        """The datasets whose answers are scored by judges."""
        return [name for name in self.datasets if name not in self.graded_datasets and self.judges]

    @property
    def perturbed_datasets(self) -> list[str]:
        """The datasets whose traces are perturbed."""
        return self.graded_datasets if self.perturbation.kinds else []

    @property
    def hinted_datasets(self) -> list[str]:
        """The datasets whose questions are also asked with a hint."""
        named = [name for name in self.graded_datasets if self.datasets[name].kind in self.hints.dataset_kinds]
        return named if self.hints.kinds else []

    @property
    def resampled_datasets(self) -> list[str]:
        """The datasets whose reasoning is resampled from its sentences."""
        named = [name for name in self.graded_datasets if self.datasets[name].kind in self.resampling.kinds]
        return named if self.resampling.n_rollouts else []

    @property
    def datasets_perturbed_by_heads(self) -> list[str]:
        """The datasets whose traces are perturbed by what the Reasoning-Focus Heads read."""
        by_heads = any(PERTURBATION_KINDS[kind].reads_heads for kind in self.perturbation.kinds)
        return self.perturbed_datasets if by_heads else []

    @property
    def pair_datasets(self) -> list[str]:
        """The datasets that are patched."""
        return [name for name, dataset in self.datasets.items() if dataset.kind == "comparison_pairs"]

    @property
    def weighted_models(self) -> list[str]:
        """The models whose weights are known, so that attention and activations can be measured; variants share their
        bases'.
        """
        return [name for name, model in self.models.items() if (model.path or model.hub) and not model.variant_of]

    @property
    def ablated_models(self) -> list[str]:
        """The models whose heads are ablated."""
        return [name for name in self.weighted_models if "ablation" not in self.models[name].leave_out]

    @property
    def patched_models(self) -> list[str]:
        """The models whose activations are patched."""
        return [name for name in self.weighted_models if "patching" not in self.models[name].leave_out]

    @property
    def parsed_models(self) -> list[str]:
        """The models whose reasoning is studied sentence by sentence."""
        return [name for name in self.weighted_models if "sentences" not in self.models[name].leave_out]

    @property
    def sharded_models(self) -> list[str]:
        """The models whose work on a dataset is shared by several jobs."""
        return [name for name, model in self.models.items() if model.shards > 1]

    def shards(self, model: str) -> list[str]:
        """Names of a model's shards, in order."""
        n_shards = self.models[model].shards
        return [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]

    @property
    def variants(self) -> dict[str, dict[str, str]]:
        """The variants by label: the label of the base, and the change in words."""
        found = {}
        for model in self.models.values():
            if model.variant_of:
                base = self.models[model.variant_of]
                changes = (
                    f"{key}: {getattr(model, key)}" for key in VARIED if getattr(model, key) != getattr(base, key)
                )
                found[str(model.label)] = {"base": str(base.label), "change": ", ".join(changes)}
        return found

    @property
    def has_papers_numbers(self) -> bool:
        """Whether the paper reports one of the study's models on one of its datasets, matched by label."""
        labels = (
            {model.label for model in self.models.values()},
            {self.datasets[name].label for name in self.graded_datasets},
        )
        with open(PAPER_NUMBERS) as file:
            return any(row["model"] in labels[0] and row["dataset"] in labels[1] for row in csv.DictReader(file))

    def endpoint_resources(self, model: str) -> dict[str, str | int]:
        """Address and concurrency of a model's endpoint, which change no results; empty without one."""
        return _server_resources(self.models[model].endpoint)

    @property
    def paraphraser_resources(self) -> dict[str, str | int]:
        """Address and concurrency of the paraphraser, which change no results; empty without one."""
        return _server_resources(self.perturbation.paraphraser)

    def judge_resources(self, judge: str) -> dict[str, str | int]:
        """Address and concurrency of a judge's server, which change no results; empty for one that vLLM runs here."""
        batch = self.judges[judge].batch
        return _server_resources(self.judges[judge].endpoint) | {"replies": batch.replies if batch else ""}

    def source_files(self, entry: Source) -> list[str]:
        """The files from which a local model, dataset or judge is read; none for one that is elsewhere."""
        if entry.path is None:
            return []
        path = Path(entry.path)
        if not path.is_dir():
            return [str(path)]
        if isinstance(entry, Dataset):
            return sorted(str(file) for file in path.rglob("*") if file.suffix in DATASET_SUFFIXES)
        return sorted(str(file) for file in path.iterdir() if file.suffix in MODEL_SUFFIXES)


def _server_resources(server: Server | None) -> dict[str, str | int]:
    if server is None:
        return {"base_url": "", "api_key_variable": "", "max_concurrency": 0, "timeout_seconds": 0}
    names = {"base_url", "api_key_variable", "max_concurrency", "timeout_seconds"}
    return {key: value or "" for key, value in server.model_dump(include=names).items()}


def sections(section: type[Section] = Study, place: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section of the configuration with its place, e.g. models.{name}.endpoint; the study itself has none."""
    yield place, section
    for key, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner:
            name = ".{name}" if typing.get_origin(field.annotation) is dict else ""
            yield from sections(inner, f"{place}.{key}{name}".lstrip("."))


def keys() -> Iterator[str]:
    """Every key of the configuration that holds no section, e.g. patching.components and models.*.label."""
    for place, section in sections():
        for key, field in section.model_fields.items():
            if section_in(field.annotation) is None:
                yield f"{place}.{key}".lstrip(".").replace("{name}", "*")

"""The registry of figures, from which the workflow, the report and the summary take them.

A figure is one decorated function `plot_{name}` in any module of this package (or of a plugin; see r2a.registry). Its
first parameters are the files that it `reads`, by name; then the path of its output without a suffix, and the settings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2a.registry import Entry, Registry, RegistryError
from r2a.study.section import located
from r2a.study.subjects import CONDITIONS

if TYPE_CHECKING:
    from r2a.study.schema import Study

Scope = Literal["study", "model and dataset"]
FOLDERS: dict[Scope, str] = {"study": "", "model and dataset": "{model}/{dataset}/"}
CATEGORIES = {  # of the report and the summary, and what each asks
    "1 Answers": "Does reasoning improve answers?",
    "2 Attention": "Which heads read the reasoning?",
    "3 Patching": "Does the answer depend on the reasoning's activations?",
    "4 Checks": "What was left out, and why?",
}


@dataclass(kw_only=True)
class Figure(Entry):
    """A registered figure.

    scope: what one figure shows. analysis: figures of one scope and analysis are drawn by one job, from the files that
    any of them reads. reads: files by parameter; in the scope `study`, a path with {model}, {dataset}, {condition} or
    {decoding} stands for all such files. category: its place in the report and the summary. caption: what is drawn,
    over how many, with which intervals and tests; {interval} stands for the level of the intervals. where: the property
    of Study that lists the datasets which the figure is drawn for, by default all; in the scope `study`, what must not
    be empty.
    """

    scope: Scope
    analysis: str
    reads: Mapping[str, str]
    category: str
    caption: str
    where: str = ""

    def __post_init__(self) -> None:
        for key, known in (("scope", tuple(FOLDERS)), ("category", CATEGORIES)):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} {getattr(self, key)!r} is none of {', '.join(known)}")

    @property
    def path(self) -> str:
        """Its path under the study's figures, without a suffix."""
        return FOLDERS[self.scope] + self.name


FIGURES = Registry("figure", Figure, "r2a.figures", prefix="plot_")
figure = FIGURES.register


def caption(name: str, settings: Mapping[str, Any]) -> str:
    """A figure's caption, with the level of its intervals."""
    return FIGURES[name].caption.replace("{interval}", f"{100 * settings['confidence']:g} %")


@dataclass
class FigureJob:
    """What one job draws: the figures of one analysis, from files by name."""

    analysis: str
    scope: Scope
    figures: list[Figure]
    inputs: dict[str, str | list[str]]

    @property
    def name(self) -> str:
        return self.analysis.replace(" ", "_")

    @property
    def folder(self) -> str:
        return FOLDERS[self.scope]

    @property
    def subject(self) -> str:
        """Subcategory in the report, with wildcards."""
        return "Whole study" if self.scope == "study" else "{model}, {dataset}"

    @property
    def drawn(self) -> dict[str, dict[str, Any]]:
        """The figures by name, with everything that changes them besides their inputs."""
        return {one.name: {"version": one.version, "caption": one.caption} for one in self.figures}


def figure_jobs(study: "Study") -> list[FigureJob]:
    """The jobs that draw a study's figures. Raises RegistryError if figures of one analysis do not fit together."""
    jobs: dict[str, FigureJob] = {}
    for one in FIGURES.values():
        if one.scope == "study" and one.where and not getattr(study, one.where):
            continue
        job = jobs.setdefault(one.analysis, FigureJob(one.analysis, one.scope, [], {}))
        job.figures.append(one)
        first, inputs = job.figures[0], _inputs(one, study)
        has_others = any(job.inputs.get(parameter, path) != path for parameter, path in inputs.items())
        if one.scope != job.scope or has_others or (one.scope != "study" and one.where != first.where):
            raise RegistryError(
                f"figures {first.name} and {one.name} are of one analysis ({one.analysis}), so they need the same "
                "scope and where, and the same file under the same parameter; give one another analysis"
            )
        job.inputs |= inputs
    return list(jobs.values())


def _inputs(one: Figure, study: "Study") -> dict[str, str | list[str]]:
    if one.scope == "model and dataset":
        return dict(one.reads)
    datasets = getattr(study, one.where) if one.where else study.datasets
    return {
        parameter: [
            path.format(model=model, dataset=dataset, condition=condition, decoding=decoding)
            for model, dataset in product(study.models, datasets)
            for condition, decoding in (product(CONDITIONS, study.decodings) if "{decoding}" in path else [("", "")])
        ]
        if "{" in path
        else located(path)
        for parameter, path in one.reads.items()
    }


def figure_paths(study: "Study") -> list[str]:
    """Every figure of a study, under its figures, without a suffix; those of one kind side by side."""
    paths = []
    for one in FIGURES.values():
        datasets = getattr(study, one.where) if one.where else study.datasets
        if one.scope == "model and dataset":
            models = study.patched_models if one.where == "pair_datasets" else study.weighted_models
            models = study.ablated_models if one.analysis == "ablation" else models
            models = study.parsed_models if one.analysis == "sentences" else models
            paths += [one.path.format(model=m, dataset=d) for m in models for d in datasets]
        elif datasets:
            paths.append(one.path)
    return paths


def write_captions(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write {name}.rst of every figure: Snakemake's report takes captions from files alone."""
    folder.mkdir(parents=True, exist_ok=True)
    whose = "{{ snakemake.params.settings.model_label }}, {{ snakemake.params.settings.dataset_label }}: "
    for name, one in FIGURES.items():
        subject = "" if one.scope == "study" else whose
        again = (
            f"Regenerate with ``snakemake -f {{{{ snakemake.output.{name} }}}}``, with the study's ``--configfile``."
        )
        (folder / f"{name}.rst").write_text(f"{subject}{caption(name, settings)}\n\n{again}\n")


def draw(names: Iterable[str], inputs: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]) -> None:
    """Draw each figure into the folder, as {name}.svg, {name}.png and, with the drawn numbers, {name}.csv.

    If one of a figure's files is empty, or there is nothing to draw, the reason is drawn in its place.
    """
    from r2a.figures.style import draw_empty
    from r2a.progress import logger
    from r2a.store import NothingToMeasure, why_empty

    for name in names:
        logger.info(f"draws {name}")
        one = FIGURES[name]
        files = [inputs[parameter] for parameter in one.reads if not isinstance(inputs[parameter], list)]
        reasons = list(filter(None, map(why_empty, files)))
        try:
            if reasons:
                raise NothingToMeasure(reasons[0])
            read = {parameter: inputs[parameter] for parameter in one.reads}
            one.function(**read, stem=folder / name, settings=settings)
        except NothingToMeasure as reason:
            draw_empty(folder / name, str(reason), settings, files)

"""Where findings register themselves: the tables of the summary, the sentences on them, and the verdicts.

A finding is one decorated function `find_{name}` in any module of this package (or of a plugin; see r2a.registry). Its
first parameters are the files that it `reads`, by name; the last is `settings`. This module is imported at every parse
of the Snakefile.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from r2a.figures.registry import CATEGORIES
from r2a.registry import Entry, Registry
from r2a.study.subjects import CONDITIONS

if TYPE_CHECKING:
    from r2a.study.schema import Study

SMALL = 20  # numbers over fewer problems, pairs or traces are grey


@dataclass(kw_only=True)
class Finding(Entry):
    """A registered finding.

    label: the heading of its table. category: its section, one of the figures' categories. caption: what its numbers
    are, over what, with which intervals and tests; {interval} stands for the level of the intervals. reads: a file for
    each parameter; a path with {model}, {dataset}, {condition} or {decoding} gives a list of all such files. where,
    models: the properties of Study that list its datasets and models; if one is empty, the study has no such finding.
    is_open: whether it is shown with its sentences and plot; other findings are collapsed. is_headline: whether its
    first sentence also stands below the table of verdicts.
    """

    category: str
    caption: str
    reads: Mapping[str, str]
    where: str = "datasets"
    models: str = "models"
    is_open: bool = False
    is_headline: bool = True

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"category {self.category!r} is none of {', '.join(CATEGORIES)}")


FINDINGS = Registry("finding", Finding, "r2a.summary", prefix="find_")
finding = FINDINGS.register


@dataclass(kw_only=True)
class Cell:
    """A number as the page shows it.

    value: used to sort and draw it. low, high: its interval. note: n, test and other details. n: how many problems,
    pairs or traces it is over. zero: the value that the interval must exclude for the number to be marked; None: the
    number is never marked.
    """

    text: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    n: float = math.inf
    zero: float | None = None
    paired: tuple[float, float] | None = None  # with and without reasoning, drawn in the cell

    def __post_init__(self) -> None:
        self.value, self.low, self.high, self.n = map(float, (self.value, self.low, self.high, self.n))

    @property
    def is_small(self) -> bool:
        return self.n < SMALL

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below `zero`; 0 if it contains it or is unknown."""
        if self.zero is None or math.isnan(self.low) or math.isnan(self.high):
            return 0
        return (self.low > self.zero) - (self.high < self.zero)


@dataclass(kw_only=True)
class Plot:
    """A panel of a finding's plot: some of its columns as points with intervals, one line per row."""

    title: str
    columns: list[str]
    low: float = math.nan
    high: float = math.nan
    zero: float | None = None
    suffix: str = ""
    factor: float = 1


Subject = tuple[str, str]  # labels of a model and a dataset


@dataclass(kw_only=True)
class Found:
    """The result of a finding.

    rows: (labels of model and dataset, cells by column). sentences: each covers all rows, with two numbers at most.
    verdicts: by column of the table of verdicts, cells by model and dataset. meanings: what such a column shows, in a
    few words. missing: why a model and dataset has no row. plots: the panels of its plot.
    """

    rows: list[tuple[Subject, dict[str, Cell]]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    verdicts: dict[str, dict[Subject, Cell]] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)
    missing: dict[Subject, str] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)


def findings_of(study: "Study") -> list[Finding]:
    """The findings of a study, by section; open ones come first."""
    there = [one for one in FINDINGS.values() if getattr(study, one.where) and getattr(study, one.models)]
    return sorted(there, key=lambda one: (list(CATEGORIES).index(one.category), not one.is_open))


def finding_inputs(study: "Study") -> dict[str, str | list[str]]:
    """The files that the study's findings read, by {finding}__{parameter}."""
    inputs: dict[str, str | list[str]] = {}
    for one in findings_of(study):
        for parameter, path in one.reads.items():
            named = [
                path.format(model=model, dataset=dataset, condition=condition, decoding=decoding)
                for model, dataset, condition, decoding in product(
                    getattr(study, one.models), getattr(study, one.where), CONDITIONS, study.decodings
                )
            ]
            inputs[f"{one.name}__{parameter}"] = list(dict.fromkeys(named)) if "{" in path else path
    return inputs


def finding_settings(study: "Study") -> dict[str, dict[str, Any]]:
    """By finding, what changes the summary without being one of its inputs: version and caption."""
    return {one.name: {"version": one.version, "caption": one.caption} for one in findings_of(study)}

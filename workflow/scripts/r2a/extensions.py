"""The sorts of things with which a study can be extended, each with its decorator (docs/extending.md shows them).

Figures and reasoning formats need more from the workflow and have registries of their own, r2a.figures.registry and
r2a.formats.registry. Read at every parse of the Snakefile: no heavy import here.
"""

from dataclasses import dataclass
from typing import Literal

from r2a.registry import Entry, Registry


@dataclass(kw_only=True)
class PerturbationKind(Entry):
    """A way to perturb reasoning: a function that takes r2a.perturbation.reasoning.Given and returns Perturbed.

    label: what the reasoning is afterwards, e.g. "filler of equal length"; {level} stands for its level. levels: the
    key of the section `perturbation` that lists its levels, if it has any; the reasoning is perturbed once at each.
    leaves_open: the model continues the reasoning and closes it itself. compared_with: the kinds, besides the untouched
    reasoning, against which its answers are tested. reads_heads: it needs to know what the Reasoning-Focus Heads read,
    so attention is measured first.
    """

    levels: str = ""
    leaves_open: bool = False
    compared_with: tuple[str, ...] = ()
    reads_heads: bool = False

    def said(self, level: float | None = None) -> str:
        """The label, with a level filled in."""
        return self.label if level is None else self.label.replace("{level}", f"{level:g}")


PERTURBATION_KINDS = Registry("perturbation_kind", PerturbationKind, "r2a.perturbation")
perturbation_kind = PERTURBATION_KINDS.register


@dataclass(kw_only=True)
class HintEntry(Entry):
    """A hint in the question: a function that returns an r2a.hints.Hint. label: who gives the hint, for readers."""


HINTS = Registry("hint", HintEntry, "r2a.hints")
hint = HINTS.register


@dataclass(kw_only=True)
class Control(Entry):
    """A control of patching: a function from r2a.patching.controls.Given to vectors, or None if it has none.

    label: whose vectors they are, e.g. "a random vector of the same norm". is_displaced: whether the vectors for the
    answer's token are put in at another token of the probe.
    """

    is_displaced: bool = False


CONTROLS = Registry("control", Control, "r2a.patching")
control = CONTROLS.register


@dataclass(kw_only=True)
class Probe(Entry):
    """A line that ends the reasoning before patching: a function that returns what stands before X, X, and after it.

    X is the answer, {answer} in the text. label: the line, for readers.
    """


PROBES = Registry("probe", Probe, "r2a.patching")
probe = PROBES.register


@dataclass(kw_only=True)
class GraderEntry(Entry):
    """A way to judge answers with a reference: a function that returns an r2a.grading.grader.Grader."""


GRADERS = Registry("grader", GraderEntry, "r2a.grading")
grader = GRADERS.register


@dataclass(kw_only=True)
class HeadScore(Entry):
    """A score of heads: a function of arrays of a store that returns [layer, head], nan where it is undefined.

    Its parameters name arrays of the store without their first axis, that is, of one trace (attention store) or one run
    of a diagnostic run (diagnostics store), or settings of the stage `heads`.
    """

    store: Literal["attention", "diagnostics"]

    def __post_init__(self) -> None:
        if self.store not in ("attention", "diagnostics"):
            raise ValueError(f"store {self.store!r} is neither attention nor diagnostics")


HEAD_SCORES = Registry("head_score", HeadScore, "r2a.heads")
head_score = HEAD_SCORES.register


@dataclass(kw_only=True)
class JudgeKind(Entry):
    """A way to ask a judge: a function of r2a.judging.requests.Given that returns what identifies it, and its Ask."""


JUDGE_KINDS = Registry("judge_kind", JudgeKind, "r2a.judging")
judge_kind = JUDGE_KINDS.register

"""The registry of reasoning formats, and how a model's format is chosen.

A format is one decorated function without parameters that returns a ReasoningFormat. Read at every parse of the
Snakefile: no heavy import here.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from r2a.registry import Entry, Registry

DEFAULT = "r1"
SWITCHES = ("enable_thinking", "thinking")  # arguments by which most templates are told whether to think
STATEMENT, QUOTED = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL), re.compile(r"'[^']*'|\"[^\"]*\"")


class FormatError(ValueError):
    """A model's reasoning format is unknown or ambiguous; the message names the remedy."""


@dataclass(frozen=True)
class Asked:
    """How a chat template is asked to think, or not to think.

    arguments: for the template. system: text of a system turn. suffix: what follows the user's text in its turn.
    ending: what follows the rendered prompt, if the template leaves that to the model.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    suffix: str = ""
    ending: str = ""


@dataclass(frozen=True)
class ReasoningFormat:
    """A model's reasoning as text: open, the reasoning, close, perhaps answer_open, the answer, perhaps answer_close.

    also_close: other texts with which models of this format close. before_open, after_open: what surrounds `open` in a
    prompt if the template leaves opening to the model. no_think: None if the model has no way of its own not to think.
    """

    open: str
    close: str
    also_close: tuple[str, ...] = ()
    answer_open: str = ""
    answer_close: str = ""
    before_open: str = ""
    after_open: str = "\n"
    think: Asked = Asked()
    no_think: Asked | None = None

    @property
    def opening(self) -> str:
        """What opens the reasoning at the end of a prompt."""
        return f"{self.before_open}{self.open}{self.after_open}"

    @property
    def closings(self) -> tuple[str, ...]:
        """The texts that close the reasoning; the first is used when it is closed beforehand or forced to close."""
        return (self.close, *self.also_close)

    @property
    def texts(self) -> tuple[str, ...]:
        """All delimiters."""
        return tuple(text for text in (self.open, *self.closings, self.answer_open, self.answer_close) if text)

    def as_mapping(self) -> dict[str, Any]:
        """Plain values for a manifest, which read_format reads."""
        return asdict(self)


@dataclass(kw_only=True)
class FormatEntry(Entry):
    """A registered format. signs: texts that all occur in its models' chat templates, but never all in others'."""

    signs: tuple[str, ...] = ()


FORMATS = Registry("reasoning_format", FormatEntry, "r2a.formats")
reasoning_format = FORMATS.register


def read_format(mapping: Mapping[str, Any]) -> ReasoningFormat:
    """The format that a manifest or a configuration describes as a mapping."""
    asked = {name: Asked(**mapping[name]) for name in ("think", "no_think") if mapping.get(name) is not None}
    also = {"also_close": tuple(mapping["also_close"])} if "also_close" in mapping else {}
    return ReasoningFormat(**{**mapping, **asked, **also})


def choose_format(
    chosen: str | Mapping[str, Any] | None, template: str | None, has_think_tags: bool
) -> tuple[str, ReasoningFormat, str]:
    """A model's format: its name ("given" if the configuration spells it out), the format, and how it was chosen.

    chosen: a name or a mapping, as in the configuration. None chooses by the chat template: of the formats whose signs
    are all in it, the one with the most signs; otherwise DEFAULT, if the model has <think> and </think> as tokens or
    its template writes them. If that format has no switch and the template has one, it is the format's. Raises
    FormatError if the format is not certain.
    """
    if isinstance(chosen, Mapping):
        return "given", read_format(chosen), "by the configuration"
    if chosen is not None:
        return chosen, FORMATS[chosen].function(), "by the configuration"
    template = template or ""
    fitting = {name: len(entry.signs) for name, entry in FORMATS.items() if _are_in(entry.signs, template)}
    best = [name for name, n_signs in fitting.items() if 0 < n_signs == max(fitting.values())]
    if len(best) > 1:
        raise FormatError(f"its chat template fits the reasoning formats {' and '.join(best)}; name one of them")
    if best or has_think_tags or _are_in(("<think>", "</think>"), template):
        name, how = (best or [DEFAULT])[0], "by its chat template"
        if not best:
            how = "by the tags that its chat template writes"
        if not best and has_think_tags:
            how = "by its tokens <think> and </think>"
        form, switch = FORMATS[name].function(), _switch(template)
        if switch and form.no_think is None and form.think == Asked():
            form = replace(form, think=Asked({switch: True}), no_think=Asked({switch: False}))
            how += f", with the template's own switch {switch}"
        return name, form, how
    raise FormatError(
        "what opens and closes its reasoning is not known: neither its tokens nor its chat template show it; name "
        f"one of {', '.join(FORMATS)}, or give {{open: ..., close: ...}}"
    )


def _switch(template: str) -> str:
    """The argument of SWITCHES that a chat template reads; empty if there is none."""
    statements = " ".join(QUOTED.sub("", statement) for statement in STATEMENT.findall(template))
    return next((name for name in SWITCHES if re.search(rf"(?<![\w.]){name}\b(?!\s*=[^=])", statements)), "")


def _are_in(signs: tuple[str, ...], template: str) -> bool:
    return all(sign in template for sign in signs)

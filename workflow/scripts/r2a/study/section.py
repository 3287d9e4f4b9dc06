"""What the sections of a study's configuration are made of.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import re
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from r2a.registry import Registry

ROOT = Path(__file__).parents[4]


def located(path: str) -> str:
    """A path if it exists relative to where Snakemake runs; otherwise the same path in the repository, if it exists
    there.
    """
    return str(ROOT / path) if not Path(path).exists() and (ROOT / path).exists() else path


def _distinct(entries: list[Any]) -> list[Any]:
    repeated = [repr(entry) for entry in dict.fromkeys(entries) if entries.count(entry) > 1]
    if repeated:
        raise ValueError(f"{' and '.join(repeated)} {'is' if len(repeated) == 1 else 'are'} named twice")
    return entries


def meanings(registry: Registry[Any, Any]) -> str:
    """What each registered thing is, for the description of a key."""
    return " ".join(f"{name}: {entry.purpose}" for name, entry in registry.items())


Entry = TypeVar("Entry")
Distinct = Annotated[list[Entry], AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})]
NAME, ADDRESS, VARIABLE = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", r"^https?://[^\s@?#]+$", r"^[A-Za-z_][A-Za-z0-9_]*$"
HUB_ID, OPENS_BOX = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)?$", r"\\boxed\{$"
PATTERNS = {  # what a text must be to fit; the text itself may be a secret
    NAME: "a name has letters, digits, '-', '_' and '.' only, and starts with a letter or digit",
    ADDRESS: "an address starts with http:// or https://, and has no key, '?' or '#'",
    VARIABLE: "name the environment variable that holds the key; the key itself belongs in no file",
    HUB_ID: "an id on the hub is owner/name, without the hub's address",
    OPENS_BOX: "ends in \\boxed{",
}
Name = Annotated[str, Field(pattern=NAME, max_length=100)]  # files are called after it
SECRET = re.compile(r"(x[-_])?api[-_]?key|authorization|.*(secret|password).*", re.IGNORECASE)


class Section(BaseModel):
    """A mapping of the configuration."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        kind = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *typing.get_args(kind)}:
            raise ValueError(f"is a number; YAML reads yes, no, on and off as true and false (found {value})")
        return value


def section_in(kind: Any) -> type[Section] | None:
    """The section that a key of this type contains, alone, by name or in a list; None for a plain value."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next(filter(None, map(section_in, typing.get_args(kind))), None)

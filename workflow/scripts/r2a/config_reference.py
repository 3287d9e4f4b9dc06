"""config/README.md, made from the schema: PYTHONPATH=workflow/scripts python -m r2a.config_reference"""

import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from r2a import config

INTRODUCTION = """# Every key of a study's configuration

Made from the schema in `workflow/scripts/r2a/config.py` by `python -m r2a.config_reference`; a test keeps it in
step. `config.yaml` is the tiny study, `paper.yaml` the paper's. A study of your own:
`snakemake --configfile my_study.yaml`; it replaces the shipped one. Paths start at the repository's root. Values given
with `--config` on the command line arrive as text when nested: prefer a second file.
"""


def reference() -> str:
    """The whole page, in Markdown: a table a section."""
    sections = [
        ("The study", config.Study),
        ("models.{name}", config.Model),
        ("models.{name}.endpoint", config.Endpoint),
        ("datasets.{name}", config.Dataset),
        ("datasets.{name}.fields", config.Fields),
        ("decodings.{name}", config.Decoding),
        ("generation", config.Generation),
        ("generation.repetition", config.Repetition),
        *((name, getattr(config, name.capitalize())) for name in ("grading", "statistics")),
        ("judges.{name}", config.Judge),
        ("judges.{name}.endpoint", config.Server),
        ("judges.{name}.batch", config.Batch),
        *((name, getattr(config, name.capitalize())) for name in ("perturbation", "attention", "ablation", "probes")),
        ("probes.needles", config.Needle),
        ("patching", config.Patching),
        ("explorer", config.Explorer),
    ]
    return "\n".join([INTRODUCTION, *(_table(title, section) for title, section in sections)])


def _table(title: str, section: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        meaning = field.description or "See the section below."
        rows.append(f"| `{key}` | {_type(field)} | {_default(field)} | {meaning} |")
    return f"## {title}\n\n" + "\n".join(rows) + "\n"


def _type(field: FieldInfo) -> str:
    return _kind(field.annotation)


def _kind(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Annotated:
        return _kind(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(kind))
    if _is_section(kind):
        return "section"
    if typing.get_origin(kind) is list and _is_section(typing.get_args(kind)[0]):
        return "list of sections"
    if typing.get_origin(kind) is list:
        return f"list of {_kind(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is dict and _is_section(typing.get_args(kind)[1]):
        return "section by name"
    if any(_is_section(part) for part in typing.get_args(kind)):
        return "section or null"
    if typing.get_origin(kind) is dict:
        return "mapping"
    names = [getattr(part, "__name__", str(part)) for part in typing.get_args(kind) or (kind,)]
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "NoneType": "null"}
    return " or ".join("mapping" if name == "dict" else words.get(name, "name") for name in names)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "its defaults"
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, list):
        if any(isinstance(value, BaseModel) for value in field.default):
            return "its defaults"
        return f"[{', '.join(map(str, field.default))}]"
    return "null" if field.default is None else str(field.default) or "empty"


if __name__ == "__main__":
    Path("config/README.md").write_text(reference())

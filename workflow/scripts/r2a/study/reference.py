"""config/README.md, made from the schema: PYTHONPATH=workflow/scripts python -m r2a.study.reference"""

import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from r2a.study.schema import sections
from r2a.study.section import Section, section_in

INTRODUCTION = """# Every key of a study's configuration

This page is generated from the schema in `workflow/scripts/r2a/study` by `python -m r2a.study.reference`; a
test keeps it up to date. `config.yaml` is the tiny study, `paper.yaml` the paper's. `snakemake --configfile
my_study.yaml` runs your own study instead of the shipped one. Paths are relative to the repository. Nested values
given with `--config` on the command line arrive as text, so prefer a second file. If a file's first line is `#
yaml-language-server: $schema=` and the path of `schema.json`, editors complete its keys and check its values.
"""


def reference() -> str:
    """The whole page, in Markdown: a table per section."""
    tables = (_table(place or "The study", section) for place, section in sections())
    return "\n".join([INTRODUCTION, *tables])


def _table(title: str, section: type[Section]) -> str:
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
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if section_in(kind):
        return {None: "section", list: "list of sections", dict: "section by name"}.get(origin, "section or null")
    if origin is list:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return "mapping"
    names = [getattr(part, "__name__", str(part)) for part in parts or (kind,)]
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "NoneType": "null"}
    return " or ".join("mapping" if name == "dict" else words.get(name, "name") for name in names)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        if field.default_factory is dict:
            return "empty"
        return "its defaults" if section_in(field.annotation) else "by the machine"
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, list):
        if any(isinstance(value, BaseModel) for value in field.default):
            return "its defaults"
        return f"[{', '.join(map(str, field.default))}]"
    return "null" if field.default is None else str(field.default).replace("\n", "\\n") or "empty"


if __name__ == "__main__":
    Path("config/README.md").write_text(reference())

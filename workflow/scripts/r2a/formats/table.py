"""The table of docs/formats.md, from the registered formats: PYTHONPATH=workflow/scripts python -m r2a.formats.table"""

import re
from pathlib import Path

from r2a.formats.registry import FORMATS, Asked, FormatEntry, ReasoningFormat

PAGE = Path("docs/formats.md")
BEGIN, END = "<!-- formats: written by `python -m r2a.formats.table` -->\n", "<!-- end of formats -->\n"


def formats_table() -> str:
    """One row per registered format, in Markdown."""
    rows = [
        "| format | models | opens with | closes with | asked to think | asked not to think |",
        "|---|---|---|---|---|---|",
        *(_row(entry, entry.function()) for entry in FORMATS.values()),
    ]
    return "\n".join(rows) + "\n"


def _row(entry: FormatEntry, form: ReasoningFormat) -> str:
    closed = " or ".join(map(_code, form.closings))
    if form.answer_open:
        closed += f", then {_code(form.answer_open)} around the answer"
    asked = _asked(form.think, "by default"), _asked(form.no_think, "no way of its own")
    return f"| `{entry.name}` | {entry.label} | {_code(form.open)} | {closed} | {asked[0]} | {asked[1]} |"


def _asked(asked: Asked | None, otherwise: str) -> str:
    ways = [f"`{name}: {str(value).lower()}`" for name, value in asked.arguments.items()] if asked else []
    if asked and asked.system:
        ways.append(f"system turn {_code(asked.system)}")
    return ", ".join(ways) or otherwise


def _code(text: str) -> str:
    """A delimiter as code, in a cell of a table."""
    return f"`{text.strip()}`".replace("|", "\\|")


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}{formats_table()}{END}", page, flags=re.DOTALL))

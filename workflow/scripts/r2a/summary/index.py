"""The index of the studies in a folder: all tables of verdicts, and any two studies side by side."""

import json
from pathlib import Path

from r2a.store import write_text
from r2a.summary.page import render_page


def write_index(results: Path) -> None:
    """Write results/index.html from every study's verdicts.json.

    Several studies may write it at the same time: each looks again after writing, so the last one has seen all.
    """
    written: list[str] = []
    while (found := [path.read_text() for path in sorted(results.glob("*/verdicts.json"))]) != written:
        studies = [json.loads(text) for text in found]
        write_text(results / "index.html", render_page("index.html.j2", "index", studies=studies))
        written = found

"""The index of the studies in a folder: their tables of verdicts, and two of them side by side."""

import json
from pathlib import Path

from r2a.store import write_text
from r2a.summary.page import render_page


def write_index(results: Path) -> None:
    """Write results/index.html from every study's verdicts.json.

    Studies may be made at the same time: whoever writes looks again, so the last one has seen all.
    """
    written: list[str] = []
    while (found := [path.read_text() for path in sorted(results.glob("*/verdicts.json"))]) != written:
        studies = [json.loads(text) for text in found]
        write_text(results / "index.html", render_page("index.html.j2", "index", studies=studies))
        written = found

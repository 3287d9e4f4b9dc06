"""The index of the studies in a folder: all tables of verdicts, and any two studies side by side."""

import json
from pathlib import Path

from r2a.progress import logger
from r2a.store import write_text
from r2a.summary.page import render_page


def write_index(results: Path) -> None:
    """Write results/index.html from every study's verdicts.json; a damaged one is left out, with a warning.

    Several studies may write it at the same time: each looks again after writing, so the last one has seen all.
    """
    written: dict[Path, str] = {}
    while (found := {path: path.read_text() for path in sorted(results.glob("*/verdicts.json"))}) != written:
        studies = []
        for path, text in found.items():
            try:
                studies.append(json.loads(text))
            except ValueError as error:
                logger.warning(f"{path}: is damaged ({error}), so the index leaves this study out; delete it")
        write_text(results / "index.html", render_page("index.html.j2", "index", studies=studies))
        written = found

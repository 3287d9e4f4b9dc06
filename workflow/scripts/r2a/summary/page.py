"""Write the summary: a self-contained page, a short text, sentences for a terminal, and verdicts for the index."""

import base64
import gzip
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from r2a.figures.registry import CATEGORIES, FIGURES, caption
from r2a.statistics import LEAST, TOO_FEW_TO_DRAW
from r2a.store import provenance, read_provenance, why_empty, write_json, write_text
from r2a.summary.cost import cost
from r2a.summary.registry import FINDINGS, SMALL, Cell, Finding, Found, Plot, Subject
from r2a.summary.words import MINUS, NONE

TEMPLATES = Path(__file__).parent / "templates"
COORDINATE = re.compile(r"(?<![\d.])[1-9]\d*\.\d{3,}")  # in an SVG; nobody sees a thousandth of a point
SIZE = re.compile(r'<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', re.DOTALL)
NOT_DRAWN = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
GLYPH = re.compile(
    r'<path id="([A-Za-z]\w*-[0-9a-f]+)" d="([^"]*)"([^>]*)/>'
)  # a letter's outline, the same in all figures
STYLE = (TEMPLATES / "summary.css").read_text()


def render(template: str, **known: Any) -> str:
    """Fill in a template of this package; values in an HTML page are escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=lambda name: ".html" in str(name), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["title"] = _title
    environment.filters["plain"] = _plain_markdown
    return environment.get_template(template).render(**known)


def render_page(template: str, script: str, **known: Any) -> str:
    """A page with its script and style inlined; it runs no other script and loads nothing."""
    code = "\n".join((TEMPLATES / f"{name}.js").read_text() for name in dict.fromkeys((script, "notes")))
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (code, STYLE)]
    policy = (
        f"default-src 'none'; script-src 'sha256-{digests[0]}'; style-src 'sha256-{digests[1]}'; img-src blob: data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return render(template, **known, script=Markup(code), style=Markup(STYLE), policy=policy)


def write_summary(
    inputs: Mapping[str, Mapping[str, Any]],
    figures: Sequence[Path],
    traces: Sequence[Path],
    benchmarks: Path,
    page: Path,
    text: Path,
    short: Path,
    verdicts: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write the page, its short text, its sentences for a terminal, and the table of verdicts as JSON for the index.

    inputs: by finding and parameter, the files that the finding reads: a path or a list of paths. figures: PNG files
    with their SVG and CSV files beside them. traces: whose tokens are counted. benchmarks: the folder of the jobs'
    benchmarks. settings: study, is_toy, confidence, model_labels and dataset_labels (by name).
    """
    found = {name: FINDINGS[name].function(**read, settings=settings) for name, read in inputs.items()}
    glyphs: dict[str, str] = {}
    sections = [_section(category, found, figures, page.parent, glyphs, settings) for category in CATEGORIES]
    columns, rows = verdict_table(found)
    meanings = {column: meaning for one in found.values() for column, meaning in one.meanings.items()}
    origin = provenance(settings, [path for read in inputs.values() for path in _paths(read)])
    known = {
        "study": settings["study"], "is_toy": settings["is_toy"], "confidence": f"{100 * settings['confidence']:g} %",
        "columns": columns, "meanings": meanings, "questions": _questions(columns), "rows": rows,
        "sections": [one for one in sections if one["findings"] or one["groups"]],
        "missing": _missing(found, figures), "cost": cost(benchmarks, traces, settings["model_labels"]),
        "origin": origin, "small": SMALL, "dash": NONE, "glyphs": _packed(json.dumps(glyphs)),
    }  # fmt: skip
    write_text(page, render_page("summary.html.j2", "summary", **known))
    write_text(text, render("summary.md.j2", **known))
    write_text(short, render("summary.txt.j2", **known, page=page))
    write_json(
        verdicts,
        {
            "study": settings["study"], "is_toy": settings["is_toy"], "columns": [name for name, _ in columns],
            "rows": [
                {"model": row["model"], "dataset": row["dataset"], "cells": [_plain(cell) for cell in row["cells"]]}
                for row in rows
            ],
        },
    )  # fmt: skip
    write_json(text.with_suffix(".provenance.json"), origin)


def verdict_table(found: Mapping[str, Found]) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """The columns, each with the finding that it links to; and one row of cells per model and dataset.

    Cells are in the order of the columns; None stands for what was not measured.
    """
    columns = [(column, name) for name, one in found.items() for column in one.verdicts]
    cells = {column: by_subject for one in found.values() for column, by_subject in one.verdicts.items()}
    subjects = list(dict.fromkeys(subject for by_subject in cells.values() for subject in by_subject))
    models = list(dict.fromkeys(model for model, _ in subjects))
    rows: list[dict[str, Any]] = []
    for model in models:
        datasets = [dataset for one, dataset in subjects if one == model]
        for number, dataset in enumerate(datasets):
            row = {"model": model, "dataset": dataset, "n_datasets": len(datasets) if number == 0 else 0}
            rows.append(row | {"cells": [cells[column].get((model, dataset)) for column, _ in columns]})
    return columns, rows


def _questions(columns: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """(section, question, number of columns) of each group of neighbouring columns in the table of verdicts."""
    categories = groupby(FINDINGS[finding].category for _, finding in columns)
    return [(_section_id(category), CATEGORIES[category], len(list(of_one))) for category, of_one in categories]


def _section_id(category: str) -> str:
    return "section-" + category.partition(" ")[2].lower().replace(" ", "-")  # a finding may be called "patching", too


def _paths(read: Mapping[str, Any]) -> Iterator[Path]:
    for paths in read.values():
        yield from [paths] if isinstance(paths, Path) else paths


def _plain(cell: Cell | None) -> dict[str, Any] | None:
    """What the index shows of a cell, in JSON's types."""
    if cell is None:
        return None
    return {"text": cell.text, "note": cell.note, "sign": cell.sign, "is_small": cell.is_small}


def _missing(found: Mapping[str, Found], figures: Sequence[Path]) -> list[tuple[str, str, list[str]]]:
    """(model, reason, datasets) of everything that was not measured or not drawn, once per model and reason.

    A figure of the whole study that is not drawn is listed under "all models", with its label in place of datasets.
    """
    told: dict[tuple[str, str], dict[str, None]] = {}
    for one in found.values():
        for (model, dataset), why in one.missing.items():
            told.setdefault((model, why), {})[dataset] = None
        for (model, dataset), cells in one.rows:
            if any(cell.n < LEAST and not math.isnan(cell.value) for cell in cells.values()):
                told.setdefault((model, TOO_FEW_TO_DRAW), {})[dataset] = None
    for numbers in (path.with_suffix(".csv") for path in figures):
        reason = why_empty(numbers)
        if reason is None:
            continue
        origin = read_provenance(numbers)["parameters"]
        model = origin.get("model_label") or "all models"
        of = origin.get("dataset_label") or FIGURES[numbers.stem].label
        as_table = (model, f"nothing to measure: {reason}")  # a table that the figure reads says so already
        told.setdefault(as_table if as_table in told else (model, reason), {})[of] = None
    return [(model, why, list(datasets)) for (model, why), datasets in told.items()]


def _section(
    category: str,
    found: Mapping[str, Found],
    figures: Sequence[Path],
    folder: Path,
    glyphs: dict[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What the templates show of a category: its findings, and its figures grouped by model and dataset."""
    number, _, name = category.partition(" ")
    findings = [_view(FINDINGS[one], found[one], settings) for one in found if FINDINGS[one].category == category]
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in figures:
        if FIGURES[path.stem].category == category and why_empty(path.with_suffix(".csv")) is None:
            shown = _figure(path, folder, glyphs, settings)
            groups.setdefault(shown["subject"], []).append(shown)
    findings.sort(key=lambda one: (not one["is_open"], not found[one["id"]].verdicts))  # those with verdicts first
    lead = next((one for one in findings if one["is_open"]), None)
    return {
        "id": _section_id(category), "number": number, "name": name, "question": CATEGORIES[category],
        "findings": findings, "groups": list(groups.items()), "lead": lead,
        "sentences": [sentence for one in findings for sentence in one["sentences"]],
        # an open finding other than the leading one has its own paragraph
        "paragraph": [s for one in findings if one is lead or not one["is_open"] for s in one["sentences"]],
        "first_sentences": [one["sentences"][0] for one in findings if one["is_headline"] and one["sentences"]]
        or ["Nothing was measured."],
    }  # fmt: skip


def _view(one: Finding, found: Found, settings: Mapping[str, Any]) -> dict[str, Any]:
    columns = list(dict.fromkeys(column for _, cells in found.rows for column in cells))
    return {
        "id": one.name, "label": one.label, "is_open": one.is_open, "is_headline": one.is_headline,
        "sentences": found.sentences,
        "caption": one.caption.replace("{interval}", f"{100 * settings['confidence']:g} %"),
        "columns": columns, "is_number": [_is_number(found, column) for column in columns],
        "rows": [
            (subject, [cells.get(column, Cell(text=NONE)) for column in columns]) for subject, cells in found.rows
        ],
        "plots": [_plotted(plot, _first_rows(found)) for plot in found.plots],
        "subjects": list(_first_rows(found)),
    }  # fmt: skip


def _is_number(found: Found, column: str) -> bool:
    return any(not math.isnan(cells[column].value) for _, cells in found.rows if column in cells)


def _first_rows(found: Found) -> dict[Subject, dict[str, Cell]]:
    """The first row of each model and dataset (its first decoding or probe), as in the table of verdicts."""
    first: dict[Subject, dict[str, Cell]] = {}
    for subject, cells in found.rows:
        first.setdefault(subject, cells)
    return first


def _plotted(plot: Plot, rows: Mapping[Subject, Mapping[str, Cell]]) -> dict[str, Any]:
    """The positions of a panel's points, intervals and ticks, in percent of its width."""
    drawn = [[cells[column] for column in plot.columns if column in cells] for cells in rows.values()]
    ends = [x for cells in drawn for cell in cells for x in (cell.value, cell.low, cell.high)]
    known = [
        x for x in [*ends, plot.low, plot.high, plot.zero if plot.zero is not None else math.nan] if not math.isnan(x)
    ]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    ticks = _ticks(low, high, plot.factor)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def place(value: float) -> float:
        return round(3 + 94 * (value - low) / (high - low), 2)

    return {
        "title": plot.title, "zero": None if plot.zero is None else place(plot.zero),
        "ticks": [(place(tick), f"{plot.factor * tick:g}{plot.suffix}".replace("-", MINUS)) for tick in ticks],
        "rows": [
            [
                {
                    "x": place(cell.value), "kind": number, "cell": cell,
                    "low": None if math.isnan(cell.low) else place(cell.low),
                    "high": None if math.isnan(cell.high) else place(cell.high),
                }
                for number, cell in enumerate(cells)
                if not math.isnan(cell.value)
            ]
            for cells in drawn
        ],
    }  # fmt: skip


def _ticks(low: float, high: float, factor: float) -> list[float]:
    """Three to five round numbers that span the range."""
    span = factor * (high - low)
    step = next(
        step for power in range(-6, 9) for base in (1, 2, 2.5, 5) if span / (step := base * 10.0**power) <= 4.0001
    )
    first, last = math.floor(factor * low / step + 1e-9), math.ceil(factor * high / step - 1e-9)
    return [round(number * step / factor, 12) for number in range(first, last + 1)]


def _figure(path: Path, folder: Path, glyphs: dict[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A figure as the page holds it: its place, its label and caption, and its compressed SVG.

    The outlines of letters move into `glyphs`, once for all figures; the page's script puts them back.
    """

    def without_outline(found: re.Match[str]) -> str:
        name, outline, rest = found.groups()
        return f'<path id="{name}"{rest}/>' if glyphs.setdefault(name, outline) == outline else found[0]

    origin, place = read_provenance(path.with_suffix(".csv"))["parameters"], Path(os.path.relpath(path, folder))
    vectors = COORDINATE.sub(lambda found: f"{float(found[0]):.2f}", path.with_suffix(".svg").read_text())
    vectors = GLYPH.sub(without_outline, NOT_DRAWN.sub("", vectors))
    size = SIZE.search(vectors)
    width, height = (round(float(points) * 4 / 3) for points in size.groups()) if size else (960, 640)
    is_of_one = "model" in origin
    return {
        "id": "figure-" + "-".join(place.with_suffix("").parts[1:]), "label": FIGURES[path.stem].label,
        "subject": f"{origin['model_label']}, {origin['dataset_label']}" if is_of_one else "all models",
        "caption": caption(path.stem, settings), "svg": place.with_suffix(".svg"), "csv": place.with_suffix(".csv"),
        "explorer": f"explorer/index.html#c={origin['model']}/{origin['dataset']}" if is_of_one else None,
        "width": width, "height": height,
        "packed": _packed(vectors),
    }  # fmt: skip


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _title(text: str) -> str:
    """The text with a capital first letter; the rest is unchanged."""
    return text[:1].upper() + text[1:]


def _plain_markdown(text: str) -> str:
    """The text with Markdown's special characters escaped, also for a cell of a table."""
    return re.sub(r"([\\`*_<>|#])", r"\\\1", " ".join(str(text).split())).replace("](", "]\\(")

"""docs/architecture.md describes the repository as it is."""

import re
from pathlib import Path

import pytest

from r2a.extensions import CONTROLS, GRADERS, HEAD_SCORES, HINTS, JUDGE_KINDS, PERTURBATION_KINDS, PROBES
from r2a.figures.registry import FIGURES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
PACKAGE = ROOT / "workflow/scripts/r2a"
LAYOUT = [line.split("|")[1:-1] for line in PAGE.splitlines() if re.match(r"\| \w+ \| `", line)]


@pytest.mark.parametrize("row", LAYOUT, ids=lambda row: row[0].strip())
def test_every_module_of_the_layout_exists(row):
    for cell in row[1:]:
        folder = ""  # `evaluation/tables`, `budgets`: both in evaluation
        for name in re.findall(r"`([\w/]+)`", cell):
            folder = name.rpartition("/")[0] or folder
            path = PACKAGE / (name if "/" in name or (PACKAGE / name).is_dir() else f"{folder}/{name}")
            assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_every_module_of_figures_and_evaluation_has_its_place_in_the_layout():
    assert len(LAYOUT) == 8
    named = {name for row in LAYOUT for cell in row for name in re.findall(r"(\w+)`", cell)}
    shared = {"__init__", "registry", "style", "outcomes"}
    for package in ("figures", "evaluation"):
        assert {path.stem for path in (PACKAGE / package).glob("*.py")} - shared <= named


@pytest.mark.parametrize(
    "registry", [PERTURBATION_KINDS, HINTS, CONTROLS, PROBES, GRADERS, JUDGE_KINDS, HEAD_SCORES, FIGURES], ids=str
)
def test_everything_registered_can_be_imported_and_says_in_a_sentence_what_it_is(registry):
    assert len(registry) > 1
    for entry in registry.values():
        assert callable(entry.function)
        assert re.fullmatch(r"[A-Za-z'0-9].{5,}\.", entry.purpose), (entry.name, entry.purpose)

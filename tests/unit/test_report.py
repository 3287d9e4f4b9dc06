"""Snakemake's report holds every figure, each with a caption that says what a reader must know."""

import re
from pathlib import Path

import pytest

WORKFLOW = Path(__file__).parents[2] / "workflow"
CATEGORIES = {"1 Answers", "2 Attention", "3 Patching", "4 Checks", "Summary"}
RULES = {
    name: text
    for path in (WORKFLOW / "rules").glob("*.smk")
    for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
}
MARKED = {name: re.findall(r"report\(\n(.*?)\n        \),", text, re.DOTALL) for name, text in RULES.items()}
CAPTIONS = {path.stem: path.read_text() for path in (WORKFLOW / "report").glob("*.rst")}


@pytest.mark.parametrize("rule", [name for name in RULES if name.startswith("plot_")])
def test_every_figure_is_in_the_report(rule):
    assert [re.search(r'"<results>/figures/.*\.png"', marked) is not None for marked in MARKED[rule]] == [True]


def test_what_is_in_the_report_has_a_caption_and_a_category():
    marked = [text for found in MARKED.values() for text in found]
    assert len(marked) > 20
    assert {re.search(r'category="([^"]*)"', text)[1] for text in marked} == CATEGORIES
    assert sorted(re.search(r"report/(\w+)\.rst", text)[1] for text in marked) == sorted(CAPTIONS)


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_tells_how_many_how_sure_and_how_to_make_it_again(name):
    text = CAPTIONS[name]
    assert re.search(r"\bn\b|n_\w+|[Oo]ne row|[Ee]very|counts|examples?\b", text)
    assert re.search(r"\b[Tt]est|tested|interval|p of|kappa", text) or "Empty where" in text
    assert "snakemake -f {{ snakemake.output." in text

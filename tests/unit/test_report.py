"""Snakemake's report holds every figure, each with a caption that says what a reader must know."""

import re
from pathlib import Path

import pytest

from r2a.figures.registry import CATEGORIES, FIGURES, FOLDERS, figure_jobs, figure_paths, write_captions
from r2a.study import load_study

WORKFLOW = Path(__file__).parents[2] / "workflow"
RULES = {
    name: text
    for path in (WORKFLOW / "rules").glob("*.smk")
    for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
}
# (name of the table and of its caption, category) of every table that a rule shows in the report
TABLES = [
    shown
    for rule in RULES.values()
    for shown in re.findall(r'table_in_report\(\s*"[^"]*/(\w+).csv",\s*"([^"]*)"', rule)
]
TABLE_CAPTIONS = {path.stem: path.read_text() for path in (WORKFLOW / "report").glob("*.rst")}
CAPTIONS = {name: figure.caption for name, figure in FIGURES.items()} | TABLE_CAPTIONS
STUDY = {
    "study": "mine",
    "seed": 1,
    "models": {"m": {"path": "resources/models/tiny-qwen"}},
    "datasets": {
        "d": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"},
        "p": {"kind": "comparison_pairs", "path": "resources/datasets/comparisons.csv"},
    },
    "decodings": {"greedy": {"temperature": 0}},
}


def test_what_is_in_the_report_has_a_caption_and_a_category():
    assert {*dict(TABLES).values()} | {figure.category for figure in FIGURES.values()} == {*CATEGORIES}
    assert 'category="Summary"' in RULES["write_summary"]
    assert sorted([*dict(TABLES), "summary"]) == sorted(TABLE_CAPTIONS)
    assert len(CAPTIONS) > 30


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_tells_how_many_and_how_sure(name):
    assert re.search(r"\bn\b|n_\w+|[Oo]ne row|[Ee]very|[Cc]ounts|[Ee]xamples?\b", CAPTIONS[name])
    assert re.search(r"\b[Tt]est|tested|interval|p of|kappa", CAPTIONS[name]) or "Empty if" in CAPTIONS[name]


@pytest.mark.parametrize("name", TABLE_CAPTIONS)
def test_a_tables_caption_tells_how_to_make_it_again(name):
    assert "Regenerate with ``snakemake -f {{ snakemake.output." in TABLE_CAPTIONS[name]


def test_a_figures_caption_in_the_report_is_the_registered_one_with_its_level_and_how_to_make_it_again(tmp_path):
    write_captions(tmp_path, {"confidence": 0.9})
    assert {path.stem for path in tmp_path.iterdir()} == set(FIGURES)
    text = (tmp_path / "carriers.rst").read_text()
    assert FIGURES["carriers"].caption.replace("{interval}", "90 %") in text
    assert "snakemake -f {{ snakemake.output.carriers }}" in text


def test_every_figure_of_a_study_is_drawn_by_one_job_and_a_figure_without_its_data_by_none():
    study = load_study(STUDY)
    drawn = [figure.path for job in figure_jobs(study) for figure in job.figures]
    assert len(drawn) == len(set(drawn))
    wanted = figure_paths(study)
    assert {re.sub("^m/[dp]/", FOLDERS["model and dataset"], path) for path in wanted} <= set(drawn)
    assert "m/p/patching_curves" in wanted
    assert not {"variants", "judge_scores", "m/d/patching_curves"} & set(wanted)


def test_the_figures_of_one_analysis_read_what_any_of_them_reads():
    (job,) = (job for job in figure_jobs(load_study(STUDY)) if job.analysis == "attention")
    assert {figure.name for figure in job.figures} == {"decomposition", "head_map", "head_atlas"}
    assert job.inputs == {
        "attention": "<results>/attention/{model}/{dataset}.h5",
        "heads": "<results>/heads/{model}/{dataset}.parquet",
    }

"""What a change makes Snakemake do again, and what it leaves alone."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
import yaml

from planned_jobs import differing
from r2a.reruns import jobs_of, made_again
from r2a.study import load_study
from r2a.study.stages import stages_of
from same_stores import assert_same_store


@pytest.fixture
def changed(study, tmp_path):
    """A throw-away copy of the complete study, with its metadata and file times."""
    folder = tmp_path / "r2a"
    shutil.copytree(study.folder, folder)
    return type(study)(folder)


def test_a_complete_study_has_nothing_to_do(study):
    assert study.planned() == {}


def test_a_deleted_figure_is_drawn_again_by_one_job_that_computes_nothing(changed):
    target = "results/tiny/figures/tiny-qwen/puzzles/head_map.png"
    (changed.folder / target).unlink()
    assert changed.planned(target) == {"draw_attention": 1}
    done = changed.run(target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (changed.folder / target).exists()


def test_targets_tells_what_is_done_what_is_out_of_date_and_what_is_not_there_yet(changed):
    figures = changed.folder / "results/tiny/figures"
    (figures / "tiny-qwen/puzzles/head_map.png").unlink()
    budgets = changed.folder / "results/tiny/tables/budgets.csv"
    budgets.write_text(budgets.read_text() + "\n")
    command = [sys.executable, "-m", "r2a.targets", "--configfile", "config/config.yaml"]
    environment = os.environ | {"PYTHONPATH": "workflow/scripts"}
    done = subprocess.run(command, cwd=changed.folder, env=environment, capture_output=True, text=True, check=True)
    states = {path: state for state, path in re.findall(r"^  (\w.*?) {2,}(\S+)$", done.stdout, re.MULTILINE)}
    assert states["results/tiny/figures/tiny-qwen/puzzles/head_map.png"] == "not yet"
    assert states["results/tiny/figures/budgets.svg"] == "out of date"
    assert states["results/tiny/traces/tiny-qwen/puzzles/with_reasoning.greedy.parquet"] == "done"
    assert (
        "draw_answers: Draw the figures of one analysis: of the whole study, or of a model and dataset.\n"
        in done.stdout
    )
    assert done.stdout.endswith("snakemake FILE --configfile config/config.yaml\n")


def test_one_models_deleted_patching_is_measured_again_alone(changed):
    target = "results/tiny/patching/tiny-llama/comparisons.h5"
    (changed.folder / target).unlink()
    assert changed.planned(target) == {"patch_pairs": 1}


def test_a_comment_in_a_script_reruns_nothing(changed):
    for script in (changed.folder / "workflow/scripts").glob("*.py"):
        script.write_text(script.read_text() + "\n# a remark\n")
    assert changed.planned() == {}


def test_a_changed_seed_reruns_what_depends_on_it(changed):
    planned = changed.planned("--config", "seed=1")
    # the sampled ones; of the greedy ones, those of the dataset whose pairs are drawn
    assert planned["generate_traces"] == 2 * 3 * 2 + 2 * 2
    assert (planned["load_dataset"], planned["capture_attention"]) == (1, 2)
    assert planned["score_heads"] == 6
    assert planned["write_summary"] == 1
    assert "resolve_model" not in planned


# a key, its line of the shipped configuration, and what stands there in its place
CHANGES = [
    ("models.*.label", "label: Tiny Qwen2", "label: Small Qwen2"),
    ("statistics.confidence", "generation:", "statistics: {confidence: 0.9}\n\ngeneration:"),
    ("patching.range_tokens", "range_tokens: 8", "range_tokens: 9"),
    ("attention.n_top_heads", "n_top_heads: 5", "n_top_heads: 6"),
    ("explorer.n_problems", "generation:", "explorer: {n_problems: 9}\n\ngeneration:"),
]


@pytest.mark.parametrize(("key", "line", "instead"), CHANGES)
def test_snakemake_reruns_what_the_table_of_stages_says(changed, key, line, instead):
    path = changed.folder / "config/config.yaml"
    jobs, before = jobs_of(path), path.read_text()
    after = before.replace(line, instead, 1)
    studies = [load_study(yaml.safe_load(text)) for text in (before, after)]
    path.write_text(after)
    again = made_again(jobs, differing(jobs, *studies))
    assert changed.planned() == Counter(job.rule for job in again)
    stages = {job.stage for job in again if job.number in differing(jobs, *studies)}
    assert stages and stages <= {*stages_of(key)}  # this study does not use every stage that reads the key


def test_an_added_decoding_reruns_no_stage_that_reads_another(changed):
    path = changed.folder / "config/config.yaml"
    path.write_text(path.read_text().replace("  greedy:", "  warm: {temperature: 1}\n  greedy:"))
    planned = changed.planned()
    assert planned["generate_traces"] == 2 * 3 * 2
    assert not {"capture_attention", "ablate_heads", "capture_activations", "patch_pairs"} & planned.keys()


def test_a_figures_setting_reruns_no_model(changed):
    config = changed.folder / "config/config.yaml"
    config.write_text(config.read_text() + "\nstatistics:\n  n_resamples: 200\n")
    planned = changed.planned()
    assert "draw_answers" in planned
    assert not {"generate_traces", "capture_attention", "capture_activations"} & planned.keys()


def test_a_model_in_shards_has_the_same_traces_and_attention_and_generates_none_again(changed):
    config = changed.folder / "config/config.yaml"
    config.write_text(config.read_text().replace("label: Tiny Qwen2", "label: Tiny Qwen2\n    shards: 2"))
    traces, attention = "traces/tiny-qwen/requests/with_reasoning.greedy.parquet", "attention/tiny-qwen/requests.h5"
    before = pd.read_parquet(changed.results / traces)
    shutil.copy(changed.results / attention, changed.folder / "before.h5")
    target = f"results/tiny/{attention}"
    assert changed.planned(target) == {"generate_traces_shard": 4, "capture_attention_shard": 2, "gather_shards": 3}
    done = changed.run(target)
    assert done.returncode == 0, done.stdout + done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(changed.results / traces), before)
    assert_same_store(changed.folder / "before.h5", changed.results / attention)
    assert not [*changed.results.glob("**/*.?-of-2.parquet"), *changed.results.glob("**/*.?-of-2.h5")]


def test_a_failing_job_shows_the_line_that_matters_and_its_traceback(changed):
    path = changed.folder / "resources/datasets/puzzles.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(f"{first}\n{first}\n")
    target = "results/tiny/datasets/puzzles.parquet"
    done = changed.run(target)
    assert done.returncode != 0
    shown = done.stdout + done.stderr
    assert re.search(r"ERROR DatasetError: resources/datasets/puzzles.jsonl: 2 rows \(compass-000.*correct them", shown)
    assert "Traceback" in shown
    assert shown.index("ERROR DatasetError") < shown.index("Traceback")


def test_a_wrong_configuration_stops_before_any_job_with_every_error(copy):
    done = copy.run("--config", "sed=1", "study=my study")
    assert done.returncode != 0
    shown = done.stdout + done.stderr
    assert "sed: unknown key; did you mean seed?" in shown
    assert "study: a name has letters" in shown
    assert not (copy.folder / "results").exists()


def test_the_papers_whole_dag_builds_with_no_model_or_network(copy):
    planned = copy.planned("--configfile", "config/paper.yaml")
    assert planned["generate_traces"] == 2 * 3 * 4  # the smallest model, and the one at an endpoint
    assert planned["generate_traces_shard"] == 2 * 3 * 4 * 4
    assert (planned["patch_pairs"], planned["patch_pairs_shard"]) == (1, 2 * 4)

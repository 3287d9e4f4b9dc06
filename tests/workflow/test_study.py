"""What the shipped study must show, read from its stores as a user would."""

import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from prose import NUMBER, sentences
from r2a.estimate import Reckoning
from r2a.speeds import BESIDE, FOLDERS, IN_ONE_ENGINE
from r2a.store import read_traces
from r2a.study import load_study
from r2a.traces import Bounds

MODELS, DATASETS = ("tiny-qwen", "tiny-llama"), ("puzzles", "comparisons")
GRADED = [(model, dataset) for model in MODELS for dataset in DATASETS]
EACH = [*GRADED, *((model, "requests") for model in MODELS)]  # a judge scores the answers to requests


def graded(study, model, dataset):
    """Greedy traces with their grades and problems."""
    keys = ["uid", "condition", "decoding", "sample"]
    traces, grades = (read_traces(study.written(store, model, dataset)) for store in ("traces", "grades"))
    problems = pd.read_parquet(study.results / f"datasets/{dataset}.parquet")
    table = traces.merge(grades, on=keys, validate="1:1").merge(problems, on="uid", validate="m:1")
    return table[table["decoding"] == "greedy"]


@pytest.mark.parametrize("model", MODELS)
def test_with_reasoning_at_least_95_percent_are_right(study, model):
    table = pd.concat([graded(study, model, dataset) for dataset in DATASETS])
    reasoned = table[table["condition"] == "with_reasoning"]
    assert len(reasoned) == 176 + 60
    assert (reasoned["is_correct"] == True).mean() >= 0.95  # noqa: E712 (a verdict may be absent)


@pytest.mark.parametrize("model", MODELS)
def test_without_reasoning_the_harder_chains_lose_at_least_30_points(study, model):
    table = graded(study, model, "puzzles")
    hard = table[table["area"].isin(["compass", "cups"]) & table["level"].isin(["6", "8"])]
    share = (hard["is_correct"] == True).groupby(hard["condition"]).mean()  # noqa: E712
    assert share["with_reasoning"] - share["without_reasoning"] >= 0.30


def test_the_problems_add_up_to_the_effect(study):
    """Problems right with and without reasoning only are the effect's b and c."""
    problems, effect = (pd.read_csv(study.results / f"tables/{name}.csv") for name in ("problems", "effect"))
    greedy = effect[(effect["decoding"] == "greedy") & (effect["by"] == "all")]
    assert len(greedy) == len(GRADED)
    for row in greedy.itertuples():
        of_row = (problems["model"] == row.model) & (problems["dataset"] == row.dataset)
        counts = problems[of_row & (problems["decoding"] == "greedy")]["right_in"].value_counts()
        assert (counts.get("only with", 0), counts.get("only without", 0)) == (row.b, row.c)


@pytest.mark.parametrize(("model", "dataset"), EACH)
def test_the_rerun_agrees_with_the_engine_token_by_token(study, model, dataset):
    with h5py.File(study.results / f"attention/{model}/{dataset}.h5") as file:
        agreement, mass = file["argmax_agreement"][:], file["segment_mass"][:]
    assert agreement.mean() > 0.999
    assert np.abs(mass.sum(-1) - 1).max() < 1e-4


@pytest.mark.parametrize(("model", "dataset"), EACH)
def test_traces_keep_the_ids_that_their_text_comes_from(study, model, dataset):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(study.folder / "resources/models" / model)
    traces = read_traces(study.written("traces", model, dataset))
    assert set(traces["condition"]) == {"with_reasoning", "without_reasoning"}
    assert set(traces["decoding"]) == {"greedy", "sampled"}
    for row in traces.head(40).itertuples():
        ids = [*row.prompt_token_ids, *row.completion_token_ids]
        bounds = Bounds.of(row.bounds)
        assert bounds.end == len(ids)
        assert tokenizer.decode(ids[bounds.span("answer")]) == row.answer_text


@pytest.mark.parametrize(("model", "dataset"), GRADED)
def test_without_ablation_the_engines_answers_come_again_token_by_token(study, model, dataset):
    ablated = pd.read_parquet(study.results / f"ablation/{model}/{dataset}.parquet")
    unablated = ablated[ablated["mode"] == "unablated"]
    traces = graded(study, model, dataset).query("condition == 'with_reasoning'").set_index("uid")
    assert len(unablated) == 10
    for row in unablated.itertuples():
        assert traces.at[row.uid, "completion_token_ids"][-len(row.token_ids) :].tolist() == row.token_ids.tolist()


@pytest.mark.parametrize(("model", "dataset"), GRADED)
def test_answers_from_the_whole_reasoning_are_the_original_ones_and_from_anothers_are_not(study, model, dataset):
    table = pd.read_csv(study.results / f"tables/{model}/{dataset}/perturbation.csv")
    agreement = table[table["by"] == "all"].set_index("perturbation")["agreement"]
    assert agreement["cut_100"] > 0.98
    assert agreement["other_reasoning"] < 0.2


@pytest.mark.parametrize("model", MODELS)
def test_patching_all_or_nothing_at_the_ends_of_the_network(study, model):
    """At layer 0 the final token is the same in both runs; the last layer's final token is nearly the output."""
    with h5py.File(study.results / f"patching/{model}/comparisons.h5") as file:
        for probe in file["probe"].asstr()[:]:
            group = file[probe]
            roles = list(group["role"].asstr()[:])
            used = group["is_used"][:] == 1
            final = group["resid_pre/clean_to_corrupted/normalized_logit_diff"][used][:, :, roles.index("final")]
            assert used.sum() >= 20
            assert np.abs(final[:, 0]).max() < 1e-4
            assert group["null_patch_error"][:].max() < 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_a_hint_that_means_nothing_to_a_model_moves_few_of_its_answers_and_the_judge_reads_those(study, model):
    table = pd.read_csv(study.results / f"tables/{model}/puzzles/hints.csv").query("by == 'all'")
    assert list(table["kind"]) == ["professor", "user"] and (table["n_problems"] == 30).all()
    assert (table["follow_high"] < 0.6).all() and (table["tells_without"] == 0).all()
    assert (table["n_judged"] == table["n_switched"]).all()


@pytest.mark.parametrize(("model", "dataset"), GRADED)
def test_every_way_to_ablate_is_shown(study, model, dataset):
    table = pd.read_csv(study.results / f"tables/{model}/{dataset}/ablation.csv")
    assert set(table["mode"]) == {"unablated", "zero", "mean", "resample", "cut_off", "moved", "sharpened"}


def test_every_store_names_its_dimensions_and_origin(study):
    paths = list(study.results.rglob("*.h5"))
    # attention and its rows; sentences; diagnostics, and the pairs' activations, patching and mechanism
    assert len(paths) == 2 * len(EACH) + len(GRADED) + 4 * len(MODELS)
    for path in paths:
        with h5py.File(path) as file:
            assert "r2a" in file.attrs, path
            names = []
            file.visit(names.append)
            measured = [file[name] for name in names if "unit" in file[name].attrs]
            assert measured, path
            for array in measured:
                assert all(dimension.label for dimension in array.dims), (path, array.name)


def test_the_tiny_judge_scores_the_open_ended_answers(study):
    judged = pd.read_parquet(study.results / "judgements/tiny-judge/requests.parquet")
    assert len(judged) == len(MODELS) * 22 * 2 * 3
    assert (judged["status"] == "scored").mean() > 0.9
    assert judged.loc[judged["status"] == "scored", "score"].between(1, 10).all()
    effect = pd.read_csv(study.results / "tables/judge_effect.csv")
    assert set(effect["area"]) == {"all", "compass", "cups", "lookup"}
    assert "Tiny judge (random)" in (study.results / "summary.md").read_text()


def test_the_summary_names_every_model_and_says_that_they_are_toys(study):
    text = (study.results / "summary.md").read_text()
    for expected in ("Tiny Qwen2", "Tiny Llama", "Toy models", "Reasoning-Focus Head"):
        assert expected in text
    page = (study.results / "summary.html").read_text()
    for expected in (
        "What was left out, and why?",
        "<td>traces</td>",
        "tokens per second",
        'id="packed-figure-accuracy"',
    ):
        assert expected in page
    assert len(page) < 3_000_000
    for link in re.findall(r'href="((?:figures|tables|explorer)/[^"#]*)', page):
        assert (study.results / link).exists(), link
    assert 'href="tiny/summary.html"' in (study.results.parent / "index.html").read_text()
    assert "not recorded" not in page  # the profile has every job's threads and GPUs recorded
    assert len((study.results / "summary.txt").read_text().splitlines()) == 5


def test_no_sentence_of_the_page_has_more_than_two_numbers_and_none_is_said_twice(study):
    page = (study.results / "summary.html").read_text()
    said = sentences(page, "said")
    assert len(said) > 12 and len(set(said)) == len(said)
    every = sentences(page)
    assert len(every) > 200 and [one for one in every if len(NUMBER.findall(one)) > 2] == []


def test_the_page_says_what_the_written_rules_say_and_nothing_else(study):
    written = (study.folder / "docs/report.md").read_text().partition("| sentence |")[2].splitlines()[2:]
    rules = [row.split(" | ")[0].removeprefix("| ") for row in written if row.startswith("| ")]
    patterns = {rule: re.escape(rule).replace("…", ".+") for rule in rules}
    page = (study.results / "summary.html").read_text()
    checks = page.partition('<ul id="missing"')[2].partition("</ul>")[0]
    said = {*sentences(page, "said"), *sentences(checks)}
    told = [one for one in said if ": " not in one]  # what was left out, by model
    assert [one for one in told if not any(re.fullmatch(pattern, one) for pattern in patterns.values())] == []
    unsaid = [rule for rule, pattern in patterns.items() if not any(re.fullmatch(pattern, one) for one in told)]
    assert unsaid == ["Fewer answers are right with reasoning …."]


def test_every_stage_takes_the_space_that_was_estimated(study, monkeypatch):
    monkeypatch.chdir(study.folder)
    estimated = Reckoning(load_study(yaml.safe_load(Path("config/config.yaml").read_text()))).bytes_by_stage()
    taken = dict.fromkeys(estimated, 0)
    for path in study.results.rglob("*"):
        stage = path.relative_to(study.results).parts[0].replace("ablated_answers", "ablation")
        taken[stage if stage in estimated else "the rest"] += path.stat().st_size * path.is_file()
    assert {stage: size for stage, size in taken.items() if not 1 / 1.5 < estimated[stage] / size < 1.5} == {}


def test_the_estimate_is_told_once_and_by_no_job(study):
    assert study.said.count("The whole study takes about") == 1


def test_no_job_asks_another_machine(study):
    assert not study.connections.exists(), study.connections.read_text()


def test_only_jobs_that_run_a_model_import_torch(study):
    # Snakemake runs copies, each with something before its script's name
    importers = {path.split("/")[-1].split(".", 1)[-1] for path in study.torch_importers.read_text().splitlines()}
    without = {script for script, runs_a_model in study.runs_a_model.items() if not runs_a_model}
    assert len(without) > 15 and any(study.runs_a_model[script] for script in importers & study.runs_a_model.keys())
    assert not importers & without


def test_one_start_of_an_engine_serves_several_jobs(study):
    """How many exactly depends on which jobs happen to be ready when one starts."""
    for model in MODELS:
        times = [(study.results / "benchmarks").glob(FOLDERS[stage].format(model=model)) for stage in IN_ONE_ENGINE]
        n_jobs = sum(not path.name.endswith(BESIDE) for paths in times for path in paths)
        logs = [path for path in (study.results / "logs").rglob("*.log") if model in path.parts]
        n_starts = sum(path.read_text(errors="replace").count("Initializing a V1 LLM engine") for path in logs)
        assert n_jobs > 12 and 1 <= n_starts <= n_jobs / 2

"""The estimate printed before a study runs, against what its stores then take."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import Qwen2Config, Qwen2ForCausalLM

from r2a.attention import capture_attention
from r2a.estimate import Reckoning, announce
from r2a.models import load_tokenizer, marks_of, read_manifest
from r2a.patching.runs import capture_activations
from r2a.roles import CONTROL_ROLE, KEY_ROLES, PROBE
from r2a.speeds import FOLDERS, GPUS, corrected, n_jobs
from r2a.store import write_parquet
from r2a.study import load_study, stage_settings
from r2a.traces import segment_bounds
from random_traces import write_random_traces

ROOT = Path(__file__).parents[2]
N_TRACES, N_PAIRS = 10, 6


def study_of(folder, **sections):
    """A study of a model and of pairs in the current folder."""
    Path("pairs.csv").write_text("query_a,answer_a,query_b,answer_b\n" + "p,q,r,s\n" * N_PAIRS)
    config = {
        "study": "mine", "seed": 1, "models": {"random": {"path": str(folder)}},
        "datasets": {"pairs": {"kind": "comparison_pairs", "path": "pairs.csv"}},
        "decodings": {"greedy": {"temperature": 0}}, "generation": {"max_new_tokens": 800},
    }  # fmt: skip
    shutil.copytree(ROOT / "resources", "resources", ignore=shutil.ignore_patterns("models"), dirs_exist_ok=True)
    return load_study(config | sections)


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """The random model of bytes with more layers, heads and dimensions."""
    folder = tmp_path_factory.mktemp("larger")
    write_random_traces(folder)
    config = Qwen2Config.from_pretrained(folder)
    config.update(
        {"num_hidden_layers": 6, "layer_types": ["full_attention"] * 6, "num_attention_heads": 12, "hidden_size": 384}
    )
    config.update({"num_key_value_heads": 4, "vocab_size": 2000, "max_position_embeddings": 1024})
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    manifest = read_manifest(folder / "manifest.json") | {"n_layers": 6, "n_heads": 12}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.slow
def test_activations_take_what_is_estimated(larger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    roles = [*(f"{PROBE}{k}" for k in range(16)), *KEY_ROLES, CONTROL_ROLE]
    rows = []
    for probe in ("plain", "boxed"):
        for pair in range(N_PAIRS):
            row = {"probe": probe, "pair": f"pair-{pair}", "left_out": "", "roles": roles}
            row |= {"answer_a_id": 7, "answer_b_id": 8}
            for run in ("clean", "corrupted"):
                row[f"{run}_ids"] = rng.integers(4, 250, 60).tolist()
                row |= {f"{run}_positions": list(range(40, 60)), f"{run}_reasoning_start": 2, f"{run}_masked": []}
            rows.append(row)
    origin = {"parameters_hash": "0", "models": {}}
    write_parquet(tmp_path / "pairs.parquet", pd.DataFrame(rows), origin)
    study = study_of(larger)
    settings = stage_settings(study, "activations", "random", "pairs")
    output = tmp_path / "activations.h5"
    capture_activations(tmp_path / "pairs.parquet", larger / "manifest.json", output, settings)
    estimated = Reckoning(study).bytes_by_stage()["activations"]
    assert 1 / 1.5 < estimated / output.stat().st_size < 1.5


@pytest.mark.slow
def test_attention_takes_what_is_estimated(larger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer, rows = load_tokenizer(larger), []
    for number in range(2 * N_TRACES):
        reasoning = "One is 1.\n" * 20 if number % 2 else "Okay.\n"
        prompt = tokenizer.encode(f"<bos>What is it, and is it no. {number}?<think>", add_special_tokens=False)
        completion = tokenizer.encode(f"{reasoning}</think>{'It is it.' * 6}<eos>", add_special_tokens=False)
        bounds = segment_bounds(prompt, completion, marks_of(larger))
        row = {"uid": f"text-{number}", "condition": "with_reasoning", "sample": 0, "decoding": "greedy"}
        row |= {"prompt_token_ids": prompt, "completion_token_ids": completion, "bounds": bounds}
        row |= {"is_valid": True, "n_forced_tokens": 0}
        rows.append(row)
    write_parquet(tmp_path / "traces.parquet", pd.DataFrame(rows), {"parameters_hash": "0", "models": {}})
    Path("texts.jsonl").write_text('{"uid": 1}\n' * N_TRACES)
    study = study_of(larger, datasets={"texts": {"kind": "open_ended", "path": "texts.jsonl"}})
    output = tmp_path / "attention.h5"
    settings = stage_settings(study, "attention", "random", "texts")
    capture_attention([tmp_path / "traces.parquet"], larger / "manifest.json", output, settings, 16_000)
    estimated = Reckoning(study).bytes_by_stage()["attention"]
    taken = sum(path.stat().st_size for path in (output, *tmp_path.glob(".attention.parts/*.npz")))
    assert 1 / 1.5 < estimated / taken < 1.5


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


def announced(study):
    heard, log = Heard(), logging.Logger("test")
    log.addHandler(heard)
    announce(study, log)
    return heard.lines


def test_gpu_hours_are_tokens_over_the_given_throughput(larger, tmp_path, monkeypatch):
    """12 questions: 250 and 70 tokens per trace of at most 1000; 12 answers of 70 tokens from perturbed reasonings, two
    of them after half a reasoning; and 8 traces with a hint.
    """
    monkeypatch.chdir(tmp_path)
    models = {"one": {"path": str(larger), "gpus": 2, "tokens_per_second": 2}, "other": {"path": str(larger)}}
    perturbation = {"kinds": ["cut", "filler", "rest_regenerated"], "cuts": [0, 50, 100, 25], "n_problems": 2}
    hints = {"kinds": ["user", "professor"], "points_at": ["wrong", "right"], "n_problems": 2}
    options = {"generation": {"max_new_tokens": 1000}, "perturbation": perturbation, "hints": hints}
    lines = announced(study_of(larger, models=models, **options))
    hours = ((12 + 8) * 320 + 12 * 70 + 2 * 125) / 2 * 2 / 3600
    assert ("INFO", f"GPU hours of generation: one {hours:.1f}.") in lines


def test_a_model_on_a_cpu_has_its_hours_told_by_stage_with_what_makes_them_fewer(larger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"big": {"hub": "some/Model-7B", "gpus": 0}, "toy": {"path": str(larger), "gpus": 0, "is_toy": True}}
    models["far"] = {"hub": "some/Model-32B", "gpus": 1}
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    (line,) = [line for _, line in announced(study_of(larger, models=models)) if line.startswith("CPU hours")]
    assert line.startswith("CPU hours of big") and "diagnostics" in line and "Less by " in line
    on_one, on_four = map(float, re.search(r": ([\d.]+), ([\d.]+) on 4 cores", line).groups())
    assert on_four == pytest.approx(on_one / 4, abs=0.1)


def test_operations_follow_what_is_asked_for(larger, tmp_path, monkeypatch):
    """Forty prompts of 1000 tokens, read twice: 12 squares per layer; every fifth layer takes less than half."""
    monkeypatch.chdir(tmp_path)
    far = {"models": {"big": {"hub": "some/Model-7B"}}}
    needle = {"needle": "Red.", "question": "Which?"}
    prompts = {"needles": [needle, needle], "lengths": [1000], "depths": [k / 20 for k in range(20)]}
    study = study_of(larger, **far, diagnostics=prompts, patching={"layer_step": 1})
    found = Reckoning(study).operations_by_stage("big")
    body = 2 * 12 * 28 * 3584**2
    assert found["diagnostics"] == 2 * 40 * 1000 * (body + 2 * 1000 * 3584 * 28)
    coarse = Reckoning(study_of(larger, **far, patching={"layer_step": 5})).operations_by_stage("big")
    assert 0.2 * found["patching"] < coarse["patching"] < 0.5 * found["patching"]
    one, two = (
        Reckoning(
            study_of(larger, **far, sentences={"n_problems": n}, resampling={"n_rollouts": 9, "n_problems": n})
        ).operations_by_stage("big")
        for n in (1, 2)
    )
    for stage in ("sentences", "resampling"):
        assert one[stage] > 0 and two[stage] == pytest.approx(2 * one[stage])
    assert "resampling" not in +found


@pytest.mark.parametrize("name", ["r1-llama-8b", "r1-qwen-7b", "r1-qwen-1.5b"])
def test_patching_of_the_papers_study_takes_less_than_its_answers_and_perturbed_reasonings(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    reckoning = Reckoning(load_study(yaml.safe_load(Path("config/paper.yaml").read_text())))
    for device in GPUS.values():
        hours = reckoning.hours_by_stage(name, device)
        assert hours["patching"] < hours["traces"] + hours["perturbation"]


def test_the_hours_in_the_docs_are_the_estimates(monkeypatch):
    monkeypatch.chdir(ROOT)
    reckoning = Reckoning(load_study(yaml.safe_load(Path("config/paper.yaml").read_text())))
    names = ("r1-qwen-1.5b", "r1-qwen-7b", "r1-llama-8b")
    hours = {name: [reckoning.hours_by_stage(name, device) for device in GPUS.values()] for name in names}
    for of in (each for of_model in hours.values() for each in of_model):
        of["all"] = sum(of.values())
    shown = Path("docs/gpu.md").read_text()
    for stage in ("traces", "perturbation", "attention", "ablation", "sentences", "patching", "all"):
        cells = [" / ".join(f"{of[stage]:.1f}" for of in hours[name]) for name in names]
        assert f"| {stage} | {' | '.join(cells)} |\n" in shown, (stage, cells)


def test_jobs_ask_for_memory_by_size_and_dtype_and_for_threads_by_what_they_run(larger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {
        "wide": {"hub": "some/Model-7B", "gpus": 0, "dtype": "float32"}, "half": {"hub": "some/Model-7B", "gpus": 0},
        "tiny": {"path": str(larger), "gpus": 0},
        "given": {"path": str(larger), "memory_mb": 9, "threads": 3},
    }  # fmt: skip
    models["half"]["dtype"] = "bfloat16"
    found = study_of(larger, models=models).models
    assert found["wide"].memory_mb == 2500 + 256 + 1.2 * 28_000
    assert found["half"].memory_mb == 2500 + 256 + 1.2 * 14_000
    assert (found["tiny"].memory_mb, found["given"].memory_mb) == (4000, 9)
    assert [model.threads for model in found.values()] == [8, 8, 1, 3]


def gpu_line(models):
    (line,) = [line for _, line in announced(study_of("unused", models=models)) if line.startswith("GPU hours of")]
    return line


def test_hours_on_each_gpu_are_told_until_the_studys_own_jobs_correct_them(tmp_path, monkeypatch):
    """Two shards of attention took 3 and 5 hours on two GPUs; perturbation, without a job, is corrected as much."""
    monkeypatch.chdir(tmp_path)
    models = {"far": {"hub": "some/Model-32B", "gpus": 2, "shards": 4}}
    line = gpu_line(models)
    assert "within a factor of two" in line and "RTX 4090 / A100 / H100" in line
    benchmarks = Path("results/mine/benchmarks/attention/far")
    benchmarks.mkdir(parents=True)
    for shard, hours in enumerate((3, 5), start=1):
        (benchmarks / f"pairs.{shard}-of-4.tsv").write_text(f"s\th:m:s\n{3600 * hours}\t0\n")
    Path("results/mine/benchmarks/attention/far/pairs.3-of-4.tsv").write_text("torn")
    line = gpu_line(models)
    assert "16.0 of them spent" in line and "attention 32.0" in line


@pytest.mark.parametrize("name", ["config", "paper"])
def test_every_stage_of_the_estimate_is_corrected_by_its_own_jobs(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    study = load_study(yaml.safe_load(Path(f"config/{name}.yaml").read_text()))
    rules = "".join(path.read_text() for path in Path("workflow/rules").glob("*.smk"))
    for model in study.weighted_models:
        for stage in +Reckoning(study).operations_by_stage(model):
            folder = FOLDERS[stage].partition("{")[0]
            assert n_jobs(study, stage, model) > 0 and f'"<benchmarks>/{folder}{{model}}' in rules, stage


def test_a_stage_without_jobs_is_corrected_as_the_same_stage_of_others_is_or_else_as_all_are():
    estimated = {"a": {"traces": 1.0, "attention": 2.0}, "b": {"traces": 3.0, "attention": 4.0, "patching": 5.0}}
    spent = {"a": {"traces": (1.0, 0.5), "attention": (2.0, 1.0)}, "b": {}}
    assert corrected(estimated, spent) == {
        "a": {"traces": 2.0, "attention": 2.0},
        "b": {"traces": 6.0, "attention": 4.0, "patching": 7.5},
    }


def test_stages_that_share_engines_are_corrected_together():
    """Most perturbed answers were generated in the time of the traces; twice as long as estimated in all."""
    estimated = {"a": {"traces": 4.0, "perturbation": 4.0, "resampling": 2.0, "patching": 3.0}}
    spent = {"a": {"traces": (15.0, 1.0), "perturbation": (1.0, 1.0), "patching": (1.0, 0.5)}}
    found = corrected(estimated, spent)
    assert found == {"a": {"traces": 8.0, "perturbation": 8.0, "resampling": 4.0, "patching": 2.0}}


def test_a_generated_token_takes_its_products_and_its_share_of_one_reading_of_the_weights():
    assert GPUS["A100"].rate == 156e12
    assert GPUS["A100"].stepwise == pytest.approx(1 + 156e12 / (2e12 * 64))


def test_what_is_not_here_yet_is_assumed_from_its_name_and_said(larger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"far": {"hub": "some/R1-Distill-32B-v2"}}
    datasets = {"math": {"kind": "problems", "hub": "some/math"}, "few": {"kind": "problems", "hub": "a/b"}}
    datasets["few"]["n_problems"] = 30
    study = study_of(larger, models=models, datasets=datasets)
    assert Reckoning(study).n_problems == {"math": 1000, "few": 30}
    (line,) = [line for _, line in announced(study) if line.startswith("Assumed")]
    assert line == "Assumed until downloaded: math of 1000 problems, far of 64 layers and 5120 dimensions."
    manifest = Path("results/mine/models/far.json")
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"folder": str(larger)}))
    write_parquet("results/mine/datasets/math.parquet", pd.DataFrame({"uid": range(7)}), {})
    assert Reckoning(study).geometries["far"] == (6, 12, 384, 2000)
    assert Reckoning(study).n_problems["math"] == 7


def test_files_that_cannot_be_read_stop_no_estimate(larger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"torn": {"path": "torn-7B"}, "far": {"hub": "some/far-7B"}, "empty": {"path": "empty-7B"}}
    for name, text in {"torn-7B/config.json": '{"hidden_', "empty-7B/config.json": "{}"}.items():
        Path(name).parent.mkdir()
        Path(name).write_text(text)
    for name in ("models/far.json", "datasets/pairs.parquet"):
        path = Path("results/mine", name)
        path.parent.mkdir(parents=True)
        path.write_text("[1, 2")
    study = study_of(larger, models=models)
    reckoning = Reckoning(study)
    assert {geometry.d_model for geometry in reckoning.geometries.values()} == {3584}
    assert reckoning.n_problems == {"pairs": 2 * N_PAIRS}
    Path("pairs.csv").unlink()
    Path("pairs.csv").mkdir()
    assert Reckoning(study).n_problems == {"pairs": 2 * 1000}


def test_too_small_a_disk_is_warned_of_with_numbers_but_for_what_is_stored_already(larger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = study_of(larger)
    total = Reckoning(study).bytes_by_stage().total()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=total // 2))
    ((_, warning),) = [line for line in announced(study) if line[0] == "WARNING"]
    assert f"{tmp_path} has " in warning and "make room" in warning
    store = Path("results/mine/activations/random/pairs.h5")
    store.parent.mkdir(parents=True)
    store.write_bytes(bytes(total // 2 + 1000))
    assert all(level == "INFO" for level, _ in announced(study))


def test_the_estimate_imports_nothing_heavy_and_calls_few_functions():
    """Every run waits for it. 6,500 calls take a few thousandths of a second."""
    config = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    code = (
        "import json, logging, sys\n"
        "from r2a.study import load_study; from r2a.estimate import announce\n"
        f"study = load_study(json.loads({json.dumps(config)!r}))\n"
        "calls = []\n"
        "sys.setprofile(lambda frame, event, of: calls.append(event)); announce(study, logging.getLogger())\n"
        "sys.setprofile(None)\n"
        "print(calls.count('call'), *({'torch', 'h5py', 'pandas', 'numpy'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'workflow/scripts')\n{code}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    n_calls, *heavy = done.stdout.split()
    assert int(n_calls) < 50_000 and not heavy

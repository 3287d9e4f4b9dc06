"""One start of an engine serves jobs of several rules, each with its own ledger."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import Namedlist

from r2a import engine
from r2a.datasets import load_dataset
from r2a.generation import _complete, generate_traces, requests_of
from r2a.generation.hinted import answer_hinted
from r2a.generation.ledger import CompletionLedger
from r2a.generation.requests import REFUSED, Completion, CompletionRequest
from r2a.generation.siblings import Siblings
from r2a.hints import write_hinted_problems
from r2a.ledger import hold, hold_if_free, ledger_path
from r2a.models import read_manifest, resolve_model
from r2a.plan import write_plan
from r2a.store import read_parquet
from r2a.study import load_study, stage_settings

ROOT = Path(__file__).parents[2]
ENGINE = {"gpu": 0, "gpu_memory_percent": 90, "cpu_cache_mb": 64}
REQUEST = CompletionRequest("a", "with_reasoning", "greedy", 0, 0, (1, 2), "Q", "", 0, 1.0, 10, "m")
DONE = Completion((4, 5), "stop", 0.1)


def siblings_in(folder, *names):
    """One job per name, each asking for two completions."""
    return found(lambda known: asked_in(folder, *names))


def found(ready):
    siblings = Siblings(ready, {REQUEST.key})
    siblings.find(lambda request: True)
    return siblings


def asked_in(folder, *names):
    return {
        folder / f"{name}.parquet": [replace(REQUEST, uid=uid, prompt_ids=(ord(name), n)) for n, uid in enumerate("ab")]
        for name in names
    }


def test_completions_for_another_file_are_kept_in_its_ledger_alone(tmp_path):
    siblings = siblings_in(tmp_path, "x", "y")
    asked = list(siblings.claimed())
    assert len(asked) == 4 and not siblings.keep(REQUEST, DONE)
    assert all(siblings.keep(request, DONE) for request in asked)
    for name, own in (("x", asked[:2]), ("y", asked[2:])):
        ledger = CompletionLedger(ledger_path(tmp_path / f"{name}.parquet"))
        assert all(ledger[request.key] == DONE for request in own)
        assert not any(request.key in ledger for request in asked if request not in own)
    assert list(siblings_in(tmp_path, "x", "y").claimed()) == []


def test_a_file_is_claimed_when_the_engine_has_room_and_freed_when_it_is_complete(tmp_path):
    siblings = siblings_in(tmp_path, "x", "y")
    x, y = (ledger_path(tmp_path / f"{name}.parquet") for name in "xy")
    asked = siblings.claimed()
    both = [next(asked), next(asked)]
    assert hold_if_free(x) is None  # its own job would wait
    hold_if_free(y).close()  # not yet reached
    for request in both:
        siblings.keep(request, DONE)
    hold_if_free(x).close()


def test_a_file_whose_own_job_is_at_work_is_left_to_it(tmp_path):
    with hold(ledger_path(tmp_path / "x.parquet")):
        siblings = siblings_in(tmp_path, "x", "y")
        assert len(siblings.requests()) == 4 and len(list(siblings.claimed())) == 2


def test_a_refused_request_is_left_to_its_own_job(tmp_path):
    siblings = siblings_in(tmp_path, "x")
    first, _ = siblings.claimed()
    assert siblings.keep(first, replace(DONE, finish_reason=REFUSED))
    assert first.key not in CompletionLedger(ledger_path(tmp_path / "x.parquet"))


def test_what_several_files_ask_for_is_completed_once_for_all_of_them(tmp_path):
    x, y, z = (tmp_path / f"{name}.parquet" for name in "xyz")
    question, other = replace(REQUEST, prompt_ids=(3,)), replace(REQUEST, prompt_ids=(4,))
    jobs = {x: [REQUEST, question], y: [replace(question, uid="b")], z: [question, other]}
    siblings = found(lambda known: jobs)
    asked = siblings.claimed()
    assert next(asked) == question
    assert not siblings.keep(REQUEST, DONE)
    assert siblings.keep(question, DONE)  # before z is claimed
    assert list(asked) == [other] and siblings.keep(other, DONE)
    for path, requests in ((x, [REQUEST, question]), (y, [question]), (z, [question, other])):
        ledger = CompletionLedger(ledger_path(path))
        assert all(ledger[request.key] == DONE for request in requests)
        hold_if_free(ledger_path(path)).close()


def test_a_job_that_becomes_ready_while_the_engine_runs_is_served_if_it_fits(tmp_path):
    ready = {}
    siblings = found(lambda known: {path: requests for path, requests in ready.items() if path not in known})
    assert list(siblings.claimed()) == [] and not siblings.keep(REQUEST, DONE)
    ready |= asked_in(tmp_path, "x", "y")
    ready[tmp_path / "x.parquet"].append(replace(REQUEST, uid="c", prompt_ids=(1,) * 100))
    ready[tmp_path / "y.parquet"].append(replace(REQUEST, uid="c"))  # which was the own job's as well

    def fits(request):
        return len(request.prompt_ids) < 100

    assert siblings.find(fits)
    asked = list(siblings.claimed())
    assert {request.prompt_ids[0] for request in asked} == {ord("y"), 1}
    assert all(siblings.keep(request, DONE) for request in asked)
    ledger = CompletionLedger(ledger_path(tmp_path / "y.parquet"))
    assert all(request.key in ledger for request in ready[tmp_path / "y.parquet"])
    assert not siblings.find(fits)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of the tiny Llama and four puzzles, which are in the current folder with their hints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "may_start", True)
    puzzles = {"kind": "problems", "path": str(ROOT / "resources/datasets/puzzles.jsonl"), "n_problems": 4}
    study = load_study(
        {
            "study": "test", "seed": 1, "decodings": {"greedy": {"temperature": 0}}, "datasets": {"puzzles": puzzles},
            "models": {"tiny": {"path": str(ROOT / "resources/models/tiny-llama"), "dtype": "float32"}},
            "generation": {"max_new_tokens": 100}, "hints": {"kinds": ["professor"], "dataset_kinds": ["problems"]},
        }
    )  # fmt: skip
    load_dataset(Path("puzzles"), stage_settings(study, "datasets", dataset="puzzles"))
    write_hinted_problems(Path("puzzles"), Path("hints"), stage_settings(study, "hints", dataset="puzzles"))
    resolve_model(Path("manifest"), stage_settings(study, "models", "tiny"))
    return study


def settings_of(study, stage):
    named = {"model": "tiny", "dataset": "puzzles", "condition": "with_reasoning", "decoding": "greedy"}
    return stage_settings(study, stage, **named)


def planned_job(script, output, settings, **inputs):
    """A job as Snakemake's main process has it."""
    return SimpleNamespace(
        rule=SimpleNamespace(script=f"../scripts/{script}.py"),
        is_local=True,
        benchmark="times.tsv",
        input=Namedlist(fromdict={**inputs, "manifest": "manifest"}),
        output=Namedlist(fromdict={"answers": output}),
        log=[f"{output}.log"],
        params=Namedlist(fromdict={"settings": settings}),
        wildcards=Namedlist(fromdict={"model": "tiny"}),
        resources=Namedlist(fromdict={"gpus_needed": 0}),
    )


@pytest.mark.slow
def test_one_start_of_vllm_serves_jobs_of_other_rules_and_leaves_those_whose_inputs_are_damaged(study, monkeypatch):
    traces, hinted = settings_of(study, "traces"), settings_of(study, "hinted_answers")
    Path("prompts").write_text("torn")
    write_plan(
        [
            planned_job("generate_traces", "traces.parquet", traces, dataset="puzzles"),
            planned_job("answer_hinted", "hinted.parquet", hinted, hints="hints"),
            planned_job("answer_perturbed", "perturbed.parquet", traces, prompts="prompts", dataset="puzzles"),
            planned_job("grade_traces", "grades.parquet", traces, dataset="puzzles"),
        ]
    )
    generate_traces(Path("puzzles"), Path("manifest"), Path("traces.parquet"), traces, ENGINE)
    assert sorted(path.name for path in Path().glob(".*.jsonl")) == [".hinted.ledger.jsonl", ".traces.ledger.jsonl"]
    monkeypatch.setattr(engine, "may_start", False)
    answer_hinted(Path("hints"), Path("manifest"), Path("hinted.parquet"), hinted, ENGINE)
    asked = read_parquet("hints")
    assert len(read_parquet("hinted.parquet")) == (asked["left_out"] == "").sum() > 0


@pytest.mark.slow
def test_vllm_completes_what_becomes_ready_while_it_runs_and_leaves_much_longer_requests(study):
    model, settings = read_manifest(Path("manifest")), settings_of(study, "traces")
    requests = requests_of(model, settings, "puzzles")
    *later, too_long, own = sorted(requests, key=lambda request: len(request.prompt_ids))
    too_long = replace(too_long, prompt_ids=too_long.prompt_ids * 10)
    ready = iter([{Path("long"): [too_long]}, {Path("later"): later}, {Path("longer"): [too_long]}])
    found = list(_complete([own], model, settings, ENGINE, lambda known: next(ready)))
    assert [request for request, _ in found] == [own] and next(ready, None) is None
    ledger = CompletionLedger(ledger_path(Path("later")))
    assert len(later) == 2 and all(request.key in ledger for request in later)
    assert not ledger_path(Path("long")).exists() and not ledger_path(Path("longer")).exists()

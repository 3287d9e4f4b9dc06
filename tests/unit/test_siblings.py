"""One start of an engine serves several files of traces, each in its own ledger."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from r2a.generation.ledger import CompletionLedger
from r2a.generation.plan import PLAN, read_plan, write_plans
from r2a.generation.requests import REFUSED, Completion, CompletionRequest
from r2a.generation.siblings import Siblings
from r2a.ledger import hold, hold_if_free, ledger_path

REQUEST = CompletionRequest("a", "with_reasoning", "greedy", 0, 0, (1, 2), "Q", "", 0, 1.0, 10, "m")
DONE = Completion((4, 5), "stop", 0.1)


def planned(folder, *names):
    (folder / "d.parquet").touch()
    return [{"dataset": str(folder / "d.parquet"), "output": str(folder / f"{name}.parquet")} for name in names]


def requests_of(job):
    return [
        replace(REQUEST, uid=uid, prompt_ids=(len(job["output"]), ord(job["output"][-9]), n))
        for n, uid in enumerate("ab")
    ]


def test_completions_for_another_file_are_kept_in_its_ledger_alone(tmp_path):
    siblings = Siblings(planned(tmp_path, "x", "y"), requests_of)
    asked = list(siblings.claimed({REQUEST.key}))
    assert len(asked) == 4 and not siblings.keep(REQUEST, DONE)
    assert all(siblings.keep(request, DONE) for request in asked)
    for name, own in (("x", asked[:2]), ("y", asked[2:])):
        ledger = CompletionLedger(ledger_path(tmp_path / f"{name}.parquet"))
        assert all(ledger[request.key] == DONE for request in own)
        assert not any(request.key in ledger for request in asked if request not in own)
    assert list(Siblings(planned(tmp_path, "x", "y"), requests_of).claimed(set())) == []


def test_a_file_is_claimed_when_the_engine_has_room_and_freed_when_it_is_complete(tmp_path):
    siblings = Siblings(planned(tmp_path, "x", "y"), requests_of)
    x, y = (ledger_path(tmp_path / f"{name}.parquet") for name in "xy")
    asked = siblings.claimed(set())
    both = [next(asked), next(asked)]
    assert hold_if_free(x) is None  # its own job would wait
    hold_if_free(y).close()  # not yet reached
    for request in both:
        siblings.keep(request, DONE)
    hold_if_free(x).close()


def test_a_file_whose_own_job_is_at_work_is_left_to_it(tmp_path):
    with hold(ledger_path(tmp_path / "x.parquet")):
        siblings = Siblings(planned(tmp_path, "x", "y"), requests_of)
        assert len(siblings.requests()) == 4 and len(list(siblings.claimed(set()))) == 2


def test_a_refused_request_and_a_dataset_that_is_not_there_yet_are_left_to_their_own_job(tmp_path):
    (job,) = planned(tmp_path, "x")
    siblings = Siblings([job, job | {"dataset": str(tmp_path / "later.parquet")}], requests_of)
    (first, _) = siblings.claimed(set())
    assert siblings.keep(first, replace(DONE, finish_reason=REFUSED))
    assert first.key not in CompletionLedger(ledger_path(tmp_path / "x.parquet"))


def test_a_plan_has_each_models_files_and_takes_the_place_of_the_last_runs(tmp_path):
    def job(model, name, script="generate_traces"):
        return SimpleNamespace(
            rule=SimpleNamespace(script=f"../scripts/{script}.py"), wildcards_dict={},
            output=SimpleNamespace(traces=str(tmp_path / model / "d" / name)), input=SimpleNamespace(dataset="d"),
            params=SimpleNamespace(settings={"seed": 1}),
        )  # fmt: skip

    write_plans([job("m", "x"), job("m", "y"), job("n", "z"), job("n", "other", "answer_perturbed")])
    assert [Path(planned["output"]).name for planned in read_plan(tmp_path / "m" / PLAN)] == ["x", "y"]
    write_plans([job("n", "z")])
    assert read_plan(tmp_path / "m" / PLAN) == []
    assert [Path(planned["output"]).name for planned in read_plan(tmp_path / "n" / PLAN)] == ["z"]
    assert read_plan(tmp_path / "n" / PLAN)[0]["settings"] == {"seed": 1}

"""One start of an engine serves several trace files, each with its own ledger."""

from dataclasses import replace

from r2a.generation.ledger import CompletionLedger
from r2a.generation.requests import REFUSED, Completion, CompletionRequest
from r2a.generation.siblings import Siblings
from r2a.ledger import hold, hold_if_free, ledger_path

REQUEST = CompletionRequest("a", "with_reasoning", "greedy", 0, 0, (1, 2), "Q", "", 0, 1.0, 10, "m")
DONE = Completion((4, 5), "stop", 0.1)


def siblings_in(folder, *names):
    """One job per name, each asking for two completions."""
    return Siblings(
        {
            folder / f"{name}.parquet": [
                replace(REQUEST, uid=uid, prompt_ids=(ord(name), n)) for n, uid in enumerate("ab")
            ]
            for name in names
        },
        {REQUEST.key},
    )


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
    siblings = Siblings({x: [REQUEST, question], y: [replace(question, uid="b")], z: [question, other]}, {REQUEST.key})
    asked = siblings.claimed()
    assert next(asked) == question
    assert not siblings.keep(REQUEST, DONE)
    assert siblings.keep(question, DONE)  # before z is claimed
    assert list(asked) == [other] and siblings.keep(other, DONE)
    for path, requests in ((x, [REQUEST, question]), (y, [question]), (z, [question, other])):
        ledger = CompletionLedger(ledger_path(path))
        assert all(ledger[request.key] == DONE for request in requests)
        hold_if_free(ledger_path(path)).close()

"""The ledger of completions, request seeds and keys."""

import dataclasses

from r2a.generation import request_seed
from r2a.generation.ledger import Ledger
from r2a.generation.requests import Completion, Request

REQUEST = Request("p1", "with_reasoning", "greedy", 0, 7, (1, 2, 3), 0.0, 1.0, 50, "weights")


def test_a_ledger_read_again_has_what_was_added(tmp_path):
    Ledger(tmp_path / "ledger.jsonl").add(REQUEST, Completion((4, 5), "stop", 0.1))
    assert Ledger(tmp_path / "ledger.jsonl")[REQUEST.key] == Completion((4, 5), "stop", 0.1)


def test_a_torn_last_line_is_dropped_and_the_ledger_goes_on(tmp_path):
    path = tmp_path / "ledger.jsonl"
    other = dataclasses.replace(REQUEST, seed=8)
    Ledger(path).add(REQUEST, Completion((4, 5), "stop", 0.1))
    path.write_bytes(path.read_bytes() + b'{"key": "cut off in the mid')
    torn = Ledger(path)
    torn.add(other, Completion((6,), "length", 0.2))
    again = Ledger(path)
    assert REQUEST.key in again
    assert again[other.key].token_ids == (6,)


def test_a_key_changes_with_what_determines_the_completion_only():
    changes = {"seed": 8, "prompt_ids": (1, 2), "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 51, "model": "new"}
    keys = {dataclasses.replace(REQUEST, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {REQUEST.key}) == len(changes) + 1
    assert dataclasses.replace(REQUEST, uid="p2", decoding="renamed").key == REQUEST.key


def test_each_request_has_its_own_reproducible_seed():
    seeds = {request_seed(1, uid, c, "sampled", k) for uid in ("a", "b") for c in ("with", "without") for k in range(3)}
    assert len(seeds) == 12
    assert request_seed(1, "a", "with", "sampled", 0) != request_seed(2, "a", "with", "sampled", 0)
    assert request_seed(1, "a", "with", "sampled", 0) == request_seed(1, "a", "with", "sampled", 0)
    assert all(0 <= seed < 2**31 for seed in seeds)

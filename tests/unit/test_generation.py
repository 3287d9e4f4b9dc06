"""The ledger of completions, request seeds and keys."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import r2a.engine
import r2a.generation
from r2a.generation import request_seed, vllm_engine
from r2a.generation.ledger import CompletionLedger
from r2a.generation.requests import Completion, CompletionRequest

LIBRARY = Path(r2a.generation.__file__).parents[2]
REQUEST = CompletionRequest(
    "p1", "with_reasoning", "greedy", 0, 7, (1, 2, 3), "one?", "<think>", 0.0, 1.0, 50, "weights"
)


def test_a_ledger_read_again_has_what_was_added(tmp_path):
    CompletionLedger(tmp_path / "ledger.jsonl").add(REQUEST, Completion((4, 5), "stop", 0.1))
    assert CompletionLedger(tmp_path / "ledger.jsonl")[REQUEST.key] == Completion((4, 5), "stop", 0.1)


def test_a_torn_last_line_is_dropped_and_the_ledger_goes_on(tmp_path):
    path = tmp_path / "ledger.jsonl"
    other = dataclasses.replace(REQUEST, seed=8)
    CompletionLedger(path).add(REQUEST, Completion((4, 5), "stop", 0.1))
    path.write_bytes(path.read_bytes() + b'{"key": "cut off in the mid')
    torn = CompletionLedger(path)
    torn.add(other, Completion((6,), "length", 0.2))
    again = CompletionLedger(path)
    assert REQUEST.key in again
    assert again[other.key].token_ids == (6,)


@pytest.mark.parametrize(
    "line", ["\0\0\0\0", '{"key": ', "5", "null", "[1, 2]", '"x"', '{"other": 1}', "é".encode("latin-1")]
)
def test_a_damaged_line_is_skipped_and_costs_no_other(line, tmp_path):
    path = tmp_path / "ledger.jsonl"
    CompletionLedger(path).add(REQUEST, Completion((4, 5), "stop", 0.1))
    damaged = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(damaged + b"\n" + path.read_bytes() + damaged + b"\n")
    assert CompletionLedger(path)[REQUEST.key] == Completion((4, 5), "stop", 0.1)


def test_an_endpoints_text_and_prompt_are_kept(tmp_path):
    completion = Completion((4, 5), "stop", 0.1, "so \\boxed{é}", (1, 2))
    with CompletionLedger(tmp_path / "ledger.jsonl") as ledger:
        ledger.add(REQUEST, completion)
    assert CompletionLedger(tmp_path / "ledger.jsonl")[REQUEST.key] == completion


def test_a_line_outlives_a_process_that_is_killed(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from r2a.generation.ledger import CompletionLedger\n"
        "from r2a.generation.requests import Completion, CompletionRequest\n"
        "ledger = CompletionLedger(Path(sys.argv[1]))\n"
        "for seed in range(20):\n"
        "    request = CompletionRequest('p', 'with_reasoning', 'greedy', 0, seed, (1,), '', '', 0.0, 1.0, 5, 'm')\n"
        "    ledger.add(request, Completion((seed,), 'stop', 0.1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "ledger.jsonl")], env=env, check=False)
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 20


def test_a_key_changes_with_what_determines_the_completion_only():
    changes = {"seed": 8, "prompt_ids": (1, 2), "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 51, "model": "new"}
    changes |= {"reasoning_budget": 9, "repetition": {"min_pattern_size": 1, "max_pattern_size": 4, "min_count": 3}}
    keys = {dataclasses.replace(REQUEST, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {REQUEST.key}) == len(changes) + 1
    assert dataclasses.replace(REQUEST, uid="p2", decoding="renamed", prompt="the same in ids").key == REQUEST.key


def test_options_that_are_off_leave_keys_as_they_were_without_them():
    assert REQUEST.key == "489a6b0622d4"


def test_a_key_of_a_text_prompt_changes_with_the_text():
    text = dataclasses.replace(REQUEST, prompt_ids=())
    others = [dataclasses.replace(text, prompt="two?"), dataclasses.replace(text, prefill="<think>\n</think>"), REQUEST]
    assert text.key not in [other.key for other in others]


def test_each_request_has_its_own_reproducible_seed():
    seeds = {request_seed(1, uid, c, "sampled", k) for uid in ("a", "b") for c in ("with", "without") for k in range(3)}
    assert len(seeds) == 12
    assert request_seed(1, "a", "with", "sampled", 0) != request_seed(2, "a", "with", "sampled", 0)
    assert request_seed(1, "a", "with", "sampled", 0) == request_seed(1, "a", "with", "sampled", 0)
    assert all(0 <= seed < 2**31 for seed in seeds)


class Engine:
    """The parts of vLLM's LLM that are used; each step finishes the latest request that it holds."""

    def __init__(self):
        self.llm_engine, self.held, self.n_taken, self.most_held = self, [], 0, 0
        self.vllm_config = SimpleNamespace(reasoning_config=None)

    def enqueue(self, prompts, sampling, use_tqdm):
        names = [str(self.n_taken + number) for number in range(len(prompts))]
        self.n_taken += len(prompts)
        self.held += zip(names, prompts, strict=True)
        self.most_held = max(self.most_held, len(self.held))
        return [f"{name}-5f2a" for name in names]

    def step(self):
        name, prompt = self.held.pop()
        choice = SimpleNamespace(token_ids=[prompt], finish_reason="stop")
        return [SimpleNamespace(finished=True, request_id=name, outputs=[choice])]


@pytest.mark.parametrize("n_requests", [0, 1, 7, 8, 9, 50])
def test_every_request_is_completed_by_its_own_tokens_and_few_wait_in_the_engine(monkeypatch, n_requests):
    monkeypatch.setattr(r2a.engine, "MOST_WAITING", 8)
    monkeypatch.setattr(r2a.engine, "FEWEST_WAITING", 4)
    monkeypatch.setattr(vllm_engine, "as_vllm_takes_it", lambda request: (request.seed, None))
    requests = [dataclasses.replace(REQUEST, seed=seed) for seed in range(n_requests)]
    engine = Engine()
    found = {request.seed: completion.token_ids for request, completion in vllm_engine.complete(engine, requests)}
    assert found == {seed: (seed,) for seed in range(n_requests)}
    assert engine.most_held == min(n_requests, 8)

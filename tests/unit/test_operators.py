"""How many operators a GPU is asked for, and how often the host waits for it, counted without one."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[2]
operators = SimpleNamespace(**runpy.run_path(str(ROOT / "tests/benchmarks/operators.py")))


@pytest.fixture(scope="module")
def counts() -> pd.DataFrame:
    """By [stage, tokens, way]: operators_per_layer and copies_per_layer."""
    return pd.DataFrame(operators.measure()).set_index(["stage", "tokens", "way"])


@pytest.mark.parametrize(
    ("call", "n_operators", "n_copies"),
    [
        (lambda x: x + 1, 1, 0),
        (lambda x: x.view(6).unflatten(0, (2, 3)).transpose(0, 1), 0, 0),
        (lambda x: x.cpu(), 1, 1),
        (lambda x: x.to("cpu", non_blocking=True), 1, 0),
        (lambda x: x[0, 0].item(), 1, 1),
        (lambda x: x[[0, 1]], 1, 1),
        (lambda x: torch.tensor([1, 2], device=x.device), 1, 1),
        (lambda x: x + torch.zeros(2, 3).to(x.device), 2, 1),
    ],
)
def test_operators_and_synchronous_copies_are_counted(call, n_operators, n_copies):
    assert operators.counted(lambda: call(torch.zeros(2, 3, device=operators.DEVICE))) == (1 + n_operators, n_copies)


@pytest.mark.slow
def test_no_layer_waits_for_a_copy(counts):
    assert (counts["copies_per_layer"] == 0).all(), counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "most"), [("attention", 2.5), ("rows", 2.5), ("ablation", 1.5), ("ablation of 16 traces", 1.5)]
)
@pytest.mark.parametrize("n_tokens", [3500, 10_000])
def test_a_layer_asks_for_few_more_operators_than_the_models_own(counts, stage, most, n_tokens):
    plain = counts["operators_per_layer"][stage.partition(" ")[0].replace("rows", "attention"), n_tokens, "plain"]
    assert counts["operators_per_layer"][stage, n_tokens, "ours"] <= most * plain


@pytest.mark.slow
@pytest.mark.parametrize("component", ["z", "resid_pre"])
@pytest.mark.parametrize("n_tokens", [600, 3000])
def test_a_patch_adds_few_operators_a_layer(counts, component, n_tokens):
    assert counts["operators_per_layer"][component, n_tokens, "ours"] <= 1.5

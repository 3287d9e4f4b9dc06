"""Batches are halved when memory runs out, and an item that does not fit by itself is left out."""

import pytest
import torch

from r2a import memory
from r2a.memory import affordable_tokens, by_tokens, if_it_fits, in_batches


def batches_of(tokens: list[int], budget: int, room: int) -> list[tuple[list[int], int | None]]:
    """Batches of numbered items with the sums of their tokens, if no more than `room` tokens fit."""

    def total(batch: list[int], _budget: int) -> int:
        found = sum(tokens[item] for item in batch)
        if found > room:
            raise torch.OutOfMemoryError("no memory left")
        return found

    return list(in_batches(range(len(tokens)), by_tokens(tokens), budget, total))


def test_batches_hold_what_the_budget_allows_and_at_least_one_item():
    found = batches_of([30, 40, 30, 200, 10, 90], 100, 1000)
    assert found == [([0, 1, 2], 100), ([3], 200), ([4, 5], 100)]


def test_a_halved_budget_stays_halved():
    assert batches_of([20] * 5, 100, 50) == [([0, 1], 40), ([2, 3], 40), ([4], 20)]


def test_only_what_does_not_fit_alone_comes_without_a_result():
    assert batches_of([20, 60, 20], 80, 50) == [([0], 20), ([1], None), ([2], 20)]


def test_other_errors_are_raised():
    def wrong() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        if_it_fits(wrong)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you ..."
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in ..."),
        RuntimeError("CUDA driver error: out of memory"),
    ],
)
def test_every_way_in_which_torch_says_that_memory_is_full_is_known(error):
    def full() -> None:
        raise error

    assert if_it_fits(full) is None


def test_torch_says_so_of_a_tensor_that_no_machine_holds():
    assert if_it_fits(torch.empty, 2**52) is None


def test_an_estimate_lowers_a_budget_that_free_memory_does_not_hold(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1_000_000)
    assert affordable_tokens(4096, 1000, "patching") == 700
    assert affordable_tokens(500, 1000, "patching") == 500

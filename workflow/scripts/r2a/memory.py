"""What fits into a device's memory: batches are sized by an estimate, and halved if memory still runs out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psutil
import torch

from r2a.progress import logger

SHARE = 0.7  # of the free memory that an estimate may fill
# what torch says of a full memory beside OutOfMemoryError
FULL = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")

Item = TypeVar("Item")
Result = TypeVar("Result")


def free_bytes() -> int:
    """Free memory of the visible GPU that has the least; without a GPU, of the machine.

    Memory that torch has reserved on a GPU but does not use counts as free.
    """
    if not torch.cuda.is_available():
        return int(psutil.virtual_memory().available)
    devices = range(torch.cuda.device_count())
    return min(
        torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        for device in devices
    )


def affordable_tokens(most: int, bytes_per_token: float, what: str) -> int:
    """`most`, or as many tokens as SHARE of the free memory holds at so many bytes each, if fewer; logged."""
    fitting = int(SHARE * free_bytes() / bytes_per_token)
    if fitting < most:
        logger.info(f"{what}: {fitting} tokens per batch instead of {most}, as free memory holds no more")
    return min(most, fitting)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


def in_batches(
    items: Sequence[Item],
    take: Callable[[Sequence[Item], int], Sequence[Item]],
    batch_tokens: int,
    compute: Callable[[Sequence[Item], int], Result],
) -> Iterator[tuple[Sequence[Item], Result | None]]:
    """Yield (batch, what `compute` makes of it) over the items in their order.

    take: returns the first items that fit into a number of tokens, at least one (by_tokens). compute receives a batch
    and the budget in tokens. When memory runs out, the budget for all remaining items is halved until the batch gets
    smaller, and the same items are tried again. A single item that does not fit comes with None; the caller decides
    what to do and whom to tell.
    """
    left = list(items)
    while left:
        batch, found = take(left, batch_tokens), None
        try:
            found = compute(batch, batch_tokens)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if found is None:  # only now, as the error held on to what the computation had
            free_unused()
            if len(batch) > 1:
                while len(take(left, batch_tokens)) >= len(batch):
                    batch_tokens //= 2
                logger.warning(f"out of memory at {len(batch)} at a time; continuing with {batch_tokens} tokens")
                continue
        yield batch, found
        left = left[len(batch) :]


def by_tokens(n_tokens: Sequence[int]) -> Callable[[Sequence[int], int], Sequence[int]]:
    """A `take` for in_batches, for items that are indices into n_tokens, the number of tokens of each."""

    def take(left: Sequence[int], batch_tokens: int) -> Sequence[int]:
        total = 0
        for n_items, item in enumerate(left):
            total += n_tokens[item]
            if n_items and total > batch_tokens:
                return left[:n_items]
        return left

    return take


def if_it_fits(compute: Callable[..., Result], *of: Any) -> Result | None:
    """compute(*of), or None if memory runs out."""
    ((_, found),) = in_batches([0], by_tokens([1]), 0, lambda *_: compute(*of))
    return found


def free_unused() -> None:
    """Release the memory that torch has reserved on GPUs but does not use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

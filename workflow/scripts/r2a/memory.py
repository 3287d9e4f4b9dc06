"""What a device's memory holds: batches are sized by an estimate, and halved where memory runs out all the same."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psutil
import torch

from r2a.progress import logger

SHARE = 0.7  # of the free memory that an estimate may fill
# what torch says of a full memory beside OutOfMemoryError
FULL = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")

Item = TypeVar("Item")
Result = TypeVar("Result")


def free_bytes() -> int:
    """Free memory of the visible GPUs, of the one that has least where there are several; without one, of the machine.

    What torch holds on a GPU and does not use counts as free.
    """
    if not torch.cuda.is_available():
        return int(psutil.virtual_memory().available)
    devices = range(torch.cuda.device_count())
    return min(
        torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        for device in devices
    )


def affordable_tokens(most: int, bytes_per_token: float, what: str) -> int:
    """`most`, or as many tokens as SHARE of the free memory holds at so many bytes each, if those are fewer; told."""
    fitting = int(SHARE * free_bytes() / bytes_per_token)
    if fitting < most:
        logger.info(f"{what}: {fitting} tokens per batch instead of {most}, as free memory holds no more")
    return min(most, fitting)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


def in_batches(
    items: Sequence[Item],
    take: Callable[[Sequence[Item], int], Sequence[Item]],
    batch_tokens: int,
    compute: Callable[[Sequence[Item], int], Result],
) -> Iterator[tuple[Sequence[Item], Result | None]]:
    """Items in their order, a batch at a time, and what `compute` makes of each batch.

    take: the first of some items, as many as so many tokens hold and at least one (by_tokens). compute is given a batch
    and the budget in tokens. Where memory runs out the budget is halved for all that is left, until a batch is
    smaller, and the same items are tried again. A single item that does not fit comes with None; what becomes of it,
    and who is told, is the caller's affair.
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
    """`take` of in_batches, for items that are numbers into n_tokens, which says how many tokens each has."""

    def take(left: Sequence[int], batch_tokens: int) -> Sequence[int]:
        total = 0
        for n_items, item in enumerate(left):
            total += n_tokens[item]
            if n_items and total > batch_tokens:
                return left[:n_items]
        return left

    return take


def if_it_fits(compute: Callable[..., Result], *of: Any) -> Result | None:
    """compute(*of), or None where memory runs out."""
    ((_, found),) = in_batches([0], by_tokens([1]), 0, lambda *_: compute(*of))
    return found


def free_unused() -> None:
    """Give back what torch holds on GPUs and does not use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

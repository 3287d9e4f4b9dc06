"""Waits for what other processes do, however slow or busy the machine is."""

import time
from collections.abc import Callable
from typing import Any

GUARD_SECONDS = 300  # far longer than anything takes; only what never happens fails


def wait_until(condition: Callable[[], Any]) -> Any:
    """The first value of `condition` that is true. Raises AssertionError if none is for GUARD_SECONDS."""
    deadline = time.monotonic() + GUARD_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not happen within {GUARD_SECONDS} s"
        time.sleep(0.02)
    return found

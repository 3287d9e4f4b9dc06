"""Progress of long work, as lines in a job's log, and on the terminal that Snakemake runs in."""

import logging
import time
from types import TracebackType
from typing import TextIO

SECONDS_BETWEEN_LINES = 5.0
logger = logging.getLogger("r2a")
# Where a person watches; None where nobody does. Set by job_log, which takes the job's own output away from it.
terminal: TextIO | None = None


class Progress:
    """Logs done, total, rate and time left; at most every few seconds, and once at the end."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self.done = self.tokens = 0
        self.started = self.last_line = time.monotonic()

    def advance(self, tokens: int = 0) -> None:
        """One more is done; `tokens` were processed for it."""
        self.done += 1
        self.tokens += tokens
        if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self._log()

    def _log(self) -> None:
        self.last_line = time.monotonic()
        seconds = max(self.last_line - self.started, 1e-9)
        line = f"{self.what}: {self.done}/{self.total}, {self.done / seconds:.1f} a second"
        if self.tokens:
            line += f", {self.tokens / seconds:,.0f} tokens a second"
        if 0 < self.done < self.total:
            line += f", {seconds / self.done * (self.total - self.done):.0f} s left"
        logger.info(line)
        if terminal:
            print(line, file=terminal, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log()

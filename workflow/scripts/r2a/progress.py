"""Progress of long work, as lines in a job's log and on the terminal in which Snakemake runs."""

import logging
import time
from datetime import timedelta
from types import TracebackType
from typing import TextIO

LEAST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between lines: a twentieth of the time so far, within these
LEAST_DONE = 2  # before the time left is estimated: the first one includes one-time costs
logger = logging.getLogger("r2a")
# The terminal that a person watches, if any. Set by job_log, which redirects the job's own output.
terminal: TextIO | None = None


def tell(words: str) -> None:
    """Log a warning, and show it on the terminal if a person is watching."""
    logger.warning(words)
    if terminal:
        print(f"WARNING: {words}", file=terminal, flush=True)


class Progress:
    """Logs done, total, rate and time left: at once, every few seconds at first, every minute later, and at the end.

    The last line comes when the block ends, whether or not everything is done.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self.done = self.tokens = 0
        self.share = 0.0  # of the next one
        self.last_said: tuple[float, int] | None = None
        self.started = self.last_line = time.monotonic()

    def advance(self, tokens: int = 0) -> None:
        """Count one more as done, for which `tokens` were processed."""
        self.done += 1
        self.tokens += tokens
        self.share = 0.0
        self._log_at_times()

    def within(self, share: float) -> None:
        """Report the completed share of the next one, from 0 to 1."""
        self.share = share
        self._log_at_times()

    def _log_at_times(self) -> None:
        now = time.monotonic()
        pause = min(max(LEAST_PAUSE, (now - self.started) / 20), LONGEST_PAUSE)
        if self.done < self.total and now - self.last_line > pause:
            self._log()

    def _log(self) -> None:
        if self.last_said == (self.done + self.share, self.tokens):  # the last line is already logged
            return
        self.last_said = (self.done + self.share, self.tokens)
        self.last_line = time.monotonic()
        seconds = max(self.last_line - self.started, 1e-9)
        line = f"{self.what}: {self.done}/{self.total}"
        if self.share and self.done < self.total:
            line += f" and {self.share:.0%} of the next"
        done = self.done + self.share
        if done:
            rate = done / seconds
            line += f", {rate:.1f} per second" if rate >= 1 else f", {1 / rate:.1f} seconds each"
        if self.tokens:
            line += f", {self.tokens / seconds:,.0f} tokens per second"
        if (self.done >= LEAST_DONE or self.share) and self.done < self.total:
            line += f", {timedelta(seconds=round(seconds / done * (self.total - done)))} left"
        logger.info(line)
        if terminal:
            print(line, file=terminal, flush=True)

    def __enter__(self) -> "Progress":
        logger.info(f"{self.what}: 0/{self.total}")  # the first one may take long
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log()

"""Processes that can be killed, for work that may hang, crash or exhaust memory.

Each worker sets an alarm that it does not handle: when the alarm goes off, the kernel ends the worker, even inside a C
call and even if the parent is gone. So nothing here polls, and no stuck process outlives its limit.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

START_SECONDS = 120.0  # for the imports that the function needs, on a busy machine
N_TRIES = 2  # a task that ends its worker is tried once more, in a new one
# Workers are forked from one process that has imported what most graders need, so that each starts at once.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["math_verify"])


class WorkerError(Exception):
    """No worker could start; the message says why and the remedy."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one task: `status` is done, timeout, crash or error; `value` is set if it is done.

    crash: the worker died (memory limit, segmentation fault); error: the function raised, `message` says what.
    """

    status: str
    value: Any = None
    message: str = ""


def run_in_workers(
    prepare: Callable[[], None],
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    seconds: float,
    memory_mb: int,
    n_workers: int = 2,
) -> Iterator[tuple[int, Outcome]]:
    """Yield (index, outcome) of function(*task) for each task, as they finish.

    prepare: called once in each worker, before its first task (imports); not counted in the tasks' time.
    seconds: the limit on a task's wall time, after which its worker is killed. memory_mb: a worker's address space.
    A task that ends its worker affects no other task. Raises WorkerError if workers cannot start.
    """
    waiting = deque((index, 1) for index in range(len(tasks)))
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, int, int]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < n_workers:
                worker = idle.pop() if idle else _Worker(prepare, function, seconds, memory_mb)
                index, attempt = waiting.popleft()
                with contextlib.suppress(OSError):  # a worker that died while idle: its outcome says so
                    worker.connection.send(tasks[index])
                busy[worker.connection] = (worker, index, attempt)
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, index, attempt = busy.pop(connection)
                outcome = worker.outcome()
                if outcome.status in ("done", "error"):
                    idle.append(worker)
                else:
                    worker.close()
                    if attempt < N_TRIES:
                        waiting.append((index, attempt + 1))
                        continue
                yield index, outcome
    finally:
        for worker in [*idle, *(worker for worker, _, _ in busy.values())]:
            worker.close()


class _Worker:
    """One process that answers one task at a time over its connection."""

    def __init__(
        self, prepare: Callable[[], None], function: Callable[..., Any], seconds: float, memory_mb: int
    ) -> None:
        self.connection, remote = FORKED.Pipe()
        self.process = FORKED.Process(target=_serve, args=(remote, prepare, function, seconds, memory_mb), daemon=True)
        self.process.start()
        remote.close()
        started = self.outcome()
        if started.status != "done":
            self.close()
            raise WorkerError(
                f"a grading process ended while starting ({started.message or started.status}); see the lines above, "
                f"or allow more than {memory_mb} MB by grading.memory_mb; a script of your own must begin below a line "
                'if __name__ == "__main__":, because each process imports it'
            )

    def outcome(self) -> Outcome:
        """The outcome that the process sent or, if it died, the outcome of its death."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
        if self.process.exitcode == -signal.SIGALRM:
            return Outcome("timeout")
        return Outcome("crash", message=f"the process ended with status {self.process.exitcode}")

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(
    connection: Connection,
    prepare: Callable[[], None],
    function: Callable[..., Any],
    seconds: float,
    memory_mb: int,
) -> None:
    """The worker's main loop: report how the preparation ended, then answer tasks until the parent is gone."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    connection.send(_outcome(prepare))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        connection.send(_outcome(function, *task))


def _outcome(function: Callable[..., Any], *task: Any) -> Outcome:
    """What a function returns or raises, before the alarm that is set goes off."""
    try:
        return Outcome("done", function(*task))
    except MemoryError:
        os._exit(1)
    except Exception as error:
        return Outcome("error", message=f"{type(error).__name__}: {error}"[:500])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

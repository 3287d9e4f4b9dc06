"""An OpenAI-compatible server: requests that are repeated while it is busy, and refusals in words.

The key comes from an environment variable alone, and stands in no message.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import httpx

N_TRIES = 7
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before the second try, doubled from one to the next
BUSY = (408, 409, 429)  # and 5xx: worth another try
REFUSED = (400, 413, 422)  # something about this one request
Task = TypeVar("Task")
Result = TypeVar("Result")


class EndpointError(Exception):
    """The server cannot be used; the message says what it answered and the remedy."""


class RefusedError(EndpointError):
    """The server refuses this request; others may pass."""


class Endpoint:
    """One server. `post` may be called from many threads."""

    def __init__(self, base_url: str, api_key_variable: str, timeout_seconds: float) -> None:
        """api_key_variable: name of the variable that holds the key, or empty where the server wants none."""
        self.base_url = base_url.rstrip("/")
        self.variable, self._key = api_key_variable, ""
        if api_key_variable:
            self._key = os.environ.get(api_key_variable, "").strip()
            if not self._key:
                raise EndpointError(
                    f"{self.base_url}: the environment variable {api_key_variable} holds no key; set it"
                )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # as many connections as threads ask for
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.Client(headers=headers, timeout=timeout_seconds, limits=limits)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's reply to a JSON body.

        Tries again while the server is busy, fails or cannot be reached. Raises RefusedError where it finds fault
        with the body, and EndpointError otherwise.
        """
        said = ""
        for number in range(N_TRIES):
            pause = 0.0
            try:
                response = self._client.post(f"{self.base_url}/{path}", json=body)
            except httpx.TransportError as error:
                said = self._without_key(f"{type(error).__name__} {error}")
            else:
                if response.is_success:
                    return response.json()
                said = self._without_key(f"{response.status_code} {response.text[:500]}")
                if response.status_code in REFUSED:
                    raise RefusedError(f"{self.base_url} refuses a request: {said}")
                if response.status_code not in BUSY and response.status_code < 500:
                    hint = f"; is the key in {self.variable} right?" if response.status_code in (401, 403) else ""
                    raise EndpointError(f"{self.base_url}/{path}: {said}{hint or '; check base_url and model'}")
                pause = _seconds(response.headers.get("Retry-After"))
            if number < N_TRIES - 1:
                backoff = min(FIRST_WAIT * 2**number, LONGEST_WAIT) * random.uniform(0.75, 1.25)
                time.sleep(min(max(pause, backoff), LONGEST_WAIT))
        raise EndpointError(f"{self.base_url}/{path}: no success in {N_TRIES} tries, last: {said}; run again later")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def as_they_finish(
    function: Callable[[Task], Result], tasks: Sequence[Task], n_threads: int
) -> Iterator[tuple[Task, Result]]:
    """Yield (task, function(task)) in the order in which they finish, `n_threads` at a time.

    Where one raises, no more are started; what is under way is still yielded, then the exception is raised.
    """
    waiting = iter(tasks)
    under_way: dict[Future[Result], Task] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(n_threads) as pool:
        while True:
            while failure is None and len(under_way) < n_threads:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                under_way[pool.submit(function, task)] = task
            if not under_way:
                break
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                task = under_way.pop(future)
                if (error := future.exception()) is None:
                    yield task, future.result()
                else:
                    failure = failure or error
    if failure is not None:
        raise failure


def _seconds(retry_after: str | None) -> float:
    try:
        return float(retry_after or 0)
    except ValueError:  # a date
        return 0.0

"""A client for an OpenAI-compatible server: it repeats requests while the server is busy, and explains refusals.

The key comes only from an environment variable and appears in no message.
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard, TypeVar

import httpx

N_TRIES = 7
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before the second try, then doubled each time
LONGEST_RETRY_AFTER = 600.0  # seconds; if a server asks for a longer wait, the client gives up
BUSY = (408, 409, 425, 429)  # and 5xx: worth another try
MOST_CHARACTERS = 400  # of a server's reply quoted in a message
REFUSED = (400, 413, 422)  # the fault is in this request
NOT_ALLOWED = (401, 403)
SURROUNDINGS = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")  # what httpx reads there
UNKNOWN_FIELD = re.compile(
    r"un(?:recogni[sz]ed|known|supported|expected)|not (?:supported|permitted|allowed)|extra", re.I
)
ALWAYS_SENT = {"model", "messages", "prompt"}
Task = TypeVar("Task")
Result = TypeVar("Result")


class EndpointError(Exception):
    """The server cannot be used; the message says what it answered and the remedy."""


class RefusedError(EndpointError):
    """The server refuses this request; others may succeed."""


class Endpoint:
    """One server. `post` may be called from many threads."""

    def __init__(self, base_url: str, api_key_variable: str, timeout_seconds: float) -> None:
        """api_key_variable: the name of the variable that holds the key; empty if the server needs none."""
        self.base_url = base_url.rstrip("/")
        self.variable, self._key = api_key_variable, ""
        if api_key_variable:
            self._key = os.environ.get(api_key_variable, "").strip()
            if not self._key:
                raise EndpointError(f"{self.base_url}: the environment variable {api_key_variable} has no key; set it")
            if not re.fullmatch("[!-~]+", self._key):
                raise EndpointError(
                    f"{self.base_url}: the key in {api_key_variable} has spaces, line ends or characters that are not "
                    "ASCII; set it again"
                )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise EndpointError(f"{self.base_url}: is not an address ({error}); correct base_url") from None
        # as many connections as threads ask for
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        try:
            self._client = httpx.Client(headers=headers, timeout=timeout_seconds, limits=limits)
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            raise EndpointError(
                f"{self.base_url}: no connection can be made ({error}); correct {', '.join(SURROUNDINGS)} in the "
                "environment"
            ) from error

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post a JSON body and return the server's completion.

        Tries again if the server is busy, fails, cannot be reached, or reports success without a completion. Raises
        RefusedError if the server rejects the body, and EndpointError otherwise.
        """
        place, said = f"{self.base_url}/{path}", ""
        for number in range(N_TRIES):
            pause = 0.0
            try:
                response = self._client.post(place, json=body)
            except httpx.RequestError as error:
                said = self._in_words(f"{type(error).__name__} {error}")
            else:
                status, text = response.status_code, response.content.decode("utf-8", "replace")
                reply = _json(text) if response.is_success else None
                if _is_completion(reply):
                    return reply
                said = self._in_words(_fault(response.status_code, text, reply))
                if response.is_success:
                    status = _code(reply) or 500  # anything else may be temporary
                if status in REFUSED:
                    raise RefusedError(f"{place} refuses a request: {said}{_field_to_leave_out(said, body)}")
                if status not in BUSY and status < 500:
                    hint = f"is the key in {self.variable} right?" if status in NOT_ALLOWED and self.variable else ""
                    raise EndpointError(f"{place}: {said}; {hint or 'check base_url and model'}")
                pause = _seconds(response.headers)
                if pause > LONGEST_RETRY_AFTER:
                    raise EndpointError(
                        f"{place}: {said}; it asks for a pause of {pause:.0f} seconds; run again after that"
                    )
            if number < N_TRIES - 1:
                backoff = min(FIRST_WAIT * 2**number, LONGEST_WAIT) * random.uniform(0.75, 1.25)
                time.sleep(max(pause, backoff))
        raise EndpointError(f"{place}: no success in {N_TRIES} tries; the last said: {said}; run again later")

    def _in_words(self, text: str) -> str:
        """The beginning of the server's reply, on one line and without the key."""
        line = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} ..."


def as_they_finish(
    function: Callable[[Task], Result], tasks: Sequence[Task], n_threads: int
) -> Iterator[tuple[Task, Result]]:
    """Yield (task, function(task)) as tasks finish, running `n_threads` at a time.

    If one raises, no more are started; those in progress are still yielded, then the exception is raised.
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


def _json(text: str) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"), strict=False)
    except (ValueError, RecursionError):
        return None


def _is_completion(reply: Any) -> TypeGuard[dict[str, Any]]:
    choices = reply.get("choices") if isinstance(reply, dict) and not reply.get("error") else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and not first.get("error")


def _fault(status: int, text: str, reply: Any) -> str:
    """What is wrong with a reply that is not a completion, on one line."""
    if not 200 <= status < 300:
        return f"{status} {text.strip()}"
    if not text.strip():
        return f"{status} with an empty reply"
    if text.lstrip().startswith(("data:", "event:", ":")):
        return f"{status} with a stream (take stream out of body, or off in the server): {text.strip()}"
    return f"{status} without a completion{'' if reply is not None else ', and no JSON'}: {text.strip()}"


def _code(reply: Any) -> int | None:
    """The status code in an error that comes with a status of success: error.code, or code beside a message."""
    choices = (reply.get("choices") if isinstance(reply, dict) else None) or [None]
    for place in (reply, choices[0] if isinstance(choices, list) else None):
        place = (place.get("error") or place) if isinstance(place, dict) else None
        code = str(place.get("code") or place.get("status") or "") if isinstance(place, dict) else ""
        if re.fullmatch(r"[45]\d\d", code):
            return int(code)
    return None


def _field_to_leave_out(said: str, body: Mapping[str, Any]) -> str:
    """How to leave out a field of the body that the refusal names as unknown, or ''."""
    named = [field for field in body if field not in ALWAYS_SENT and re.search(rf"\b{re.escape(field)}\b", said)]
    if not named or not UNKNOWN_FIELD.search(said):
        return ""
    return f"; to leave a field out, give the endpoint body: {{{', '.join(f'{field}: null' for field in named)}}}"


def _seconds(headers: httpx.Headers) -> float:
    """How long the server asks to wait, in seconds from now; it may give a number or a date."""
    asked = headers.get("Retry-After", "").strip()
    try:
        seconds = float(headers.get("retry-after-ms") or 0) / 1000 or float(asked or 0)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # and none for "nan"

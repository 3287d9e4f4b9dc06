"""Requests of other jobs, completed by a job whose engine is running, into those jobs' own ledgers."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from r2a.generation.ledger import CompletionLedger
from r2a.generation.requests import REFUSED, Completion, CompletionRequest
from r2a.ledger import hold_if_free, ledger_path, other_ledgers
from r2a.progress import logger


class Siblings:
    """Other jobs' requests; a job is claimed only when the engine has room for its requests.

    If two datasets hold the same question, several jobs ask for the same completion. It is made once, for all of them.
    """

    def __init__(self, jobs: Mapping[Path, Sequence[CompletionRequest]], own: Collection[str]) -> None:
        """jobs: the requests by the file that a job makes from them; it may have begun. own: keys of own requests."""
        self._jobs, self._own = jobs, own
        n_asking = Counter([*own, *(key for asked in jobs.values() for key in {request.key for request in asked})])
        self._shared = {key for key, n in n_asking.items() if n > 1}
        self._finished: dict[str, Completion] = {}  # shared ones, for jobs that are not yet claimed
        self._homes: defaultdict[str, list[tuple[Path, CompletionRequest]]] = defaultdict(list)  # in the engine now
        self._n_left: Counter[Path] = Counter()
        self._claims: dict[Path, tuple[TextIO, CompletionLedger]] = {}

    def requests(self) -> list[CompletionRequest]:
        """All requests that may come to the engine, so that it is started with room for them."""
        return [request for requests in self._jobs.values() for request in requests]

    def claimed(self) -> Iterator[CompletionRequest]:
        """The requests that no ledger has, job by job, for jobs on which no other process works."""
        for output, requests in self._jobs.items():
            path = ledger_path(output)
            claim = hold_if_free(path)
            if claim is None:
                continue
            ledger = CompletionLedger(path, other_ledgers(output))
            missing = {r.key: r for r in requests if r.max_new_tokens and r.key not in ledger}
            for key in missing.keys() & self._finished.keys():
                ledger.add(missing.pop(key), self._finished[key])
            if not missing:
                ledger.close()
                claim.close()
                continue
            logger.info(f"{output}: {len(missing)} requests served by this job's engine")
            self._claims[output], self._n_left[output] = (claim, ledger), len(missing)
            new = [request for key, request in missing.items() if key not in self._own and key not in self._homes]
            for key, request in missing.items():
                self._homes[key].append((output, request))
            yield from new

    def keep(self, request: CompletionRequest, completion: Completion) -> bool:
        """Add a completion to the ledgers of the other jobs that ask for it; return whether only those do."""
        if request.key in self._shared and completion.finish_reason != REFUSED:
            self._finished[request.key] = completion
        for output, asked in self._homes.pop(request.key, []):
            claim, ledger = self._claims[output]
            if completion.finish_reason != REFUSED:
                ledger.add(asked, completion)
            self._n_left[output] -= 1
            if not self._n_left[output]:
                ledger.close()
                claim.close()
                del self._claims[output]
        return request.key not in self._own

"""Other jobs' requests, completed by a job whose engine is running, into those jobs' own ledgers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from r2a.generation.ledger import CompletionLedger
from r2a.generation.requests import REFUSED, Completion, CompletionRequest
from r2a.ledger import hold_if_free, ledger_path, other_ledgers
from r2a.progress import logger


class Siblings:
    """Other jobs' requests, each job claimed only when the engine has room for its requests."""

    def __init__(self, jobs: Mapping[Path, Sequence[CompletionRequest]]) -> None:
        """jobs: the requests by the file that a job makes of them; the job may have begun."""
        self._jobs = jobs
        self._homes: dict[str, tuple[Path, CompletionLedger]] = {}  # by the key of a request under way
        self._n_left: Counter[Path] = Counter()
        self._claims: dict[Path, TextIO] = {}

    def requests(self) -> list[CompletionRequest]:
        """All that may be asked of the engine, so that it has room for it."""
        return [request for requests in self._jobs.values() for request in requests]

    def claimed(self, own: set[str]) -> Iterator[CompletionRequest]:
        """The requests that no ledger has, job by job, of those jobs that no other process is at; own: keys to skip."""
        for output, requests in self._jobs.items():
            path = ledger_path(output)
            claim = hold_if_free(path)
            if claim is None:
                continue
            ledger = CompletionLedger(path, other_ledgers(output))
            asked = {r.key: r for r in requests if r.max_new_tokens and r.key not in ledger}
            missing = [r for key, r in asked.items() if key not in own and key not in self._homes]
            if not missing:
                ledger.close()
                claim.close()
                continue
            logger.info(f"{output}: {len(missing)} requests served by this job's engine")
            self._claims[output], self._n_left[output] = claim, len(missing)
            self._homes |= {request.key: (output, ledger) for request in missing}
            yield from missing

    def keep(self, request: CompletionRequest, completion: Completion) -> bool:
        """Whether a completion belongs to another job; if so, it is now in that job's ledger."""
        if request.key not in self._homes:
            return False
        output, ledger = self._homes.pop(request.key)
        if completion.finish_reason != REFUSED:
            ledger.add(request, completion)
        self._n_left[output] -= 1
        if not self._n_left[output]:
            ledger.close()
            self._claims.pop(output).close()
        return True

"""Requests of other jobs, completed by a job whose engine is running, into those jobs' own ledgers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from r2a.generation.ledger import CompletionLedger
from r2a.generation.requests import REFUSED, Completion, CompletionRequest
from r2a.ledger import hold_if_free, ledger_path, other_ledgers
from r2a.plan import companions
from r2a.progress import logger
from r2a.shards import WHOLE

# by script: the module that says, by `requests_of`, what such a job asks its model for
ASKING = {
    "generate_traces.py": "r2a.generation",
    "answer_hinted.py": "r2a.generation.hinted",
    "answer_perturbed.py": "r2a.generation.perturbed",
    "resample_sentences.py": "r2a.generation.resampled",
}


def asked_by_others(
    output: Path, model: Mapping[str, Any], known: Collection[Path]
) -> dict[Path, list[CompletionRequest]]:
    """What other planned jobs that are ready ask the same model for, by the files that they make; without known ones.

    output: what the own job makes; model: its manifest. A job whose inputs cannot be read asks for nothing here: it
    will say why.
    """
    found: dict[Path, list[CompletionRequest]] = {}
    for job in companions(str(output), lambda job: job.script in ASKING and job.wildcards.get("model")):
        if Path(job.output[0]) in known:
            continue
        shard, inputs = job.wildcards.get("shard", WHOLE), dict(job.input.items())
        try:
            requests = import_module(ASKING[job.script]).requests_of(model, job.params.settings, shard=shard, **inputs)
        except Exception as error:
            logger.info(f"{job.output[0]}: left to its own job ({error})")
            requests = []
        found[Path(job.output[0])] = [request for request in requests if request.max_new_tokens]
    return found


class Siblings:
    """Other jobs' requests; a job is claimed only when the engine has room for its requests.

    If two datasets hold the same question, several jobs ask for the same completion. It is made once, for all of them.
    """

    def __init__(
        self, ready: Callable[[Collection[Path]], Mapping[Path, Sequence[CompletionRequest]]], own: Iterable[str]
    ) -> None:
        """ready: returns the requests of ready jobs, by the file that a job makes, without known ones.

        own: keys of the own job's requests.
        """
        self._ready, self._own = ready, set(own)
        self._known: set[Path] = set()
        self._jobs: Mapping[Path, Sequence[CompletionRequest]] = {}  # those that were found last
        self._shared: set[str] = set()
        self._finished: dict[str, Completion] = {}  # shared ones, for jobs that are not yet claimed
        self._homes: defaultdict[str, list[tuple[Path, CompletionRequest]]] = defaultdict(list)  # in the engine now
        self._n_left: Counter[Path] = Counter()
        self._claims: dict[Path, tuple[TextIO, CompletionLedger]] = {}

    def find(self, fits: Callable[[CompletionRequest], bool]) -> bool:
        """Find ready jobs, other than those found before, all of whose requests fit; return whether there are any."""
        ready = self._ready(self._known)
        self._known |= ready.keys()
        self._jobs = {output: requests for output, requests in ready.items() if requests and all(map(fits, requests))}
        n_asking = Counter(self._own)
        for requests in self._jobs.values():
            n_asking.update({request.key for request in requests})
        self._shared = {key for key, n in n_asking.items() if n > 1}
        return bool(self._jobs)

    def requests(self) -> list[CompletionRequest]:
        """The requests of the jobs found last, so that the engine is started with room for them."""
        return [request for requests in self._jobs.values() for request in requests]

    def claimed(self) -> Iterator[CompletionRequest]:
        """The requests that no ledger has, job by job, for jobs on which no other process works."""
        for output, requests in self._jobs.items():
            path = ledger_path(output)
            claim = hold_if_free(path)
            if claim is None:
                continue
            ledger = CompletionLedger(path, other_ledgers(output))
            missing = {request.key: request for request in requests if request.key not in ledger}
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
        is_own = request.key in self._own
        self._own.discard(request.key)
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
        return not is_own

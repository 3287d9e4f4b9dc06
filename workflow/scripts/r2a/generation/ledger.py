"""Completions, kept as soon as they finish under the keys of their requests."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from r2a import ledger
from r2a.generation.requests import Completion, CompletionRequest


class CompletionLedger:
    """The completions in an r2a.ledger.Ledger."""

    def __init__(self, path: Path, others: Iterable[Path] = ()) -> None:
        self._ledger = ledger.Ledger(path, others)

    def __enter__(self) -> "CompletionLedger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._ledger.close()

    def __contains__(self, key: str) -> bool:
        return key in self._ledger

    def __getitem__(self, key: str) -> Completion:
        entry = self._ledger[key]
        return Completion(
            tuple(entry["token_ids"]),
            entry["finish_reason"],
            entry["seconds"],
            entry["text"],
            tuple(entry["prompt_ids"]),
        )

    def add(self, request: CompletionRequest, completion: Completion) -> None:
        entry: dict[str, object] = {
            "uid": request.uid,
            "condition": request.condition,
            "decoding": request.decoding,
        }
        entry |= {"sample": request.sample, "finish_reason": completion.finish_reason, "seconds": completion.seconds}
        entry |= {"token_ids": completion.token_ids, "text": completion.text, "prompt_ids": completion.prompt_ids}
        self._ledger.add(request.key, entry)

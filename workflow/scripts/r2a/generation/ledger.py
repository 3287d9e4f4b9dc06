"""Completions kept the moment they finish, so that a killed job loses only what was in flight."""

import json
import os
from pathlib import Path

from r2a.generation.requests import Completion, Request


class Ledger:
    """An append-only JSON Lines file of completions by request key. A torn last line is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._completions: dict[str, Completion] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if len(whole) < len(text):
                os.truncate(path, len(whole))
            for line in whole.splitlines():
                entry = json.loads(line)
                self._completions[entry["key"]] = Completion(
                    tuple(entry["token_ids"]), entry["finish_reason"], entry["seconds"]
                )

    def __contains__(self, key: str) -> bool:
        return key in self._completions

    def __getitem__(self, key: str) -> Completion:
        return self._completions[key]

    def add(self, request: Request, completion: Completion) -> None:
        entry: dict[str, object] = {
            "key": request.key,
            "uid": request.uid,
            "condition": request.condition,
            "decoding": request.decoding,
        }
        entry |= {"sample": request.sample, "finish_reason": completion.finish_reason, "seconds": completion.seconds}
        entry |= {"token_ids": list(completion.token_ids)}
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._completions[request.key] = completion

"""What is asked of an engine, and what it gives back."""

from dataclasses import asdict, dataclass
from functools import cached_property

from r2a.store import parameters_hash


@dataclass(frozen=True)
class Request:
    """One prompt to complete. `model` identifies weights, tokenizer and dtype."""

    uid: str
    condition: str
    decoding: str
    sample: int
    seed: int
    prompt_ids: tuple[int, ...]
    temperature: float
    top_p: float
    max_new_tokens: int
    model: str

    @cached_property
    def key(self) -> str:
        """Identifies the completion: everything that determines it, nothing else."""
        return parameters_hash(
            {k: v for k, v in asdict(self).items() if k not in ("uid", "condition", "decoding", "sample")}
        )


@dataclass(frozen=True)
class Completion:
    """Token ids as the engine returned them (EOS included), why it stopped, and the seconds it took."""

    token_ids: tuple[int, ...]
    finish_reason: str
    seconds: float

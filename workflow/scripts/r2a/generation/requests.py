"""What is asked of an engine, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from r2a.store import parameters_hash

REFUSED = "refused"  # finish reason where the engine would not take the request
# What samples as the configuration says and no other way. A server is told, as it has defaults of its own: vLLM's are
# those of the model's generation_config.json, which the engine here does not follow.
NEUTRAL: Mapping[str, Any] = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
TOO_LONG = "prompt_too_long"  # finish reason where no engine is asked, as there is no room for an answer


@dataclass(frozen=True)
class Request:
    """One prompt to complete. `model` identifies weights, tokenizer and dtype, or an endpoint's model.

    prompt_ids is the whole prompt where the tokenizer is known, else empty. prompt is the question's text with its
    instruction, prefill the text that opens the reasoning. top_p None leaves it to the server. repetition and
    reasoning_budget are as in the configuration, None where they are off.
    """

    uid: str
    condition: str
    decoding: str
    sample: int
    seed: int
    prompt_ids: tuple[int, ...]
    prompt: str
    prefill: str
    temperature: float
    top_p: float | None
    max_new_tokens: int
    model: str
    repetition: Mapping[str, int] | None = None
    reasoning_budget: int | None = None

    @property
    def full_prompt(self) -> str:
        """The paper's prompt: question, instruction and opened reasoning in one text."""
        return f"{self.prompt} {self.prefill}"

    @cached_property
    def key(self) -> str:
        """Identifies the completion: everything that determines it, nothing else (so no option that is off)."""
        left_out = {"uid", "condition", "decoding", "sample"}
        left_out |= {"prompt", "prefill"} if self.prompt_ids else {"prompt_ids"}
        left_out |= {name for name in ("repetition", "reasoning_budget") if getattr(self, name) is None}
        return parameters_hash({k: v for k, v in vars(self).items() if k not in left_out})


@dataclass(frozen=True)
class Completion:
    """Token ids as the engine returned them (EOS included), why it stopped, and the seconds it took.

    An endpoint gives its text too, and, if any, its own ids of the completion and of the prompt.
    """

    token_ids: tuple[int, ...]
    finish_reason: str
    seconds: float
    text: str = ""
    prompt_ids: tuple[int, ...] = ()

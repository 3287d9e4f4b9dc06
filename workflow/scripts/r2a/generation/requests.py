"""Requests to an engine, and its completions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from r2a.formats.known import THINK_CLOSE
from r2a.store import parameters_hash

REFUSED = "refused"  # finish reason if the engine refuses the request
# Settings under which sampling follows the configuration alone. They are sent to servers, which have defaults of their
# own: vLLM's come from the model's generation_config.json, which the engine here does not follow.
NEUTRAL: Mapping[str, Any] = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
TOO_LONG = "prompt_too_long"  # finish reason if no engine is asked, because there is no room for an answer

# what a server with a chat template gets besides the question, and the values that mean nothing
SERVED: Mapping[str, Any] = {"system": "", "template_arguments": {}, "close": THINK_CLOSE}


@dataclass(frozen=True)
class CompletionRequest:
    """One prompt to complete. `model` identifies weights, tokenizer and dtype, or an endpoint's model.

    prompt_ids: the whole prompt if the tokenizer is known, otherwise empty. prompt: the question's text with its
    instruction. prefill: the text that opens the reasoning. A server with a chat template also gets `system`, the text
    of a system turn, and template_arguments, and writes `close` where the reasoning ends. top_p: None leaves it to the
    server. stop_ids: all tokens that end a completion. repetition, reasoning_budget: as in the configuration, None if
    they are off.
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
    stop_ids: tuple[int, ...] = ()
    system: str = ""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    close: str = THINK_CLOSE

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt and of the longest completion."""
        return len(self.prompt_ids) + self.max_new_tokens

    @property
    def full_prompt(self) -> str:
        """The paper's prompt: question, instruction and opened reasoning in one text."""
        return f"{self.prompt} {self.prefill}"

    @cached_property
    def key(self) -> str:
        """Identifies the completion by all that determines it, and nothing else (so by no option that is off)."""
        left_out = {"uid", "condition", "decoding", "sample"}
        left_out |= {"prompt", "prefill", *SERVED} if self.prompt_ids else {"prompt_ids"}
        defaults = {**dict.fromkeys(("repetition", "reasoning_budget")), "stop_ids": (), **SERVED}
        left_out |= {name for name, default in defaults.items() if getattr(self, name) == default}
        return parameters_hash({k: v for k, v in vars(self).items() if k not in left_out})


@dataclass(frozen=True)
class Completion:
    """Token ids as the engine returned them (including EOS), why it stopped, and the seconds it took.

    An endpoint also gives its text and, if it knows them, its own ids of the completion and of the prompt.
    """

    token_ids: tuple[int, ...]
    finish_reason: str
    seconds: float
    text: str = ""
    prompt_ids: tuple[int, ...] = ()

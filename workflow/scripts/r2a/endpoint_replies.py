"""Reading the replies of OpenAI-compatible servers: the text, the reasoning before it, and why it ends.

Servers differ in where they put the model's reasoning, how they write the text, and what they call its end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2a.text.characters import whole_text

STOP, LENGTH = "stop", "length"
# servers' words for what OpenAI calls stop and length, in lower case
WORDS = {
    STOP: "stop eos eos_token eos_token_id end end_turn end_of_turn stop_sequence stop_token complete completed finish "
    "finished done normal",
    LENGTH: "length max_tokens max_token max_length max_new_tokens max_output_tokens token_limit model_length "
    "context_length context_window_exceeded model_context_window_exceeded incomplete limit",
}
MEANING = {word: meaning for meaning, words in WORDS.items() for word in words.split()}
# a text that ends for one of these reasons is not complete
UNFINISHED = frozenset(
    {
        LENGTH, "abort", "aborted", "cancel", "cancelled", "canceled", "error", "timeout", "repetition", "repeat",
        "insufficient_system_resource", "content_filter", "content_filtered", "safety", "recitation", "blocklist",
        "prohibited_content", "spii", "refusal", "tool_calls", "tool_call", "tool_use", "function_call", "pause_turn",
        "refused", "prompt_too_long",
    }
)  # fmt: skip
KNOWN = UNFINISHED | {STOP}
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")  # where a message may hold them
THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_content", "thought", "reasoning.text", "reasoning.summary")
TEXT_PARTS = ("text", "output_text", "refusal")
HIDDEN_PARTS = ("redacted_thinking", "reasoning.encrypted")  # reasoning that the service does not show


class ReplyError(Exception):
    """A reply cannot be read; the message quotes it."""


@dataclass(frozen=True)
class Said:
    """A reply: its text, the reasoning that the server split from it, and why it ends.

    finish_reason: stop, length, one of UNFINISHED, or an unknown word as the server wrote it; a text with an unknown
    word counts as complete. token_ids, prompt_ids: None if the server gives none.
    """

    text: str
    thoughts: str
    finish_reason: str
    token_ids: tuple[int, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None
    is_message: bool = True


def read_said(reply: Mapping[str, Any], max_tokens: int) -> Said:
    """Read a completion or chat completion of at most max_tokens. Raises ReplyError if it is neither."""
    try:
        (choice,) = reply["choices"]
        message = choice.get("message")
        if message is None:
            text, thoughts = _text(choice["text"]), ""
        else:
            inside, text = _thoughts_and_text(message.get("content") or message.get("refusal"))
            beside = next((message[key] for key in THOUGHTS if message.get(key)), None)
            thoughts = _text(beside) or inside
        token_ids = _token_ids(choice.get("token_ids"))
        prompt_ids = _token_ids(choice.get("prompt_token_ids", reply.get("prompt_token_ids")))
        usage = reply.get("usage")
        n_tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
        if n_tokens is None and token_ids is not None:
            n_tokens = len(token_ids)
        is_full = isinstance(n_tokens, int) and n_tokens >= max_tokens
        return Said(
            whole_text(text),
            whole_text(thoughts),
            _finish_reason(choice.get("finish_reason"), is_full),
            token_ids,
            prompt_ids,
            message is not None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = whole_text(f"{reply!r:.300}")
        raise ReplyError(f"the server's reply is not a completion ({type(error).__name__}): {said}") from None


def _token_ids(said: Any) -> tuple[int, ...] | None:
    """Token ids as a server gives them, or None. Raises ValueError if they are something else."""
    if said is not None and not (isinstance(said, list) and all(type(token) is int and token >= 0 for token in said)):
        raise ValueError(f"no token ids: {said!r:.50}")
    return None if said is None else tuple(said)


def is_finished(finish_reason: str) -> bool:
    """Whether a text that ends for this reason is complete."""
    return finish_reason not in UNFINISHED


def _finish_reason(word: Any, is_full: bool) -> str:
    """OpenAI's word for the server's; if the server gives none, or an unknown one, the length decides."""
    word = whole_text(str(word or "")).strip()
    known = word.lower().removeprefix("finish_reason_").replace("-", "_")
    known = MEANING.get(known, known)
    if known in KNOWN:
        return known
    return LENGTH if is_full else word or STOP


def _thoughts_and_text(content: Any) -> tuple[str, str]:
    """The thoughts and the text among the parts of a message's content."""
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else [content]
    thoughts, text = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in THOUGHT_PARTS:
            thoughts.append(_text(part))
        elif kind not in HIDDEN_PARTS:
            text.append(_text(part))
    return "".join(thoughts), "".join(text)


def _text(said: Any) -> str:
    """The text of a string, a part, or a list of them. Raises ReplyError for a part that is not text."""
    if said is None or isinstance(said, str):
        return said or ""
    if isinstance(said, Sequence):
        return "".join(map(_text, said))
    kind = said.get("type", "text")
    if kind in HIDDEN_PARTS:
        return ""
    if kind in (*TEXT_PARTS, *THOUGHT_PARTS):
        for key in ("text", kind, "thinking", "reasoning", "content", "summary", "refusal"):
            if key in said:
                return _text(said[key])
    raise ReplyError(f"the server's reply has a part of type {kind!r}, which is not text: {said!r:.200}")

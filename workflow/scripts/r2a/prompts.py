"""Prompts, as METHOD section 1 defines them: text in, token ids out, once."""

from typing import Any

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
FINISHED_STUB = "Okay, I think I have finished thinking."


def prefill(condition: str, mode: str = "finished") -> str:
    """What stands in the prompt after the question: an opened reasoning, or one closed beforehand.

    mode "finished" is the paper's stub, "empty" closes an empty reasoning.
    """
    if condition == "with_reasoning":
        return f"{THINK_OPEN}\n"
    stub = FINISHED_STUB if mode == "finished" else ""
    return f"{THINK_OPEN}\n{stub}\n{THINK_CLOSE}"


def raw_prompt(problem: str, instruction: str, condition: str, mode: str = "finished") -> str:
    """The paper's prompt, without chat template; BOS is put before it as a token."""
    return f"{problem}{instruction} {prefill(condition, mode)}"


def prompt_ids(
    tokenizer: Any,
    problem: str,
    instruction: str,
    condition: str,
    prompt_format: str = "raw",
    mode: str = "finished",
    think_tags: str = "token",
) -> list[int]:
    """Token ids of a prompt, BOS included where the tokenizer has one.

    prompt_format "raw" is the paper's; "chat" puts problem and instruction into the model's own template,
    whose own opened <think>, if any, gives way to ours. think_tags "pieces" spells every <think> and </think> in
    tokens of plain text, and leaves all other tokens as they are.
    """
    if think_tags == "pieces":
        ids = prompt_ids(tokenizer, problem, instruction, condition, prompt_format, mode)
        pieces = {tokenizer.convert_tokens_to_ids(tag): tag_pieces(tokenizer, tag) for tag in (THINK_OPEN, THINK_CLOSE)}
        return [piece for token in ids for piece in pieces.get(token, [token])]
    if prompt_format == "raw":
        ids = tokenizer.encode(raw_prompt(problem, instruction, condition, mode), add_special_tokens=False)
        return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]
    turn = [{"role": "user", "content": problem + instruction}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    text = text.rstrip().removesuffix(THINK_OPEN) if text.rstrip().endswith(THINK_OPEN) else text
    return tokenizer.encode(text + prefill(condition, mode), add_special_tokens=False)


def tag_pieces(tokenizer: Any, tag: str) -> list[int]:
    """The tokens that would spell a tag, were it not one of its own. Raises ValueError where they don't spell it."""
    backend = tokenizer.backend_tokenizer
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(tag)] if backend.pre_tokenizer else [tag]
    ids = [piece.id for word in words for piece in backend.model.tokenize(word)]
    if len(ids) < 2 or tokenizer.decode(ids) != tag:
        raise ValueError(f"this tokenizer has no pieces that spell {tag}; leave think_tags at token")
    return ids

"""A model's tokenizer, and the token ids that delimit its reasoning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2a.models.weights import ModelError
from r2a.prompts import THINK_CLOSE, THINK_OPEN
from r2a.traces import Marks

TORN = "\ufffd"  # what decoding makes of a part of a character
MOST_TOKENS = 8  # that hold parts of characters in a row: a character has four bytes at most
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for the space that decoding one token drops


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer as the folder's tokenizer.json says, where it has one.

    AutoTokenizer puts some architectures' own way of splitting text in place of the file's, so a model would be
    given other tokens than it was trained on.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    has_file = (Path(folder) / "tokenizer.json").exists()
    return (PreTrainedTokenizerFast if has_file else AutoTokenizer).from_pretrained(folder, trust_remote_code=False)


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text of each token by itself; joined, they are the text.

    Of tokens that hold parts of characters, the first has their whole text, and the others none.
    """
    alone = {token_id: _piece(tokenizer, [token_id]) for token_id in set(token_ids)}
    pieces = [alone[token_id] for token_id in token_ids]
    first = 0
    while first < len(pieces):
        last = first + 1
        if TORN in pieces[first]:
            for end in range(first + 2, min(first + MOST_TOKENS, len(pieces)) + 1):
                text = _piece(tokenizer, token_ids[first:end])
                if TORN not in text:
                    pieces[first:end] = [text, *[""] * (end - first - 1)]
                    last = end
                    break
        first = last
    return pieces


def _piece(tokenizer: Any, token_ids: Sequence[int]) -> str:
    piece = tokenizer.decode(token_ids)
    starts_word = tokenizer.convert_ids_to_tokens(int(token_ids[0])).startswith(WORD_START)
    return f" {piece}" if starts_word and not piece.startswith(" ") else piece


def marks_of(folder: Path | str) -> Marks:
    """The ids that delimit a trace's segments. Raises ModelError where <think> is not a single token."""
    from transformers import GenerationConfig

    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{folder}/tokenizer.json: cannot be read ({error}); download the model again") from error
    ids = {}
    for mark in (THINK_OPEN, THINK_CLOSE):
        encoded = tokenizer.encode(mark, add_special_tokens=False)
        if len(encoded) != 1:
            raise ModelError(
                f"{folder}: {mark} is {len(encoded)} tokens; only models with one token for it can be studied"
            )
        ids[mark] = encoded[0]
    eos: set[int] = {tokenizer.eos_token_id}
    if (Path(folder) / "generation_config.json").exists():
        stop = GenerationConfig.from_pretrained(folder).eos_token_id
        eos |= set(stop if isinstance(stop, list) else [stop]) - {None}
    return Marks(tokenizer.bos_token_id, frozenset(eos), ids[THINK_OPEN], ids[THINK_CLOSE])

"""A model's tokenizer: the exact text of its tokens, and the delimiters of its reasoning."""

import atexit
import codecs
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from r2a.formats import FormatError, ReasoningFormat, choose_format
from r2a.models.weights import ModelError
from r2a.prompts import PromptError, spelled_ids
from r2a.traces import Marks

WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for a space
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a one-byte token in sentencepiece's vocabularies

_READERS: WeakKeyDictionary[Any, Callable[[int], bytes]] = WeakKeyDictionary()


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer exactly as in the folder's tokenizer.json, or AutoTokenizer's if there is no such file.

    For some architectures AutoTokenizer replaces the file's way of splitting text, so the model would get other tokens
    than it was trained on. Raises ModelError if the tokenizer cannot be read.
    """
    kind: Any
    if (Path(folder) / "tokenizer.json").exists():
        from transformers import PreTrainedTokenizerFast as kind
    else:
        from transformers import AutoTokenizer as kind  # imports torch, which jobs without a model do not need
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{folder}/tokenizer.json: cannot be read ({error}); download the model again") from error


def engine_tokenizer(folder: Path | str) -> dict[str, str]:
    """The option `tokenizer` with which vLLM reads the folder's tokenizer.json exactly; empty without such a file.

    By default vLLM uses AutoTokenizer (see load_tokenizer). The tokenizer is written to a temporary folder, which is
    removed when the process ends.
    """
    if not (Path(folder) / "tokenizer.json").exists():
        return {}
    copy = tempfile.mkdtemp(prefix="r2a-tokenizer-")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    load_tokenizer(folder).save_pretrained(copy)
    return {"tokenizer": copy}


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """The exact bytes of a token, UTF-8 or a part of a character; empty for an id that the tokenizer lacks."""
    if tokenizer not in _READERS:
        _READERS[tokenizer] = cache(_reader(tokenizer))
    return _READERS[tokenizer](token_id)


def text_of(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The exact text of tokens, including special ones.

    A tokenizer's decode() may drop spaces. Bytes that are not UTF-8 become U+FFFD.
    """
    return b"".join(token_bytes(tokenizer, token) for token in token_ids).decode(errors="replace")


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text of each token; joined, they are text_of. A character that is split over tokens belongs to the first."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces, owner = [""] * len(token_ids), 0
    for number, token in enumerate(token_ids):
        for byte in token_bytes(tokenizer, token):
            if not decoder.getstate()[0]:
                owner = number
            text = decoder.decode(bytes([byte]))
            pieces[owner] += text[:1]
            pieces[number] += text[1:]
    if pieces:
        pieces[owner] += decoder.decode(b"", final=True)
    return pieces


def _reader(tokenizer: Any) -> Callable[[int], bytes]:
    """A function from a token id to its bytes: by the vocabulary's alphabet if it is known, otherwise by decoding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return lambda token_id: tokenizer.decode([token_id]).encode(errors="replace")
    kinds = set(_kinds(json.loads(backend.decoder.__getstate__())))
    added = {token_id: token.content.encode() for token_id, token in tokenizer.added_tokens_decoder.items()}

    def read(token_id: int) -> bytes:
        if token_id in added:
            return added[token_id]
        token = tokenizer.convert_ids_to_tokens(int(token_id))
        if token is None:
            return b""
        if "ByteLevel" in kinds:
            alphabet = _byte_alphabet()
            return b"".join(alphabet.get(character, character.encode()) for character in token)
        if kinds & {"ByteFallback", "Metaspace", "Replace"}:
            byte = BYTE.fullmatch(token) if "ByteFallback" in kinds else None
            return bytes.fromhex(byte[1]) if byte else token.replace(WORD_START, " ").encode()
        return tokenizer.decode([token_id]).encode(errors="replace")

    return read


def _kinds(decoder: Mapping[str, Any]) -> list[str]:
    """The types of a decoder and of its parts."""
    return [decoder["type"], *(kind for part in decoder.get("decoders", []) for kind in _kinds(part))]


@cache
def _byte_alphabet() -> dict[str, bytes]:
    """The characters that stand for bytes in vocabularies such as GPT-2's; printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}


def format_of(folder: Path | str, chosen: str | Mapping[str, Any] | None = None) -> tuple[str, ReasoningFormat, str]:
    """The reasoning format of a model on disk (see choose_format). Raises ModelError if it is not certain."""
    tokenizer = load_tokenizer(folder)
    tags = [tokenizer.encode(tag, add_special_tokens=False) for tag in ("<think>", "</think>")]
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    try:
        return choose_format(chosen, template, all(len(ids) == 1 for ids in tags))
    except FormatError as error:
        raise ModelError(f"{folder}: {error}, as the model's reasoning_format") from error


def marks_of(folder: Path | str, form: ReasoningFormat | None = None, is_spelled: bool = False) -> Marks:
    """The delimiters of the segments of a model's traces.

    form: the model's reasoning format, by default the one that format_of finds. is_spelled: whether delimiters count in
    any tokens that spell them; otherwise a part that has its own token counts only as that token.
    """
    tokenizer = load_tokenizer(folder)
    form = form or format_of(folder)[1]
    added = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
    own = [] if is_spelled else [content for content in added if any(content in text for text in form.texts)]
    codes = {content: b"\xff%d\xff" % added[content] for content in own}  # no text has such bytes
    by_id = {added[content]: code for content, code in codes.items()}
    close_ids = tokenizer.encode(form.close, add_special_tokens=False)
    if is_spelled:
        try:
            close_ids = spelled_ids(tokenizer, close_ids, form)
        except PromptError as error:
            raise ModelError(f"{folder}: {error}") from error
    return Marks(
        stops=stop_ids(folder, tokenizer),
        **_patterns(form, codes),
        bytes_of=lambda token_id: by_id.get(int(token_id)) or token_bytes(tokenizer, token_id),
        close_ids=tuple(close_ids),
    )


def text_marks(form: ReasoningFormat, texts: Sequence[str]) -> Marks:
    """The delimiters of a trace whose tokens are unknown: "token" k is texts[k], and no token is a stop."""
    pieces = [text.encode(errors="replace") for text in texts]
    return Marks(stops=frozenset(), **_patterns(form, {}), bytes_of=pieces.__getitem__, close_ids=())


def _patterns(form: ReasoningFormat, codes: Mapping[str, bytes]) -> dict[str, Any]:
    """A format's delimiters as fields of Marks. codes: the bytes that stand for the parts that are tokens."""
    parts = "|".join(map(re.escape, sorted(codes, key=len, reverse=True))) or "(?!)"
    contents = {code: content.encode() for content, code in codes.items()}
    known = re.compile(b"|".join(map(re.escape, contents)) or rb"(?!)")

    def coded(text: str) -> bytes:
        pieces = re.split(f"({parts})", text)
        return b"".join(re.escape(codes.get(piece, piece.encode())) for piece in pieces)

    return {
        "opens": re.compile(coded(form.open)),
        "closes": re.compile(b"|".join(map(coded, form.closings))),
        "answer_opens": re.compile(rb"\s*" + coded(form.answer_open)) if form.answer_open else None,
        "answer_closes": re.compile(coded(form.answer_close)) if form.answer_close else None,
        "decode": lambda data: known.sub(lambda code: contents[code[0]], data).decode(errors="replace"),
    }


def stop_ids(folder: Path | str, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a completion: those of the tokenizer, generation_config.json and config.json together.

    Raises ModelError if one of the files cannot be read.
    """
    found = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if path.exists():
            try:
                config = json.loads(path.read_text())
                for part in (config, config.get("text_config") or {}):
                    stops = part.get("eos_token_id")
                    found += [None if stop is None else int(stop) for stop in _listed(stops)]
            except (ValueError, TypeError, AttributeError) as error:
                raise ModelError(f"{path}: eos_token_id cannot be read ({error}); download the model again") from error
    return frozenset(stop for stop in found if stop is not None)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]

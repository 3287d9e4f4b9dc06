"""Finds a model's induction and retrieval heads, on prompts made for this purpose.

METHOD section 3. All scores are computed from exact attention rows; only short prompts are held whole.
"""

import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from r2a.attention.fused import FusedPass, LayerAttention, Span
from r2a.attention.rerun import attention_rows, check_against_eager, in_every_layer
from r2a.memory import if_it_fits
from r2a.models import load_model, load_tokenizer, read_manifest, stop_ids, text_of
from r2a.models.attention import SEAM, AttentionError, attention_kernel
from r2a.models.decoder import Decoder
from r2a.progress import Progress, logger
from r2a.store import add_array, add_axis, add_column, new_hdf5, provenance
from r2a.text.sentences import split_sentences

# A run is successful if its completion has more of the needle's own tokens than this share. (Wu et al. 2024 count all
# of the needle's tokens, but then a run that only repeats the question's words would count.)
LEAST_RECALL = 0.5


@dataclass(frozen=True)
class NeedlePrompt:
    """A haystack with its needle and question: the ids, and the needle's tokens, first up to last.

    own_ids are the tokens of those words of the needle that the question does not contain, so that only a model that
    reads the needle can write them.
    """

    ids: list[int]
    first: int
    last: int
    own_ids: list[int]

    @property
    def needle_ids(self) -> list[int]:
        return self.ids[self.first : self.last]


def diagnose_heads(manifest: Path, haystack: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Score heads on random tokens repeated once, on repetitive texts, and on needles in a haystack.

    /induction_repeats and /previous_token [repeat, layer, head]; /induction_prompts [induction_prompt, layer, head];
    /retrieval [needle_run, layer, head], nan if the model did not copy the needle. Each needle run also has its needle,
    length, depth, n_tokens, completion, recall and is_successful. A run that exceeds the model's context, or memory, is
    left out: its recall is nan, and the log names it. Raises AttentionError if the fused kernel differs from eager
    attention.
    """
    origin = read_manifest(manifest)
    tokenizer = load_tokenizer(origin["folder"])
    repeats = repeated_tokens(tokenizer, settings["n_repeats"], settings["repeat_tokens"], settings["seed"])
    texts = [_with_bos(tokenizer, tokenizer.encode(t, add_special_tokens=False)) for t in settings["induction_prompts"]]
    runs = list(product(settings["needles"], settings["lengths"], settings["depths"]))
    text = haystack.read_text()
    needles = [needle_prompt(tokenizer, text, **needle, length=n, depth=depth) for needle, n, depth in runs]
    n_positions = origin["n_positions"]

    model, eos = load_model(origin, SEAM), stop_ids(origin["folder"], tokenizer)
    check_against_eager(model, repeats[0], next(iter(origin["models"].values()))["dtype"])
    with new_hdf5(output, provenance(settings, [manifest])) as file:
        arrays = _lay_out(file, origin, settings, runs)
        for k, ids in enumerate(repeats):
            arrays["induction_repeats"][k], arrays["previous_token"][k] = repeat_scores(model, ids)
        for k, ids in enumerate(texts):
            arrays["induction_prompts"][k] = induction_of_prompt(model, ids)
        with Progress(f"{settings['model']}: needles", len(needles)) as progress:
            completions, recalls = [], []
            for k, prompt in enumerate(needles):
                n_tokens = len(prompt.ids) + max_new_tokens(prompt)
                found = if_it_fits(copy_needle, model, prompt, eos) if n_tokens <= n_positions else None
                if found is None:
                    limit = "memory" if n_tokens <= n_positions else f"the model's {n_positions} positions"
                    logger.warning(f"needle run {k}: {n_tokens} tokens with its answer exceed {limit}; left out")
                completion, keys = found or ([], np.empty(0))
                recalls.append(token_recall(prompt.own_ids, completion) if found else np.nan)
                if recalls[-1] > LEAST_RECALL:
                    arrays["retrieval"][k] = retrieval_score(prompt, completion, keys)
                completions.append(text_of(tokenizer, completion))
                progress.advance(len(prompt.ids) + len(completion))
        add_column(file, "n_tokens", "needle_run", [len(prompt.ids) for prompt in needles])
        add_column(file, "completion", "needle_run", completions)
        add_column(file, "recall", "needle_run", recalls)
        is_successful = [recall > LEAST_RECALL for recall in recalls]
        add_column(file, "is_successful", "needle_run", is_successful)
        logger.info(f"{settings['model']}: copied the needle in {sum(is_successful)} of {len(needles)} runs")


def _with_bos(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    return [*ids] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


# ---- induction


def repeated_tokens(tokenizer: Any, n_repeats: int, n_tokens: int, seed: int) -> list[list[int]]:
    """Prompts of BOS and a block of distinct random tokens, twice in a row; no special or added token is in it.

    Raises AttentionError if the vocabulary is smaller than a block.
    """
    left_out = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    vocabulary = sorted(set(tokenizer.get_vocab().values()) - left_out)
    if len(vocabulary) < n_tokens:
        raise AttentionError(f"the vocabulary has {len(vocabulary)} tokens; give fewer diagnostics.repeat_tokens")
    rng = random.Random(f"repeated tokens {seed}")
    blocks = [rng.sample(vocabulary, n_tokens) for _ in range(n_repeats)]
    return [_with_bos(tokenizer, block * 2) for block in blocks]


def repeat_scores(model: Any, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean attention [layer, head] from the second copy's tokens to the token after their first occurrence; and to
    the token before themselves.

    The last half of `ids` repeats what stands before it. METHOD section 3, induction heads.
    """
    n_block = len(ids) // 2  # BOS, if any, is the odd one
    rows = range(len(ids) - n_block, len(ids))
    attention = _all_rows(model, ids, rows)
    row = np.arange(n_block)
    after_first, before_self = (np.array(rows) + offset for offset in (1 - n_block, -1))
    return attention[:, :, row, after_first].mean(-1), attention[:, :, row, before_self].mean(-1)


def induction_pattern(ids: Sequence[int]) -> np.ndarray:
    """1 where a row's token last stood right before the key, else 0 [token, token]; the key after any occurrence."""
    tokens = np.asarray(ids)
    pattern = np.zeros((len(tokens), len(tokens)), np.float32)
    pattern[:, 1:] = tokens[:, None] == tokens[None, :-1]
    return np.tril(pattern)


def induction_of_prompt(model: Any, ids: Sequence[int]) -> np.ndarray:
    """Share of a head's attention over all of a prompt's rows that follows induction_pattern [layer, head].

    The paper's score (Zhang et al. 2025), which is TransformerLens' detect_head for induction heads.
    """
    attention = _all_rows(model, ids, range(len(ids)))
    return (attention * induction_pattern(ids)).sum((-2, -1)) / attention.sum((-2, -1))


def _all_rows(model: Any, ids: Sequence[int], rows: range) -> np.ndarray:
    """Attention of a short prompt's rows [layer, head, row, token]."""
    decoder = Decoder(model)
    n_layers, n_heads = decoder.n_layers, decoder.n_heads
    found = attention_rows(model, ids, list(product(range(n_layers), range(n_heads))), rows)
    return found.reshape(n_layers, n_heads, len(rows), len(ids))


# ---- retrieval


def needle_prompt(tokenizer: Any, haystack: str, needle: str, question: str, length: int, depth: float) -> NeedlePrompt:
    """The needle between two sentences (or lines) of the haystack at `depth`, followed by the question.

    The haystack is repeated if necessary, and cut at a sentence's end so that the prompt has at most `length` tokens.
    Raises AttentionError if not even one sentence fits, or if the question contains all the needle's words.
    """
    sentences = split_sentences(haystack.strip() + "\n")
    sizes = [len(tokenizer.encode(sentence, add_special_tokens=False)) for sentence in sentences]
    space = sentences[0][len(sentences[0].rstrip()) :]
    needle_size = len(tokenizer.encode(needle + space, add_special_tokens=False))
    n_left = length - 1 - needle_size - len(tokenizer.encode(question, add_special_tokens=False))
    chosen: list[int] = []
    n_chosen = [0]
    while n_chosen[-1] + sizes[len(chosen) % len(sizes)] <= n_left:
        n_chosen.append(n_chosen[-1] + sizes[len(chosen) % len(sizes)])
        chosen.append(len(chosen) % len(sizes))
    if not chosen:
        raise AttentionError(
            f"diagnostics.lengths: {length} tokens have no room for a sentence beside the needle {needle!r}"
        )
    place = int(np.searchsorted(n_chosen, depth * n_chosen[-1], side="right")) - 1
    before, after = ("".join(sentences[k] for k in part) for part in (chosen[:place], chosen[place:]))
    encoded = tokenizer(
        before + needle + space + after + question, add_special_tokens=False, return_offsets_mapping=True
    )
    start, end = len(before), len(before) + len(needle)
    inside = [k for k, (first, last) in enumerate(encoded["offset_mapping"]) if first < end and last > start]
    ids = _with_bos(tokenizer, encoded["input_ids"])
    n_bos = len(ids) - len(encoded["input_ids"])
    asked = {word.lower() for word in re.findall(r"\w+", question)}
    words = [match.span() for match in re.finditer(r"\w+", needle) if match.group().lower() not in asked]
    own = [
        encoded["input_ids"][k]
        for k in inside
        for first, last in [encoded["offset_mapping"][k]]
        if any(first < start + word_end and last > start + word_start for word_start, word_end in words)
    ]
    if not own:
        raise AttentionError(f"diagnostics.needles: the question {question!r} has every word of {needle!r}; use others")
    return NeedlePrompt(ids, inside[0] + n_bos, inside[-1] + 1 + n_bos, own)


def max_new_tokens(prompt: NeedlePrompt) -> int:
    """Room for the needle, and for words before it."""
    return 2 * len(prompt.needle_ids) + 10


class ArgmaxRecorder:
    """Keeps, of one trace, the key that each head attends to most from each of some rows."""

    def __init__(self, n_tokens: int, rows: range) -> None:
        self.spans = [Span(0, 0, n_tokens)]
        self.rows = rows
        self.layers: dict[int, torch.Tensor] = {}

    def record(self, layer: int, trace: int, attention: LayerAttention) -> None:
        blocks = [block.argmax(-1) for _, block in attention.blocks(self.rows)]
        self.layers[layer] = torch.cat(blocks, dim=1).float()


@torch.no_grad()
def copy_needle(model: Any, prompt: NeedlePrompt, eos: Collection[int]) -> tuple[list[int], np.ndarray]:
    """The model's greedy continuation, and the key [layer, head, step] with the most attention at each step.

    nan in layers without attention.
    """
    completion: list[int] = []
    step, cache = torch.tensor([prompt.ids], device=model.device), None
    with attention_kernel(model, Decoder(model).own_attention):
        while len(completion) < max_new_tokens(prompt) and not (completion and completion[-1] in eos):
            output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            step, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
            completion.append(int(step))
    ids = [*prompt.ids, *completion]
    recorder = ArgmaxRecorder(len(ids), range(len(prompt.ids) - 1, len(ids) - 1))
    decoder = Decoder(model)
    decoder.run(torch.tensor([ids], device=model.device), FusedPass(recorder))
    return completion, in_every_layer(recorder.layers, decoder.n_layers)


def retrieval_score(prompt: NeedlePrompt, completion: Sequence[int], keys: np.ndarray) -> np.ndarray:
    """Share of the needle's distinct tokens that each head copied [layer, head].

    keys [layer, head, step]: the key with most attention, nan in layers without attention. A head copies on a step
    where that key lies in the needle and is the token then generated. METHOD section 3; Wu et al. 2024.
    """
    generated = np.asarray(completion)
    tokens = np.asarray([*prompt.ids, *completion])
    is_copy = (keys >= prompt.first) & (keys < prompt.last) & (tokens[np.nan_to_num(keys).astype(int)] == generated)
    distinct = sorted(set(prompt.needle_ids))
    share = np.mean([(is_copy & (generated == token)).any(-1) for token in distinct], axis=0)
    return np.where(np.isnan(keys).any(-1), np.nan, share)


def token_recall(needle: Sequence[int], completion: Sequence[int]) -> float:
    """Share of a needle's tokens that the completion contains, each counted at most as often as in the needle
    (ROUGE-1).
    """
    return (Counter(needle) & Counter(completion)).total() / len(needle)


def _lay_out(
    file: h5py.File, origin: Mapping[str, Any], settings: Mapping[str, Any], runs: Sequence[tuple[Any, int, float]]
) -> dict[str, h5py.Dataset]:
    """The store's axes and arrays, empty except for what identifies a run."""
    add_axis(file, "layer", range(origin["n_layers"]))
    add_axis(file, "head", range(origin["n_heads"]))
    add_axis(file, "repeat", range(settings["n_repeats"]))
    add_axis(file, "induction_prompt", settings["induction_prompts"])
    add_axis(file, "needle_run", range(len(runs)))
    add_column(file, "needle", "needle_run", [needle["needle"] for needle, _, _ in runs])
    add_column(file, "length", "needle_run", [length for _, length, _ in runs])
    add_column(file, "depth", "needle_run", [depth for _, _, depth in runs])
    heads, share = ("layer", "head"), "share of attention"
    return {
        "induction_repeats": add_array(file, "induction_repeats", ("repeat", *heads), f"{share}, mean over tokens"),
        "previous_token": add_array(file, "previous_token", ("repeat", *heads), f"{share}, mean over tokens"),
        "induction_prompts": add_array(file, "induction_prompts", ("induction_prompt", *heads), share),
        "retrieval": add_array(file, "retrieval", ("needle_run", *heads), "share of the needle's distinct tokens"),
    }

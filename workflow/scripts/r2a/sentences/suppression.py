"""How the answer and later sentences change when a sentence of the reasoning is hidden (METHOD section 5).

Hidden means that no later token attends to the sentence (Bogdan et al. 2025, arXiv 2506.19143, method 3), in all heads
or in some. Nothing changes up to the sentence's end, so each branch continues the run from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch

from r2a.head_sets import Head
from r2a.memory import by_tokens, in_batches
from r2a.models.decoder import Decoder
from r2a.sentences.branches import Branch, Branches, KeptRun

LOGIT_ELEMENTS = 2**25  # logits held at once

Arm = frozenset[Head] | None  # the heads from which a sentence is hidden; None means all
Result = TypeVar("Result")


@dataclass(frozen=True)
class Suppression:
    """The final answer when each sentence is hidden.

    effect [arm, sentence]: what the answer's log-probability loses, in nats. greedy: by arm and sentence, the greedy
    answer, as token ids.
    """

    effect: np.ndarray
    greedy: list[list[list[int]]]


@torch.no_grad()
def measure_suppression(
    model: Any,
    kept: KeptRun,
    sentences: Sequence[int],
    answer: int,
    arms: Sequence[Arm],
    is_whole: Callable[[Sequence[int]], bool],
    max_tokens: int,
    batch_tokens: int,
) -> Suppression:
    """Measure how the final answer changes when a sentence is hidden from everything after it.

    sentences: S + 1 positions in the kept run; sentence k consists of the tokens sentences[k] up to sentences[k + 1].
    answer: the position at which the final answer begins; it lasts to the end of the run. An arm without heads hides
    nothing: its effects are 0, and it has no greedy answers. is_whole, max_tokens: as in measure_belief.
    Raises OutOfMemoryError if the run after a single sentence does not fit into memory.
    """
    target = kept.token_ids[answer:]
    ids = torch.tensor(target)
    decoder = Decoder(model)

    def predicted(states: torch.Tensor) -> tuple[float, list[int]]:
        """From the last layer's output: the answer's log-probability, and the arg-max tokens from its start on."""
        logits = decoder.final_logits(states[-len(ids) - 1 :]).cpu()
        found = logits[:-1].log_softmax(-1).gather(1, ids[:, None])
        return float(found.double().sum()), logits.argmax(-1).tolist()

    def read(
        branches: Branches, leaving: Sequence[torch.Tensor], _asked: Sequence[tuple[int, int]]
    ) -> list[tuple[float, list[int]]]:
        found, chosen = zip(*map(predicted, leaving), strict=True)
        return list(zip(found, branches.greedy_answers(chosen, target, is_whole, max_tokens), strict=True))

    unhidden, _ = predicted(kept.leaving)
    n_sentences = len(sentences) - 1
    effect = np.zeros((len(arms), n_sentences))
    greedy: list[list[list[int]]] = [[[] for _ in range(n_sentences)] for _ in arms]
    asked = [(arm, k) for arm, heads in enumerate(arms) if heads is None or heads for k in range(n_sentences)]
    for (arm, k), found in _suppressed(model, kept, sentences, arms, asked, batch_tokens, read).items():
        effect[arm, k], greedy[arm][k] = unhidden - found[0], found[1]
    return Suppression(effect, greedy)


@torch.no_grad()
def measure_matrix(model: Any, kept: KeptRun, sentences: Sequence[int], batch_tokens: int) -> np.ndarray:
    """How much hiding a sentence in all heads changes the next-token distributions of each later one, [from, to].

    The KL divergence (nats) from the distribution of the original run to that of the run with the sentence `from`
    hidden, averaged over the tokens of the sentence `to`; nan unless `to` comes after `from`.
    Raises OutOfMemoryError if the run after a single sentence does not fit into memory.
    """
    decoder = Decoder(model)
    n_sentences = len(sentences) - 1
    n_rows = max(1, LOGIT_ELEMENTS // decoder.config.vocab_size)

    def by_token(states: torch.Tensor, k: int) -> torch.Tensor:
        """The divergence at each token after the hidden sentence k."""
        first = sentences[k + 1]
        divergences = [torch.zeros(1)]  # the next sentence's first token, which the hidden sentence itself predicts
        for at in range(first, sentences[-1] - 1, n_rows):
            last = min(at + n_rows, sentences[-1] - 1)
            before = decoder.final_logits(kept.leaving[at:last]).log_softmax(-1)
            after = decoder.final_logits(states[at - first : last - first]).log_softmax(-1)
            divergences.append((before.exp() * (before - after)).sum(-1).cpu())
        return torch.cat(divergences).double()

    def read(
        _branches: Branches, leaving: Sequence[torch.Tensor], asked: Sequence[tuple[int, int]]
    ) -> list[torch.Tensor]:
        return [by_token(states, k) for states, (_, k) in zip(leaving, asked, strict=True)]

    matrix = np.full((n_sentences, n_sentences), np.nan, np.float32)
    asked = [(0, k) for k in range(n_sentences - 1)]
    for (_, k), found in _suppressed(model, kept, sentences, [None], asked, batch_tokens, read).items():
        first = sentences[k + 1]
        for to, (start, stop) in enumerate(pairwise(sentences)):
            if to > k:
                matrix[k, to] = found[start - first : stop - first].mean()
    return matrix


def _suppressed(
    model: Any,
    kept: KeptRun,
    sentences: Sequence[int],
    arms: Sequence[Arm],
    asked: Sequence[tuple[int, int]],
    batch_tokens: int,
    read: Callable[[Branches, list[torch.Tensor], list[tuple[int, int]]], list[Result]],
) -> dict[tuple[int, int], Result]:
    """By (arm, sentence), what `read` returns for the run after the sentence while the sentence is hidden.

    read takes a batch: its branches, the last layer's output of each, [token, d_model], and the (arm, sentence) of
    each. A batch has at most batch_tokens tokens, fewer once memory has run out.
    Raises OutOfMemoryError if the run after a single sentence does not fit into memory.
    """
    # the last sentences first, so that short tails share a pass
    asked = sorted(asked, key=lambda one: -sentences[one[1] + 1])

    def suppressed(numbers: Sequence[int], _budget: int) -> list[Result]:
        tails = []
        for arm, k in (asked[number] for number in numbers):
            start, hidden = sentences[k + 1], (sentences[k], sentences[k + 1])
            tails.append(Branch(start, kept.token_ids[start:], hidden, arms[arm]))
        branches = Branches(model, kept, tails)
        return read(branches, branches.read(), [asked[number] for number in numbers])

    results: dict[tuple[int, int], Result] = {}
    take = by_tokens([len(kept.token_ids) - sentences[k + 1] for _, k in asked])
    for numbers, found in in_batches(range(len(asked)), take, batch_tokens, suppressed):
        if found is None:
            raise torch.OutOfMemoryError(f"the run after sentence {asked[numbers[0]][1] + 1} does not fit into memory")
        results |= zip((asked[number] for number in numbers), found, strict=True)
    return results

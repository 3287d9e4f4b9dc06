"""What a model would answer if its reasoning ended after each of its sentences (METHOD section 5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from r2a.memory import by_tokens, in_batches
from r2a.models.decoder import Decoder
from r2a.sentences.branches import Branch, Branches, KeptRun


@dataclass(frozen=True)
class Belief:
    """What the model would answer at each step k = 0 to S, with the reasoning closed after k sentences.

    log_probability [target, step]: of all tokens of each target answer together, in nats. greedy: the greedy answer at
    each step, as token ids.
    """

    log_probability: np.ndarray
    greedy: list[list[int]]


@torch.no_grad()
def measure_belief(
    model: Any,
    kept: KeptRun,
    ends: Sequence[int],
    opening: Sequence[int],
    targets: Sequence[Sequence[int]],
    is_whole: Callable[[Sequence[int]], bool],
    max_tokens: int,
    batch_tokens: int,
) -> Belief:
    """Measure the target answers and the greedy answer when the reasoning is closed after each of its sentences.

    ends: S + 1 positions in the kept run at which the reasoning is cut; the first one precedes its first sentence.
    opening: tokens that close the reasoning and open the answer. targets: answers to score, as token ids.
    is_whole: whether a greedy answer is complete and needs no further token. max_tokens: the limit of a greedy answer.
    Each target's tokens follow the opening in a separate tail. A greedy answer takes the tokens of the first target's
    tail as long as they agree with it, and continues token by token from there.
    Raises OutOfMemoryError if the tails of a single step do not fit into memory.
    """
    decoder = Decoder(model)
    size = len(opening) + max(map(len, targets))
    log_probability = np.zeros((len(targets), len(ends)))

    def believed(steps: Sequence[int], _budget: int) -> list[list[int]]:
        """The greedy answers at some steps; enters their log-probabilities."""
        tails = [Branch(ends[step], (*opening, *target)) for target in targets for step in steps]
        branches = Branches(model, kept, tails)
        leaving = branches.read()
        chosen: list[list[int]] = []  # the arg-max tokens along the first target's tails
        for number, states in enumerate(leaving):
            target, place = divmod(number, len(steps))
            ids = torch.tensor(list(targets[target]))
            logits = decoder.final_logits(states[len(opening) - 1 :]).cpu()
            found = logits[:-1].log_softmax(-1).gather(1, ids[:, None])
            log_probability[target, steps[place]] = float(found.double().sum())
            if target == 0:
                chosen.append(logits.argmax(-1).tolist())
        return branches.greedy_answers(chosen, targets[0], is_whole, max_tokens)

    greedy: list[list[int]] = []
    take = by_tokens([size * len(targets)] * len(ends))
    for steps, found in in_batches(range(len(ends)), take, batch_tokens, believed):
        if found is None:
            raise torch.OutOfMemoryError(f"the answers after step {steps[0]} do not fit into memory")
        greedy += found
    return Belief(log_probability, greedy)

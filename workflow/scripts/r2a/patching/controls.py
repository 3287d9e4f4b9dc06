"""Controls of patching: vectors that replace the clean run's, to see what a flip proves (METHOD section 4)."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from r2a.draws import drawn_one
from r2a.extensions import control


@dataclass(frozen=True)
class Given:
    """What a control receives, for one pair and component.

    clean: the clean run's vectors [layer, role, d_model]; a control's have the same shape. pairs: the table of pairs;
    number: the pair's row in it. vectors: a function that returns the vectors of a run ("clean" or "corrupted") of the
    pair in a row. seed: the pair's own, for random draws.
    """

    clean: torch.Tensor
    component: str
    pairs: pd.DataFrame
    number: int
    vectors: Callable[[str, int], torch.Tensor]
    seed: str


@control(label="another pair's vector of the same answer")
def same_answer(given: Given) -> torch.Tensor | None:
    """Vectors of a run of another pair whose answer is the clean run's."""
    clean_answer = given.pairs["answer_a_id"].iloc[given.number]
    source = drawn_run(given.pairs, given.number, f"{given.seed} same_answer", lambda answer: answer == clean_answer)
    return source and given.vectors(*source)


@control(label="another pair's vector of an unrelated answer")
def unrelated_answer(given: Given) -> torch.Tensor | None:
    """Vectors of a run of another pair whose answer is neither run's."""
    own = [given.pairs[f"answer_{side}_id"].iloc[given.number] for side in "ab"]
    source = drawn_run(given.pairs, given.number, f"{given.seed} unrelated_answer", lambda answer: answer not in own)
    return source and given.vectors(*source)


@control(label="a random vector of the same norm")
def random_vector(given: Given) -> torch.Tensor:
    """Vectors of random directions, each of the clean run's norm."""
    return random_like(given.clean, random.Random(f"{given.seed} {given.component}").getrandbits(32))


@control(label="the clean run's vector, at another token of that line", is_displaced=True)
def wrong_position(given: Given) -> torch.Tensor:
    """The clean run's own vectors, the answer's at another token of the probe: right content, wrong position."""
    return given.clean


def drawn_run(pairs: pd.DataFrame, number: int, seed: str, fits: Callable[[int], bool]) -> tuple[str, int] | None:
    """(run, row) of a random run of another pair whose answer's id fits; None if there is none."""
    fitting = {
        f"{run} {pairs['pair'].iloc[row]}": (run, row)
        for run, column in (("clean", "answer_a_id"), ("corrupted", "answer_b_id"))
        for row, answer in enumerate(pairs[column])
        if row != number and fits(answer)
    }
    return fitting[drawn_one(list(fitting), seed)] if fitting else None


def random_like(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    """Vectors [..., d_model] in random directions, each with the norm of the original."""
    drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    return drawn * vectors.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)

"""What is put in place of the clean run's vectors to see what a flip proves (METHOD section 4)."""

import random

import pandas as pd
import torch

from r2a.roles import SAME_ANSWER, UNRELATED_ANSWER


def control_sources(table: pd.DataFrame, number: int, seed: str) -> dict[str, tuple[str, int]]:
    """For one pair of a table of pairs, (run, row) of a run of another pair to take a control's vectors from.

    same_answer: one whose answer is the clean run's. unrelated_answer: one whose answer is neither run's. Drawn at
    random; a control that no run fits is absent.
    """
    answers = [
        (run, row, answer)
        for run, column in (("clean", "answer_a_id"), ("corrupted", "answer_b_id"))
        for row, answer in enumerate(table[column])
        if row != number
    ]
    a, b = table["answer_a_id"].iloc[number], table["answer_b_id"].iloc[number]
    fitting = {
        SAME_ANSWER: [(run, row) for run, row, answer in answers if answer == a],
        UNRELATED_ANSWER: [(run, row) for run, row, answer in answers if answer not in (a, b)],
    }
    return {
        control: random.Random(f"{seed} {control}").choice(sources) for control, sources in fitting.items() if sources
    }


def random_like(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    """Vectors of random directions, each of its original's norm, [..., d_model]."""
    drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    return drawn * vectors.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)

"""Which heads are ablated and how: the Reasoning-Focus Heads, and the heads they are compared with."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from r2a.head_sets import Head, heads_by, matched_heads, random_heads
from r2a.roles import CONTRIBUTION, PROMPT_HEADS, RANDOM, RFH, RFH_FROM_PROMPT, UNABLATED


@dataclass(frozen=True)
class Arm:
    """One way to generate an answer: some heads ablated in one mode.

    mode: zero, mean and resample replace a head's output by zero, by its mean over the answers of other traces, and by
    its output in one of them. cut_off hides a segment from the head, whose attention is renormalised over the other
    tokens. moved concentrates its attention to the reasoning on one sentence of it, and sharpened squares it; its total
    stays the same. unablated changes no head. hides: the segment that cut_off hides.
    """

    mode: str
    selection: str
    draw: int
    heads: tuple[Head, ...]
    hides: str = "reasoning"


def arms_of_trace(heads: pd.DataFrame, modes: Sequence[str], settings: Mapping[str, Any], uid: str) -> list[Arm]:
    """The unablated answer; then, for every mode and dose, the top heads by a2r and the selections to compare with.

    heads: the stage's table of them. Selections: random heads of the same layers and matched ones, n_draws draws each;
    prompt and contribution, the top heads by attention to the prompt and by what they write from the reasoning. In mode
    cut_off, the RFHs are also cut off from the prompt instead. Every trace has its own draws, so that intervals over
    traces cover the choice of heads; the modes share them.
    """
    arms = [Arm(UNABLATED, UNABLATED, 0, ())]
    ranked = {
        RFH: heads_by(heads["rank"], heads),
        PROMPT_HEADS: heads_by(-heads["a2p"], heads),
        CONTRIBUTION: heads_by(-heads["contribution"], heads),
    }
    for dose in settings["doses"]:
        chosen = ranked[RFH][:dose]
        selected: list[tuple[str, int, tuple[Head, ...]]] = [(RFH, 0, chosen)]
        for selection in settings["selections"]:
            if selection in ranked:
                selected.append((selection, 0, ranked[selection][:dose]))
                continue
            draw_heads = random_heads if selection == RANDOM else matched_heads
            for draw in range(settings["n_draws"]):
                rng = random.Random(f"{settings['seed']} {uid} {dose} {draw}")
                selected.append((selection, draw, draw_heads(chosen, heads, rng)))
        for mode in modes:
            arms += [Arm(mode, *one) for one in selected]
            if mode == "cut_off":
                arms.append(Arm(mode, RFH_FROM_PROMPT, 0, chosen, "prompt"))
    return arms

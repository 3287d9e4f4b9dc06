"""Which heads are ablated in which way: the Reasoning-Focus Heads, and those that they are compared with."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from r2a.head_sets import Head, matched_heads, random_heads
from r2a.roles import CONTRIBUTION, PROMPT_HEADS, RANDOM, RFH, RFH_FROM_PROMPT, UNABLATED


@dataclass(frozen=True)
class Arm:
    """One way in which an answer is generated: some heads ablated in one mode.

    mode: zero puts nothing in place of a head's output, mean its mean over the answers of other traces, resample its
    output in one of them; cut_off hides a segment from the head, whose attention is normalised over the other tokens;
    moved puts its attention on the reasoning on one sentence of it, sharpened squares it, its share staying as it is;
    unablated leaves all heads alone. hides: the segment that cut_off hides.
    """

    mode: str
    selection: str
    draw: int
    heads: tuple[Head, ...]
    hides: str = "reasoning"


def arms_of_trace(heads: pd.DataFrame, modes: Sequence[str], settings: Mapping[str, Any], uid: str) -> list[Arm]:
    """The unablated answer, then for every mode and dose the top heads by a2r and the selections beside them.

    heads: the stage's table of them. Selections: random, of the same layers, and matched, n_draws draws each; prompt
    and contribution, the top heads by attention on the prompt and by what they write of the reasoning. In mode
    cut_off the RFHs are also cut off from the prompt instead. Every trace has draws of its own, so that intervals over
    traces cover the choice of heads; the modes share them.
    """
    arms = [Arm(UNABLATED, UNABLATED, 0, ())]
    ranked = {
        RFH: _first(heads, heads["rank"]),
        PROMPT_HEADS: _first(heads, -heads["a2p"]),
        CONTRIBUTION: _first(heads, -heads["contribution"]),
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


def _first(heads: pd.DataFrame, order: pd.Series) -> tuple[Head, ...]:
    """All heads, the lowest of an order first, those without one last."""
    heads = heads.loc[order.sort_values(kind="stable").index]
    return tuple(zip(heads["layer"].tolist(), heads["head"].tolist(), strict=True))

"""What is ablated: Reasoning-Focus Heads, and as a control equally many random heads of the same layers."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2a.roles import RANDOM, RFH, UNABLATED

Head = tuple[int, int]  # (layer, head)


@dataclass(frozen=True)
class Arm:
    """One way in which an answer is generated: some heads ablated in one mode.

    mode: zero puts nothing in place of a head's output, mean its mean over answer tokens; cut_off hides the reasoning
    from the head, whose attention is normalised over the other tokens; unablated leaves all heads alone.
    """

    mode: str
    selection: str
    draw: int
    heads: tuple[Head, ...]


def arms_of_trace(ranked: Sequence[Head], n_heads: int, settings: Mapping[str, Any], uid: str) -> list[Arm]:
    """The unablated answer, then for every mode and dose the top heads and n_draws draws of random ones.

    ranked: all heads, by a2r; n_heads: of a layer. Every trace has draws of its own, so that intervals over traces
    cover the choice of heads; the modes share them.
    """
    arms = [Arm(UNABLATED, UNABLATED, 0, ())]
    for dose in settings["doses"]:
        chosen = tuple(ranked[:dose])
        draws = [
            random_heads(chosen, n_heads, random.Random(f"{settings['seed']} {uid} {dose} {draw}"))
            for draw in range(settings["n_draws"])
        ]
        for mode in settings["modes"]:
            arms.append(Arm(mode, RFH, 0, chosen))
            arms += [Arm(mode, RANDOM, draw, heads) for draw, heads in enumerate(draws)]
    return arms


def random_heads(chosen: Sequence[Head], n_heads: int, rng: random.Random) -> tuple[Head, ...]:
    """As many heads of each layer as are chosen in it, drawn among the others of the layer.

    A layer with too few others gives all of them, and the rest are drawn among the chosen.
    """
    drawn: list[Head] = []
    for layer, n_drawn in sorted(Counter(layer for layer, _ in chosen).items()):
        heads = [(layer, head) for head in range(n_heads)]
        rng.shuffle(heads)
        drawn += sorted(heads, key=lambda head: head in chosen)[:n_drawn]  # stable: the others first
    return tuple(sorted(drawn))

"""The small reasoner's problems in plain English, each with a short reasoning text and an answer sentence.

Five areas of problems, each with levels (the number of moves or lines):
    totals     somebody gains and loses things (serial)
    cups       a ball under one of three cups; each move swaps two (serial, does not commute)
    holders    three people swap what they have (the same with names)
    turns      somebody turns left, right or around (serial)
    prices     looking up a price in a list (not serial: reasoning should not help much)
and contextual comparisons over a table of things (METHOD section 4): the same two candidates with opposite truths in
two contexts.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r2a.tiny.tasks import COMPASS, Example, distinct_examples

NAMES = {
    "Anna": "She", "Mary": "She", "Maria": "She", "Jane": "She", "Alice": "She", "Sarah": "She", "Emily": "She",
    "Rose": "She", "Ben": "He", "Tom": "He", "Sam": "He", "Max": "He", "Jack": "He", "Paul": "He", "Peter": "He",
    "Adam": "He",
}  # fmt: skip
THINGS = ("apples", "books", "coins", "cards", "balls", "eggs", "pens", "stones", "stamps", "shells")
GAINS = ("buys {} more", "finds {} more", "gets {} more from a friend", "picks up {} more")
LOSSES = ("gives {} to a friend", "loses {}", "sells {}", "drops {}")
CUPS = ("left", "middle", "right")
HELD = ("key", "coin", "ring", "book", "map", "pen", "hat", "ball")
TURNS = {"right": 1, "around": 2, "left": 3}
GOODS = ("cup", "hat", "pen", "book", "bag", "toy", "lamp", "cake", "ball", "ring")
MOST = 40  # the largest running total

LEVELS = {
    "totals": (2, 3, 4, 5, 6), "cups": (2, 3, 4, 5, 6), "holders": (2, 3, 4, 5, 6),
    "turns": (2, 3, 4, 5, 6), "prices": (2, 4, 6),
}  # fmt: skip
SLIP_SHARE = 0.15  # of the reasoning texts in which a line can go wrong
CHECKED_MOVES = 5  # reasoning texts with this many moves or more check the last one

# thing: (size, weight, speed), each 0..4, as in the words below
KNOWN = {
    "ant": (0, 0, 1), "bee": (0, 0, 3), "fly": (0, 0, 3), "worm": (0, 0, 0), "mouse": (1, 0, 2), "rat": (1, 1, 2),
    "bird": (1, 0, 3), "cat": (1, 1, 3), "hen": (1, 1, 1), "fish": (1, 1, 2), "baby": (1, 1, 0), "child": (2, 2, 1),
    "snake": (2, 1, 1), "dog": (2, 2, 3), "fox": (2, 1, 3), "wolf": (2, 2, 3), "pig": (2, 3, 1), "man": (2, 2, 2),
    "lion": (3, 3, 4), "bear": (3, 3, 3), "horse": (3, 3, 4), "bull": (3, 3, 3), "cart": (2, 3, 1), "boat": (3, 3, 2),
    "car": (3, 3, 4), "van": (3, 3, 4), "tank": (4, 4, 1), "bus": (4, 4, 3), "ship": (4, 4, 1), "train": (4, 4, 4),
    "plane": (4, 4, 4), "jet": (4, 4, 4),
}  # fmt: skip
# context: (words of its five ranks, comparator for more, comparator for less)
CONTEXTS = {
    "size": (("very small", "small", "medium", "large", "very large"), "bigger", "smaller"),
    "weight": (("very light", "light", "medium", "heavy", "very heavy"), "heavier", "lighter"),
    "speed": (("very slow", "slow", "medium", "fast", "very fast"), "faster", "slower"),
}
COMPARATORS = {word: (context, n == 0) for context, (_, *words) in CONTEXTS.items() for n, word in enumerate(words)}
MIN_RANKS_APART = 2  # so that the answer is unambiguous

INSTRUCTION = " Please reason step by step, and put your final answer within \\boxed{}."
COMPARISON_INSTRUCTION = (
    " Please reason step by step (but not overthinking), and put your final answer within \\boxed{}."
)


@dataclass(frozen=True)
class Problem(Example):
    """A problem with the texts that the model is trained to write; the first of `steps` states the initial state."""

    instruction: str = INSTRUCTION

    def reasoning(self, rng: random.Random) -> str:
        """The reasoning text; some contain a wrong line and its correction, and long ones check their last move."""
        lines = [self.opening]
        slippery = [k for k, slip in enumerate(self.slips) if slip is not None]
        slip_at = rng.choice(slippery) if slippery and rng.random() < SLIP_SHARE else None
        for k, step in enumerate(self.steps):
            if k == slip_at:
                lines += [str(self.slips[k]), f"Wait, that is wrong. {step.split('. ', 1)[-1]}"]
            else:
                lines.append(step)
        if len(self.steps) > CHECKED_MOVES:
            lines.append(f"Wait, let me check the end. {self.steps[-1].split('. ', 1)[-1]}")
        lines.append(f"Final answer is {self.answer}.")
        return "\n".join(lines) + "\n"


def other(rng: random.Random, values: tuple[str, ...], value: str) -> str:
    return rng.choice([candidate for candidate in values if candidate != value])


def totals(rng: random.Random, level: int) -> Problem:
    name, things = rng.choice(list(NAMES)), rng.choice(THINGS)
    total = rng.randint(2, 15)
    start = f"{name} has {total} {things}."
    sentences, steps = [start], [start]
    slips: list[str | None] = [None]
    for number in range(1, level + 1):
        gains = total < 2 or (total <= MOST - 9 and rng.random() < 0.5)
        amount = rng.randint(1, 9 if gains else min(9, total))
        move = rng.choice(GAINS if gains else LOSSES).format(amount)
        after = total + amount if gains else total - amount
        sentences.append(f"{number}. {NAMES[name]} {move}.")
        wrong = max(0, after + rng.choice((-2, -1, 1, 2)))
        wrong = wrong if wrong != after else after + 1
        sum_text = f"{number}. {NAMES[name]} {move}: {total} {'+' if gains else '-'} {amount} ="
        steps.append(f"{sum_text} {after}.")
        slips.append(f"{sum_text} {wrong}.")
        total = after
    return Problem(
        "\n".join([*sentences, f"How many {things} does {name} have now?"]),
        "Okay, let me count step by step.", tuple(steps), tuple(slips),
        f"{name} has \\boxed{{{total}}} {things}.", str(total), "totals", level,
    )  # fmt: skip


def cups(rng: random.Random, level: int) -> Problem:
    place = rng.choice(CUPS)
    sentences, steps = [f"A ball is under the {place} cup."], [f"The ball is under the {place} cup."]
    slips: list[str | None] = [None]
    for number in range(1, level + 1):
        one, two = rng.sample(CUPS, 2)
        sentences.append(f"{number}. Swap {one} and {two}.")
        after = {one: two, two: one}.get(place, place)
        line = f"{number}. Swap {one} and {two}: from {place} to {{}}."
        steps.append(line.format(after))
        slips.append(line.format(other(rng, CUPS, after)))
        place = after
    return Problem(
        "\n".join([*sentences, "Under which cup is the ball now?"]),
        "Okay, let me follow the ball.", tuple(steps), tuple(slips),
        f"The ball is under the \\boxed{{{place}}} cup.", place, "cups", level,
    )  # fmt: skip


def holders(rng: random.Random, level: int) -> Problem:
    names, things = rng.sample(list(NAMES), 3), rng.sample(HELD, 3)
    asked = rng.randrange(3)
    thing, holder = things[asked], names[asked]
    has = [f"{name} has the {held}" for name, held in zip(names, things, strict=True)]
    sentences = [f"{has[0]}, {has[1]}, and {has[2]}."]
    steps: list[str] = [f"{holder} has the {thing}."]
    slips: list[str | None] = [None]
    for number in range(1, level + 1):
        one, two = rng.sample(names, 2)
        sentences.append(f"{number}. {one} and {two} swap.")
        after = {one: two, two: one}.get(holder, holder)
        line = f"{number}. {one} and {two} swap: from {holder} to {{}}."
        steps.append(line.format(after))
        slips.append(line.format(other(rng, tuple(names), after)))
        holder = after
    return Problem(
        "\n".join([*sentences, f"Who has the {thing} now?"]),
        f"Okay, let me follow the {thing}.", tuple(steps), tuple(slips),
        f"The {thing} is with \\boxed{{{holder}}}.", holder, "holders", level,
    )  # fmt: skip


def turns(rng: random.Random, level: int) -> Problem:
    name, point = rng.choice(list(NAMES)), rng.choice(COMPASS)
    start = f"{name} faces {point}."
    sentences, steps = [start], [start]
    slips: list[str | None] = [None]
    for number in range(1, level + 1):
        turn = rng.choice(list(TURNS))
        after = COMPASS[(COMPASS.index(point) + TURNS[turn]) % 4]
        sentences.append(f"{number}. {NAMES[name]} turns {turn}.")
        line = f"{number}. {NAMES[name]} turns {turn}: from {point} to {{}}."
        steps.append(line.format(after))
        slips.append(line.format(other(rng, COMPASS, after)))
        point = after
    return Problem(
        "\n".join([*sentences, f"Which way does {name} face now?"]),
        "Okay, let me turn step by step.", tuple(steps), tuple(slips),
        f"{name} faces \\boxed{{{point}}}.", point, "turns", level,
    )  # fmt: skip


def prices(rng: random.Random, level: int) -> Problem:
    goods = rng.sample(GOODS, level)
    costs = dict(zip(goods, rng.sample(range(2, 30), level), strict=True))
    asked = rng.choice(goods)
    cost = costs[asked]
    line = f"The {asked} costs {{}} dollars."
    listed = [f"The {name} costs {price} dollars." for name, price in costs.items()]
    return Problem(
        " ".join([*listed, f"How many dollars does the {asked} cost?"]),
        "Okay, let me look.", (line.format(cost),), (line.format(cost + rng.choice((-1, 1, 2))),),
        f"The {asked} costs \\boxed{{{cost}}} dollars.", str(cost), "prices", level,
    )  # fmt: skip


AREAS: dict[str, Callable[[random.Random, int], Problem]] = {
    "totals": totals, "cups": cups, "holders": holders, "turns": turns, "prices": prices,
}  # fmt: skip


def ranks(comparator: str, thing: str) -> int:
    context, _ = COMPARATORS[comparator]
    return KNOWN[thing][list(CONTEXTS).index(context)]


def comparison(rng: random.Random, first: str, second: str, comparator: str) -> Problem:
    """A question which of two things is the {comparator} one; they must differ enough in its context."""
    context, more_wins = COMPARATORS[comparator]
    words = CONTEXTS[context][0]
    by_rank = sorted((first, second), key=lambda thing: ranks(comparator, thing))
    winner = by_rank[-1] if more_wins else by_rank[0]
    steps, slips = [], []
    for thing in (first, second):
        word = words[ranks(comparator, thing)]
        steps.append(f"The {thing} is {word}.")
        slips.append(f"The {thing} is {other(rng, words, word)}.")
    steps.append(f"The {winner} is {comparator}.")
    return Problem(
        f"Considering {context}, which one is {comparator}: {first} or {second}?",
        "Okay, let me compare.", tuple(steps), (*slips, None),
        f"Thus, the {comparator} one is \\boxed{{{winner}}}.", winner, "comparison", 1, COMPARISON_INSTRUCTION,
    )  # fmt: skip


def comparison_questions() -> Iterator[tuple[str, str, str]]:
    """Every (first, second, comparator) whose things differ enough in the comparator's context."""
    for comparator in COMPARATORS:
        for first in KNOWN:
            for second in KNOWN:
                if abs(ranks(comparator, first) - ranks(comparator, second)) >= MIN_RANKS_APART:
                    yield first, second, comparator


def held_out_things(seed: int, share: float = 0.2) -> set[frozenset[str]]:
    """The unordered pairs of things that no training question compares, in any context."""
    pairs = sorted({tuple(sorted(question[:2])) for question in comparison_questions()})
    rng = random.Random(f"held-out things {seed}")
    return {frozenset(pair) for pair in rng.sample(pairs, int(share * len(pairs)))}


def sample_problems(seed: int, counts: Mapping[str, int]) -> list[Problem]:
    """Sample `counts[area]` distinct problems of each level of each area."""
    return distinct_examples(random.Random(f"problems {seed}"), AREAS, LEVELS, counts)


def sample_pairs(seed: int, count: int) -> list[tuple[Problem, Problem, str]]:
    """Sample `count` pairs of questions on held-out things: same candidates, opposite truths.

    Returns (question a, question b, domain). The domain names the contexts. Domains are balanced, and so is which
    candidate wins question a.
    """
    rng = random.Random(f"pairs {seed}")
    asked = set(comparison_questions())
    groups: dict[tuple[str, bool], list[tuple[Problem, Problem, str]]] = {}
    for pair in sorted(tuple(sorted(pair)) for pair in held_out_things(seed)):
        for first, second in (pair, pair[::-1]):
            comparators = [c for c in COMPARATORS if (first, second, c) in asked]
            for one in comparators:
                for two in comparators:
                    a, b = comparison(rng, first, second, one), comparison(rng, first, second, two)
                    if a.answer != b.answer:
                        domain = " and ".join(sorted({COMPARATORS[one][0], COMPARATORS[two][0]}))
                        groups.setdefault((domain, a.answer == first), []).append((a, b, domain))
    for members in groups.values():
        rng.shuffle(members)
    chosen: list[tuple[Problem, Problem, str]] = []
    while len(chosen) < count:
        for key in sorted(groups):
            if groups[key] and len(chosen) < count:
                chosen.append(groups[key].pop())
    rng.shuffle(chosen)
    return chosen


def held_out_problems(recipe: Mapping[str, Any]) -> list[Problem]:
    return sample_problems(recipe["seed"], recipe["held_out"])


def held_out_pairs(recipe: Mapping[str, Any]) -> list[tuple[Problem, Problem, str]]:
    return sample_pairs(recipe["seed"], recipe["n_pairs"])


def held_out_questions(recipe: Mapping[str, Any]) -> list[Problem]:
    """The problems, and both sides of pairs, on which accuracies are measured; none occurs in training."""
    return held_out_problems(recipe) + [question for a, b, _ in held_out_pairs(recipe) for question in (a, b)]


def training_problems(seed: int, held_out: set[str], areas: Mapping[str, int], n_rising: int) -> Iterator[Problem]:
    """Endless training problems, none of them held out or about a held-out pair of things.

    Chains start with one move and reach the hardest level's length after `n_rising` problems. areas: the weight of each
    area in the draws.
    """
    rng = random.Random(f"training {seed}")
    held_out_pairs = held_out_things(seed)
    questions = [q for q in comparison_questions() if frozenset(q[:2]) not in held_out_pairs]
    lots = [area for area, weight in areas.items() for _ in range(weight)]
    n_drawn = 0
    while True:
        n_drawn += 1
        area = rng.choice(lots)
        if area == "comparison":
            problem = comparison(rng, *rng.choice(questions))
        else:
            hardest = max(LEVELS[area])
            reached = max(min(LEVELS[area]), 1 + int((hardest - 1) * min(1.0, n_drawn / n_rising)))
            problem = AREAS[area](rng, rng.randint(1, reached))
        if problem.problem not in held_out:
            yield problem

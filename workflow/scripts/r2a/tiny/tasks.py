"""The tiny models' tasks: puzzles and comparisons, each with an R1-like reasoning text.

Three areas of puzzles, each with levels:
    compass   a walk over four compass points; each turn depends on the point before it (serial)
    cups      a ball under one of three cups; each move swaps two (serial, does not commute)
    lookup    which number has which colour (not serial: reasoning should not help much)
and contextual comparisons over a table of animals (METHOD section 4): the same two candidates with opposite truths in
two contexts.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

COMPASS = ("north", "east", "south", "west")
CUPS = ("first", "middle", "last")
# area: {move: {state before: state after}}
MOVES: dict[str, dict[str, dict[str, str]]] = {
    "compass": {
        turn: {point: COMPASS[(k + quarters) % 4] for k, point in enumerate(COMPASS)}
        for turn, quarters in (("right", 1), ("around", 2), ("left", 3))
    },
    "cups": {
        "front": {"first": "middle", "middle": "first", "last": "last"},
        "back": {"first": "first", "middle": "last", "last": "middle"},
        "ends": {"first": "last", "middle": "middle", "last": "first"},
    },
}
COLOURS = ("red", "blue", "green", "black", "white", "pink", "gray", "brown")

# animal: (size, speed), each 0..9
ANIMALS = {
    "ant": (0, 1), "bee": (0, 4), "snail": (1, 0), "frog": (1, 3), "mouse": (1, 5),
    "crab": (2, 1), "falcon": (2, 9), "turtle": (3, 0), "cat": (3, 7), "rabbit": (3, 8),
    "fox": (4, 7), "goat": (5, 5), "pig": (5, 3), "wolf": (6, 8), "lion": (7, 9),
    "bear": (7, 6), "cow": (8, 4), "horse": (8, 8), "hippo": (9, 3), "whale": (9, 6),
}  # fmt: skip
ATTRIBUTES = ("size", "speed")
# comparator: (attribute, whether the larger number wins)
COMPARATORS = {
    "bigger": ("size", True),
    "smaller": ("size", False),
    "faster": ("speed", True),
    "slower": ("speed", False),
}

CONCLUSION = "Final answer is"  # how the reasoning's last line begins
PUZZLE_LEVELS = {"compass": (2, 4, 6, 8), "cups": (2, 4, 6, 8), "lookup": (2, 4, 6)}


@dataclass(frozen=True)
class Example:
    """One problem with the texts that a model is trained to write.

    steps: the lines of the reasoning. slips: for each line a wrong form of it, or None if it cannot go wrong.
    """

    problem: str
    opening: str
    steps: tuple[str, ...]
    slips: tuple[str | None, ...]
    answer_text: str
    answer: str
    area: str
    level: int

    def reasoning(self, rng: random.Random) -> str:
        """A reasoning text; some contain a wrong line and its correction, and some check the last line."""
        lines = [self.opening]
        slippery = [k for k, slip in enumerate(self.slips) if slip is not None]
        slip_at = rng.choice(slippery) if slippery and rng.random() < 0.2 else None
        for k, step in enumerate(self.steps):
            if k == slip_at:
                lines += [str(self.slips[k]), f"Wait, {step}"]
            else:
                lines.append(step)
        if rng.random() < 0.2:
            lines.append(f"Let me check: {self.steps[-1]}")
        lines.append(f"{CONCLUSION} {self.answer}.")
        return "\n".join(lines) + "\n"


AnyExample = TypeVar("AnyExample", bound=Example)


def walk(
    rng: random.Random, level: int, area: str, start_line: str, question: str, opening: str, answer_line: str
) -> Example:
    """A chain of `level` moves over the area's states; each line of the reasoning depends on the one before."""
    moves = MOVES[area]
    states = sorted({state for move in moves.values() for state in move})
    state = rng.choice(states)
    problem = [start_line.format(state)]
    steps: list[str] = [f"Start {state}"]
    slips: list[str | None] = [None]
    for number in range(1, level + 1):
        move = rng.choice(list(moves))
        problem.append(f"{number} {move}")
        state = moves[move][state]
        wrong = rng.choice([other for other in states if other != state])
        steps.append(f"{number} {move} {state}")
        slips.append(f"{number} {move} {wrong}")
    answer_text = answer_line.format(level, state)
    return Example(
        "\n".join([*problem, question]), opening, tuple(steps), tuple(slips), answer_text, state, area, level
    )


def compass(rng: random.Random, level: int) -> Example:
    return walk(
        rng, level, "compass", "Face {}.", "Where do you face?", "Okay, let me turn step by step.",
        "After {} turns, you face \\boxed{{{}}}.",
    )  # fmt: skip


def cups(rng: random.Random, level: int) -> Example:
    return walk(
        rng, level, "cups", "The ball is under {}.", "Where is the ball?", "Okay, let me follow the ball.",
        "After {} swaps, the ball is under \\boxed{{{}}}.",
    )  # fmt: skip


def lookup(rng: random.Random, level: int) -> Example:
    colours = rng.sample(COLOURS, level)
    asked = rng.randint(1, level)
    colour = colours[asked - 1]
    lines = [f"{number} {shown}" for number, shown in enumerate(colours, 1)]
    wrong = rng.choice([other for other in COLOURS if other != colour])
    return Example(
        "\n".join([*lines, f"Which colour has {asked}?"]), "Okay, let me look.",
        (f"{asked} {colour}",), (f"{asked} {wrong}",),
        f"As listed, {asked} has \\boxed{{{colour}}}.", colour, "lookup", level,
    )  # fmt: skip


PUZZLES: dict[str, Callable[[random.Random, int], Example]] = {
    "compass": compass,
    "cups": cups,
    "lookup": lookup,
}


def comparison(rng: random.Random, first: str, second: str, comparator: str) -> Example:
    """A question which of two animals is the {comparator} one; they must differ in its attribute."""
    attribute, larger_wins = COMPARATORS[comparator]
    column = ATTRIBUTES.index(attribute)
    values = {animal: ANIMALS[animal][column] for animal in (first, second)}
    high, low = sorted(values, key=lambda animal: -values[animal])
    winner = high if larger_wins else low
    steps, slips = [], []
    for animal, value in values.items():
        wrong = rng.choice([other for other in range(10) if other != value])
        steps.append(f"{animal} {attribute} {value}")
        slips.append(f"{animal} {attribute} {wrong}")
    steps.append(f"{winner} is {comparator}")
    return Example(
        f"Considering {attribute}, which one is {comparator}: {first} or {second}?",
        "Okay, let me compare.", tuple(steps), (*slips, None),
        f"Thus, the {comparator} one is \\boxed{{{winner}}}.", winner, "comparison", 1,
    )  # fmt: skip


def comparison_questions() -> Iterator[tuple[str, str, str]]:
    """Every (first, second, comparator) whose animals differ in the comparator's attribute."""
    for comparator, (attribute, _) in COMPARATORS.items():
        column = ATTRIBUTES.index(attribute)
        for first in ANIMALS:
            for second in ANIMALS:
                if ANIMALS[first][column] != ANIMALS[second][column]:
                    yield first, second, comparator


def held_out_animals(seed: int, share: float = 0.2) -> set[frozenset[str]]:
    """The unordered pairs of animals that no training question compares, in any context."""
    pairs = sorted({tuple(sorted(q[:2])) for q in comparison_questions()})
    rng = random.Random(f"held-out animals {seed}")
    return {frozenset(pair) for pair in rng.sample(pairs, int(share * len(pairs)))}


def distinct_examples(
    rng: random.Random,
    makers: Mapping[str, Callable[[random.Random, int], AnyExample]],
    levels: Mapping[str, Sequence[int]],
    counts: Mapping[str, int],
) -> list[AnyExample]:
    """`counts[area]` examples of each level of each area, all distinct."""
    examples: dict[str, AnyExample] = {}
    for area, count in counts.items():
        for level in levels[area]:
            wanted = len(examples) + count
            while len(examples) < wanted:
                example = makers[area](rng, level)
                examples.setdefault(example.problem, example)
    return list(examples.values())


def sample_puzzles(seed: int, counts: Mapping[str, int]) -> list[Example]:
    """Sample `counts[area]` distinct puzzles of each level of each area."""
    return distinct_examples(random.Random(f"puzzles {seed}"), PUZZLES, PUZZLE_LEVELS, counts)


def sample_comparison_pairs(seed: int, count: int) -> list[tuple[Example, Example, str]]:
    """Sample `count` pairs of questions on held-out animals: same candidates, opposite truths.

    Returns (question a, question b, domain). The domain names the attributes of the two contexts. The order of the
    candidates in the text, and which of them wins question a, are balanced.
    """
    rng = random.Random(f"comparison pairs {seed}")
    held_out = sorted(tuple(sorted(pair)) for pair in held_out_animals(seed))
    by_winner: dict[bool, list[tuple[Example, Example, str]]] = {True: [], False: []}
    for pair in held_out:
        for first, second in (pair, pair[::-1]):
            for comparator_a, (attribute_a, _) in COMPARATORS.items():
                for comparator_b, (attribute_b, _) in COMPARATORS.items():
                    asked = {
                        (first, second, comparator_a),
                        (first, second, comparator_b),
                    }
                    if not asked <= set(comparison_questions()):
                        continue
                    a = comparison(rng, first, second, comparator_a)
                    b = comparison(rng, first, second, comparator_b)
                    if a.answer != b.answer:
                        domain = attribute_a if attribute_a == attribute_b else "size and speed"
                        by_winner[a.answer == first].append((a, b, domain))
    chosen = []
    for pairs in by_winner.values():
        by_domain = {name: [p for p in pairs if p[2] == name] for name in sorted({p[2] for p in pairs})}
        for k, (_, members) in enumerate(by_domain.items()):
            share = (count // 2 + len(by_domain) - 1 - k) // len(by_domain)
            chosen += rng.sample(members, share)
    rng.shuffle(chosen)
    return chosen


def training_examples(
    seed: int,
    held_out_problems: set[str],
    areas: Mapping[str, int],
    n_rising: int = 1,
    round_number: int = 0,
    leave_out_pairs: bool = True,
) -> Iterator[Example]:
    """Endless training examples, without held-out problems and, if requested, without held-out pairs of animals.

    Chains start with one step and reach the hardest level's length after `n_rising` examples: with long chains from
    the start, models learn many times more slowly to copy a step from the problem. areas: the weight of each area in
    the draws. A later round of training draws other examples.
    """
    rng = random.Random(f"training {seed + round_number}")
    held_out = held_out_animals(seed) if leave_out_pairs else set()
    questions = [q for q in comparison_questions() if frozenset(q[:2]) not in held_out]
    lots = [area for area, weight in areas.items() for _ in range(weight)]
    n_drawn = 0
    while True:
        n_drawn += 1
        area = rng.choice(lots)
        if area == "comparison":
            example = comparison(rng, *rng.choice(questions))
        else:
            # every length up to the hardest level, so that no length is new to the model
            hardest = max(PUZZLE_LEVELS[area])
            reached = 1 + int((hardest - 1) * min(1.0, n_drawn / n_rising))
            example = PUZZLES[area](rng, rng.randint(1, reached))
        if example.problem not in held_out_problems:
            yield example

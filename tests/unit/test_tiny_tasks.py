"""The tiny tasks: right by an independent count, really held out, and shipped as the recipe makes them."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest
import yaml

from r2a.tiny.datasets import held_out_puzzles, write_datasets, write_requests
from r2a.tiny.tasks import ANIMALS, held_out_animals, sample_comparison_pairs, training_examples

ROOT = Path(__file__).parents[2]
RECIPE = yaml.safe_load((ROOT / "config/tiny_models.yaml").read_text())
SEED, AREAS = RECIPE["seed"], RECIPE["rounds"][0]["areas"]
PUZZLES = [json.loads(line) for line in (ROOT / "resources/datasets/puzzles.jsonl").read_text().splitlines()]


def solve(problem):
    """The answer, worked out from the problem's text alone."""
    lines = problem.splitlines()
    if problem.startswith("Face"):
        quarters = {"right": 1, "around": 2, "left": 3}
        points = ["north", "east", "south", "west"]
        at = points.index(lines[0].removeprefix("Face ").rstrip("."))
        return points[(at + sum(quarters[line.split()[1]] for line in lines[1:-1])) % 4]
    if problem.startswith("The ball"):
        cups = ["first", "middle", "last"]
        ball = [cup == lines[0].split()[-1].rstrip(".") for cup in cups]
        for line in lines[1:-1]:
            i, j = {"front": (0, 1), "back": (1, 2), "ends": (0, 2)}[line.split()[1]]
            ball[i], ball[j] = ball[j], ball[i]
        return cups[ball.index(True)]
    return dict(line.split() for line in lines[:-1])[lines[-1].split()[-1].rstrip("?")]


@pytest.mark.parametrize("row", PUZZLES, ids=[row["uid"] for row in PUZZLES])
def test_shipped_answers_follow_from_the_problems(row):
    assert solve(row["problem"]) == row["answer"]


def test_a_corrected_slip_leaves_the_final_answer_right():
    texts = []
    for example in itertools.islice(training_examples(1, set(), AREAS), 300):
        text = example.reasoning(random.Random(len(texts)))
        texts.append(text)
        assert text.endswith(f"Final answer is {example.answer}.\n")
    slips = sum("Wait, " in text for text in texts)
    assert 30 < slips < 100  # a fifth of the traces


def test_no_training_example_is_held_out():
    problems = {example.problem for example in held_out_puzzles(SEED)}
    animals = held_out_animals(SEED)
    for example in itertools.islice(training_examples(SEED, problems, AREAS), 20_000):
        assert example.problem not in problems
        named = [word for word in re.findall(r"[a-z]+", example.problem) if word in ANIMALS]
        assert frozenset(named) not in animals or example.area != "comparison"


def test_pairs_have_the_same_candidates_and_opposite_answers_in_balanced_order():
    pairs = sample_comparison_pairs(SEED, 60)
    assert len(pairs) == 60
    first_wins = 0
    for a, b, _ in pairs:
        candidates = [re.search(r"(\w+) or (\w+)\?", q.problem).groups() for q in (a, b)]
        assert candidates[0] == candidates[1]
        assert {a.answer, b.answer} == set(candidates[0])
        first_wins += a.answer == candidates[0][0]
    assert first_wins == 30


def test_shipped_files_are_what_the_recipe_writes(tmp_path):
    write_datasets(SEED, tmp_path / "puzzles.jsonl", tmp_path / "comparisons.csv")
    write_requests(SEED, tmp_path / "requests.jsonl")
    for name in ("puzzles.jsonl", "comparisons.csv", "requests.jsonl"):
        assert (tmp_path / name).read_text() == (ROOT / "resources/datasets" / name).read_text()

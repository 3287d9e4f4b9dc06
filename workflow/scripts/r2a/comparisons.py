"""Comparison pairs made from tables of facts: two questions with the same two candidates and opposite truths."""

import csv
import itertools
import random
from collections import Counter
from pathlib import Path

from r2a.store import whole_file

COLUMNS = ("uid", "query_a", "answer_a", "query_b", "answer_b", "domain", "kind", "template")


class FactError(Exception):
    """The tables of facts cannot be used; the message names the file and the remedy."""


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_comparisons(facts: Path, output: Path) -> None:
    """Write the pairs of all questions in `facts`/questions.csv, with the columns COLUMNS.

    A question asks either which entity has a value (asks_for entity) or which value an entity has; its facts are the
    rows of its attribute in `facts`/{domain}.csv. Raises FactError if there are too few, or if an entity has two
    values.
    """
    rows, numbers = [], Counter[str]()
    for question in read_table(facts / "questions.csv"):
        domain, attribute = question["domain"], question["attribute"]
        table = [row for row in read_table(facts / f"{domain}.csv") if row["attribute"] == attribute]
        values = {row["entity"]: row["value"] for row in table}
        if len(values) < len(table):
            raise FactError(f"{facts / domain}.csv: an entity has {attribute} twice; keep one row of it")
        chosen = choose_entities(values, int(question["n_pairs"]), f"{domain} {attribute}")
        if len(chosen) < int(question["n_pairs"]):
            raise FactError(f"{facts / domain}.csv: {attribute} gives only {len(chosen)} pairs; add entities")
        for number, entities in enumerate(chosen):
            row = {"uid": f"{domain}-{numbers[domain]:02d}", "domain": domain, "kind": question["kind"]}
            row["template"] = question["question"]
            rows.append(row | _queries(question, entities, values, number))
            numbers[domain] += 1
    with whole_file(output) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def choose_entities(values: dict[str, str], n_pairs: int, seed: str) -> list[tuple[str, str]]:
    """Pairs of entities with different values, in which entities and values are used evenly.

    No entity occurs twice with the same two values, because that would be the same question.
    """
    entities = random.Random(seed).sample(sorted(values), len(values))
    left = [pair for pair in itertools.combinations(entities, 2) if values[pair[0]] != values[pair[1]]]
    chosen: list[tuple[str, str]] = []
    uses: Counter[str] = Counter()
    asked: set[tuple[str, frozenset[str]]] = set()  # an entity and the two values, which make a question
    while left and len(chosen) < n_pairs:
        pair = min(left, key=lambda pair: sum(uses[entity] + uses[values[entity]] for entity in pair))
        left.remove(pair)
        candidates = frozenset(values[entity] for entity in pair)
        if asked.isdisjoint((entity, candidates) for entity in pair):
            chosen.append(pair)
            asked.update((entity, candidates) for entity in pair)
            uses.update(name for entity in pair for name in (entity, values[entity]))
    return chosen


def _queries(
    question: dict[str, str], entities: tuple[str, str], values: dict[str, str], number: int
) -> dict[str, str]:
    """Both sides of a question's pair. Every second pair names answer_b first.

    If answers are numbers, or yes and no, every other two pairs have the greater number, or yes, as answer_a.
    """
    if question["kind"] != "word" and (values[entities[0]] > values[entities[1]]) != (number // 2 % 2 == 0):
        entities = entities[::-1]
    answers = [entity if question["asks_for"] == "entity" else values[entity] for entity in entities]
    first, second = answers if number % 2 == 0 else reversed(answers)
    sides = {}
    for side, entity, answer in zip("ab", entities, answers, strict=True):
        asked = question["question"].format(entity=entity, value=values[entity])
        sides[f"query_{side}"] = f"{asked} Which is correct: {first} or {second}?"
        sides[f"answer_{side}"] = answer
    return sides

"""The shipped comparison pairs follow from the facts, are balanced, and are right by a second look."""

import calendar
import re
from collections import Counter
from pathlib import Path

import pytest

from r2a.comparisons import FactError, choose_entities, read_table, write_comparisons

ROOT = Path(__file__).parents[2]
FACTS = ROOT / "resources/comparisons"
PAIRS = read_table(ROOT / "resources/datasets/everyday_comparisons.csv")
QUERIES = {pair[f"query_{side}"]: pair[f"answer_{side}"] for pair in PAIRS for side in "ab"}


def candidates(query):
    return re.search(r" Which is correct: (\w+) or (\w+)\?$", query).groups()


def test_the_shipped_pairs_are_what_the_facts_give(tmp_path):
    write_comparisons(FACTS, tmp_path / "pairs.csv")
    assert (tmp_path / "pairs.csv").read_text() == (ROOT / "resources/datasets/everyday_comparisons.csv").read_text()


def test_both_questions_of_a_pair_name_the_same_two_candidates_one_each_its_answer():
    for pair in PAIRS:
        assert candidates(pair["query_a"]) == candidates(pair["query_b"])
        assert {pair["answer_a"], pair["answer_b"]} == set(candidates(pair["query_a"]))
        assert pair["answer_a"] != pair["answer_b"]


def test_no_question_occurs_twice():
    assert len(QUERIES) == 2 * len(PAIRS)


def test_there_are_twenty_pairs_in_each_of_fourteen_domains_and_every_kind():
    assert Counter(pair["domain"] for pair in PAIRS) == Counter(dict.fromkeys({p["domain"] for p in PAIRS}, 20))
    assert len({pair["domain"] for pair in PAIRS}) == 14
    assert min(Counter(pair["kind"] for pair in PAIRS).values()) >= 60


@pytest.mark.parametrize("column", ["domain", "kind"])
def test_the_right_candidate_stands_first_in_exactly_half_of_the_pairs(column):
    total = Counter(pair[column] for pair in PAIRS)
    first = Counter(pair[column] for pair in PAIRS if candidates(pair["query_a"])[0] == pair["answer_a"])
    assert {name: 2 * count for name, count in first.items()} == total


@pytest.mark.parametrize("kind", ["number", "yes_no"])
def test_the_greater_number_and_yes_are_answer_a_in_exactly_half_of_the_pairs_in_either_order(kind):
    asked = [pair for pair in PAIRS if pair["kind"] == kind]
    seen = Counter((candidates(p["query_a"])[0] == p["answer_a"], p["answer_a"] > p["answer_b"]) for p in asked)
    assert set(seen.values()) == {len(asked) / 4}


def test_answers_are_of_their_kind():
    patterns = {"word": "[A-Za-z]+", "number": "[0-9]", "yes_no": "yes|no"}
    for pair in PAIRS:
        assert re.fullmatch(patterns[pair["kind"]], pair["answer_a"])
        assert pair["kind"] != "word" or pair["answer_a"] not in ("yes", "no")


def test_a_second_look_at_every_question_found_the_same_answer():
    second = {row["query"]: row["answer"] for row in read_table(FACTS / "second_look.csv")}
    assert second == QUERIES


def solve(query):
    """The answer worked out from the text alone, or None if that takes knowledge."""
    asked = query.split("?")[0]
    months, days = list(calendar.month_name), list(calendar.day_name)
    yes = {True: "yes", False: "no"}
    if found := re.fullmatch(r"What is (\d+) (plus|minus|times|divided by) (\d+)", asked):
        left, word, right = int(found[1]), found[2], int(found[3])
        value = {"plus": left + right, "minus": left - right, "times": left * right, "divided by": left / right}[word]
        return str(int(value))
    if found := re.fullmatch(r"Is (\d+) an? (even|prime) number", asked):
        number = int(found[1])
        return yes[number % 2 == 0 if found[2] == "even" else all(number % k for k in range(2, number))]
    if found := re.search(r"(?:letters are in|Does) the word '(\w+)'", asked):
        word = found[1]
        if "letters" in asked:
            return str(len(word))
        return yes[word == word[::-1] if "backwards" in asked else "e" in word]
    if found := re.fullmatch(r"Which month comes right before (\w+)", asked):
        return months[months.index(found[1]) - 1 or 12]
    if found := re.fullmatch(r"Which day comes right after (\w+)", asked):
        return days[(days.index(found[1]) + 1) % 7]
    if found := re.fullmatch(r"Does (\w+) have 31 days", asked):
        return yes[calendar.monthrange(2025, months.index(found[1]))[1] == 31]
    if found := re.search(r"numbered from January as 1, which number does (\w+)", asked):
        return str(months.index(found[1]))
    return None


def test_answers_that_can_be_worked_out_are_right():
    solved = {query: answer for query in QUERIES if (answer := solve(query)) is not None}
    assert solved == {query: QUERIES[query] for query in solved}
    assert len(solved) == 2 * (20 + 20 + 12)  # arithmetic, calendar, and language without its opposites


def test_entities_and_values_are_used_evenly_and_no_question_is_made_twice():
    values = {"a": "1", "b": "1", "c": "2", "d": "2", "e": "3", "f": "3"}
    chosen = choose_entities(values, 3, "seed")
    assert sorted(entity for pair in chosen for entity in pair) == list("abcdef")
    assert all(values[a] != values[b] for a, b in chosen)
    many = choose_entities(values, 100, "seed")
    asked = [(entity, frozenset(values[e] for e in pair)) for pair in many for entity in pair]
    assert len(asked) == len(set(asked)) == 12  # each of six entities against either of the two other values


@pytest.mark.parametrize(
    ("facts", "message"),
    [("legs,dog,4\nlegs,dog,3\n", "an entity has legs twice"), ("legs,dog,4\n", "legs gives only 0 pairs")],
)
def test_facts_that_cannot_be_used_are_refused_by_name(tmp_path, facts, message):
    (tmp_path / "questions.csv").write_text(
        "domain,attribute,kind,asks_for,question,n_pairs\nanimals,legs,number,value,How many?,1\n"
    )
    (tmp_path / "animals.csv").write_text(f"attribute,entity,value\n{facts}")
    with pytest.raises(FactError, match=f"animals.csv: {message}"):
        write_comparisons(tmp_path, tmp_path / "out.csv")

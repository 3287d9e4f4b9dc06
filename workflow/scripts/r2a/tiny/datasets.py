"""The tiny study's data as files, in the same formats as users' own data."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from r2a.store import whole_file
from r2a.tiny.tasks import COMPARATORS, Example, sample_comparison_pairs, sample_puzzles

# puzzles per level of each area; none occurs in training
PUZZLE_COUNTS = {"compass": 16, "cups": 16, "lookup": 16}
N_PAIRS = 60
# requests per level of each area
REQUEST_COUNTS = {"compass": 2, "cups": 2, "lookup": 2}


def held_out_puzzles(seed: int) -> list[Example]:
    return sample_puzzles(seed, PUZZLE_COUNTS)


def write_datasets(seed: int, puzzles: Path, comparisons: Path) -> None:
    """Write the held-out puzzles as JSON Lines and the held-out comparison pairs as CSV."""
    write_problems(held_out_puzzles(seed), puzzles)
    write_pairs(sample_comparison_pairs(seed, N_PAIRS), COMPARATORS, "animals", comparisons)


def write_problems(examples: Sequence[Example], path: Path) -> None:
    """Write problems as JSON Lines, with uids numbered over all of them."""
    with whole_file(path) as partial, open(partial, "w") as file:
        for number, example in enumerate(examples):
            row = {"uid": f"{example.area}-{number:03d}", "problem": example.problem, "answer": example.answer}
            file.write(json.dumps(row | {"area": example.area, "level": example.level}) + "\n")


def write_pairs(
    pairs: Sequence[tuple[Example, Example, str]], comparators: Iterable[str], prefix: str, path: Path
) -> None:
    """Write pairs of questions (question a, question b, domain) as CSV; their uids begin with the prefix."""
    columns = ["uid", "query_a", "answer_a", "comparator_a", "query_b", "answer_b", "comparator_b", "domain"]
    with whole_file(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for number, (a, b, domain) in enumerate(pairs):
            row = {"uid": f"{prefix}-{number:03d}", "domain": domain}
            for side, example in (("a", a), ("b", b)):
                comparator = next(word for word in comparators if f" {word}:" in example.problem)
                row |= {
                    f"query_{side}": example.problem,
                    f"answer_{side}": example.answer,
                    f"comparator_{side}": comparator,
                }
            writer.writerow(row)


def write_requests(seed: int, path: Path) -> None:
    """Write open-ended requests as JSON Lines, each with a conversation and a checklist for a good answer.

    They ask what the puzzles ask, because the tiny models know nothing else. The last one of each area has an earlier
    turn.
    """
    examples = sample_puzzles(seed + 1, REQUEST_COUNTS)
    with whole_file(path) as partial, open(partial, "w") as file:
        for number, (example, following) in enumerate(zip(examples, [*examples[1:], None], strict=True)):
            conversation = [{"role": "user", "content": example.problem}]
            if following is None or following.area != example.area:
                earlier = examples[number - 1]
                said = [{"role": "user", "content": earlier.problem}]
                conversation = [*said, {"role": "assistant", "content": earlier.answer_text}, *conversation]
            checklist = [
                f"Does the answer come to {example.answer}?",
                "Does the answer take up what was asked last?",
                "Is the answer one clear sentence?",
            ]
            row = {"uid": f"request-{number:03d}", "conversation": conversation, "checklist": checklist}
            file.write(json.dumps(row | {"area": example.area}) + "\n")

r"""Grading by kind of answer, against facts and against the rulings of other graders' maintainers.

grading_kinds.csv: answers of each kind with the right ruling. grading_rulings.csv: what graders' public test files rule
on an answer in a box and a reference, one row per case with its source; why_we_differ says where we differ on purpose,
and contested_by names another source that rules such a case as we do.
"""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r2a.grading import Attempt, Verdict, grade_answers, unreadable_references
from r2a.grading.comparison import by_reading
from r2a.grading.notation import written
from r2a.grading.numbers import read_number

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
DATASETS = HERE.parents[1] / "resources" / "datasets"


def rows_of(name: str) -> list[dict[str, str]]:
    with open(HERE / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


KINDS, RULINGS = rows_of("grading_kinds.csv"), rows_of("grading_rulings.csv")
DIFFERING = [row for row in RULINGS if row["why_we_differ"]]


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str, str], Verdict]:
    attempts = [Attempt(row["answer_text"], row["reference"], row["problem"]) for row in KINDS]
    attempts += [Attempt(f"\\boxed{{{row['answer']}}}", row["reference"], row["problem"]) for row in RULINGS]
    found = grade_answers(attempts, seconds=5)
    return {(a.answer_text, a.reference, a.problem): verdict for a, verdict in zip(attempts, found, strict=True)}


def is_right(row: dict[str, str]) -> bool:
    return row["ruling"] == "right"


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in KINDS}))
def test_answers_of_each_kind_are_ruled_right_and_wrong_as_they_are(verdicts, kind):
    rows = [row for row in KINDS if row["kind"] == kind]
    found = [verdicts[row["answer_text"], row["reference"], row["problem"]] for row in rows]
    assert [row for row, verdict in zip(rows, found, strict=True) if bool(verdict.is_correct) != is_right(row)] == []


def agrees(verdicts: dict[tuple[str, str, str], Verdict], row: dict[str, str]) -> bool:
    verdict = verdicts[f"\\boxed{{{row['answer']}}}", row["reference"], row["problem"]]
    return verdict.is_correct is is_right(row)


def test_maintainers_rulings_are_ours_save_where_the_reason_is_told(verdicts):
    assert [row for row in RULINGS if not row["why_we_differ"] and not agrees(verdicts, row)] == []


def test_every_ruling_that_we_differ_from_is_one_still(verdicts):
    assert [row for row in DIFFERING if agrees(verdicts, row)] == []


def test_agreement_is_over_97_percent_of_all_rulings_and_99_percent_of_those_that_no_other_source_contradicts():
    uncontested = [row for row in DIFFERING if not row["contested_by"]]
    assert len(RULINGS) > 500
    assert len(DIFFERING) < 0.03 * len(RULINGS)
    assert len(uncontested) < 0.01 * len(RULINGS)


# ---- references


def test_every_reference_of_the_shipped_datasets_can_be_read():
    references = {}
    for path in sorted(DATASETS.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if "answer" in row:
                references[row["uid"]] = row["answer"]
    for path in sorted(DATASETS.glob("*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        for column in (name for name in table if name.startswith("answer")):
            references |= {f"{path.stem}-{column}-{row}": text for row, text in table[column].items()}
    assert len(references) > 500
    assert unreadable_references(references) == {}
    attempts = [Attempt(f"So \\boxed{{{reference}}}.", reference) for reference in references.values()]
    assert all(verdict.is_correct for verdict in grade_answers(attempts))


def test_every_published_reference_equals_itself(reference):
    answers = pd.read_parquet(reference / "math500_traces.parquet", columns=["answer"])["answer"].unique()
    verdicts = grade_answers([Attempt(f"$\\boxed{{ {answer} }}$", answer) for answer in answers])
    assert all(verdict.is_correct for verdict in verdicts)


@pytest.mark.parametrize(
    "reference",
    [r"1-\mathrm{i}", "125°", "No solution.", "第一象限", "9:00", "51 (trucks)", r"\{x \mid x \geq 0\}", "odd $n$",
     r"12 \mathrm{~min}",  r"\frac{5 \pm \sqrt{61}}{18}", "1,2,\\ldots,n", "x-axis"],
)  # fmt: skip
def test_reference_of_any_kind_is_readable_and_equals_itself(reference):
    assert unreadable_references({"only": reference}) == {}
    assert grade_answers([Attempt(f"\\boxed{{ {reference} }}", reference)])[0].is_correct


def test_unreadable_references_are_all_told_with_their_reason():
    references = {
        "good": "1",
        "none": None,
        "odd": r"\frac{",
        "long": "7" * 5000,
        "words": "No solution.",
        "blank": " ",
    }
    why = unreadable_references(references)
    assert list(why) == ["none", "odd", "long", "blank"]
    assert why["none"] == why["blank"] == "missing"
    assert r"\frac{" in why["odd"]
    assert "too long" in why["long"]


# ---- properties

NUMBERS = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.fractions(max_denominator=10**4).map(lambda value: rf"\frac{{{value.numerator}}}{{{value.denominator}}}"),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**6), max_value=10**6).map(str),
    st.integers(1000, 10**12).map(lambda value: f"{value:,}"),
)
UNITS = ["cm", "km", "kg", "seconds", "hours", "dollars", "cm^2", "miles per hour"]
REFERENCES = sorted({row["reference"] for row in [*KINDS, *RULINGS] if row["reference"].strip()})
WRAPPINGS = ["${}$", r"\({}\)", " {} ", r"\displaystyle {}", r"\left. {} \right.", r"{{{}}}", r"\!{}", "{}."]


@given(NUMBERS, NUMBERS)
def test_comparing_numbers_is_symmetric_and_exact(one, other):
    first, second = read_number(one), read_number(other)
    assert first is not None and second is not None
    assert by_reading(one, other, "") is by_reading(other, one, "")
    if first.value == second.value:
        assert by_reading(one, other, "") is True


@given(st.sampled_from(REFERENCES), st.sampled_from(WRAPPINGS))
def test_decoration_never_changes_an_answer(reference, wrapping):
    assert by_reading(wrapping.format(reference), reference, "") is not False


@given(st.sampled_from(REFERENCES))
def test_writing_a_text_again_changes_nothing(reference):
    once = written(reference)
    assert written(once) == once


@given(st.integers(1, 10**6), st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_answer_in_another_unit_is_wrong_and_in_none_is_right(value, unit, other):
    assert by_reading(f"{value}", rf"{value}\text{{ {unit}}}", "") is True
    assert by_reading(rf"{value}\text{{ {unit}}}", f"{value}", "") is True
    assert by_reading(rf"{value}\text{{ {unit}}}", rf"{value}\text{{ {other}}}", "") is (unit == other)


@given(st.integers(1, 10**6))
def test_converted_units_are_right(value):
    assert by_reading(rf"{value}\text{{ km}}", rf"{1000 * value}\text{{ m}}", "") is True
    assert by_reading(rf"{60 * value}\text{{ minutes}}", rf"{value}\text{{ hours}}", "") is True
    assert by_reading(rf"{value}\text{{ km}}", rf"{10 * value}\text{{ m}}", "") is False


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True), st.randoms())
def test_order_counts_in_tuples_and_not_in_sets(values, rng):
    shuffled = rng.sample(values, len(values))
    text, other = (", ".join(map(str, part)) for part in (values, shuffled))
    assert by_reading(rf"\{{{other}\}}", rf"\{{{text}\}}", "") is True
    assert by_reading(f"({other})", f"({text})", "") is (shuffled == values)


@settings(max_examples=300)
@given(st.text(max_size=40), st.text(max_size=40))
@example("\\text{", "}{")
@example("[", ")")
def test_no_text_makes_reading_crash(answer, reference):
    by_reading(answer, reference, reference)
    by_reading(reference, reference, "")


@settings(max_examples=300)
@given(st.text(alphabet="\\{}()[]$^_,;:=<>|.%0123abx frac", max_size=30))
def test_no_latex_makes_reading_crash(text):
    by_reading(text, "x = 3", "")
    assert by_reading(text, text, "") is not False or not written(text)

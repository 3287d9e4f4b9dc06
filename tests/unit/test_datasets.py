"""Reading problems and pairs from files in the formats that users have."""

import json

import pandas as pd
import pytest

from r2a.config import Dataset
from r2a.datasets import DatasetError, load_dataset


def settings(path, kind="problems", **changes):
    entry = Dataset(kind=kind, path=str(path), **changes).model_dump(exclude={"label", "instruction"})
    return entry | {"stage": "datasets", "version": 1, "study": "test", "seed": 1, "dataset": "mine"}


def load(tmp_path, chosen):
    load_dataset(tmp_path / "out.parquet", chosen)
    return pd.read_parquet(tmp_path / "out.parquet")


ROWS = [
    {"unique_id": f"p{k}", "q": [{"content": f"problem {k}"}], "gold": k, "subject": "Math" if k % 2 else "Art"}
    for k in range(6)
]
FIELDS = {"uid": "unique_id", "problem": "q.0.content", "answer": "gold", "area": "subject", "level": None}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_fields_are_mapped_and_nested_values_reached(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        pd.DataFrame(ROWS).to_parquet(path)
    table = load(tmp_path, settings(path, fields=FIELDS))
    assert list(table["problem"]) == [f"problem {k}" for k in range(6)]
    assert list(table["answer"]) == ["0", "1", "2", "3", "4", "5"]
    assert table["level"].isna().all()


def test_areas_are_renamed_and_null_leaves_them_out(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    table = load(tmp_path, settings(path, fields=FIELDS, areas={"Math": None, "Art": "Arts"}))
    assert list(table["uid"]) == ["p0", "p2", "p4"]
    assert set(table["area"]) == {"Arts"}
    with pytest.raises(DatasetError, match="areas without an entry: Math"):
        load(tmp_path, settings(path, fields=FIELDS, areas={"Art": "Arts"}))


def test_a_part_is_drawn_by_the_seed(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    drawn = [
        load(tmp_path, settings(path, fields=FIELDS, n_problems=3) | {"seed": s})["uid"].tolist() for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 3


def test_missing_columns_and_repeated_uids_are_told_with_the_file(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS + ROWS[:1])))
    with pytest.raises(DatasetError, match=r"data\.jsonl: row 1 has no problem; name the right column"):
        load(tmp_path, settings(path, fields=FIELDS | {"problem": "problem"}))
    with pytest.raises(
        DatasetError, match=r"data\.jsonl: 2 rows \(p0, p0, \.\.\.\) have a uid that occurs more than once"
    ):
        load(tmp_path, settings(path, fields=FIELDS))


def test_pairs_become_two_problems_with_their_comparators(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("query_a,answer_a,query_b,answer_b,domain\nbig?,cow,small?,ant,size\n")
    table = load(tmp_path, settings(path, kind="comparison_pairs"))
    assert table[["uid", "pair", "side", "answer", "comparator"]].to_numpy().tolist() == [
        ["pair-0001.a", "pair-0001", "a", "cow", "correct"],
        ["pair-0001.b", "pair-0001", "b", "ant", "correct"],
    ]


def test_pairs_of_one_answer_are_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("query_a,answer_a,query_b,answer_b,domain\nbig?,cow,small?,cow,size\n")
    with pytest.raises(DatasetError, match="answers are the same or missing"):
        load(tmp_path, settings(path, kind="comparison_pairs"))


def test_the_published_pairs_load_as_they_are(tmp_path, reference):
    table = load(tmp_path, settings(reference / "coc_pairs.csv", kind="comparison_pairs"))
    assert len(table) == 2 * 99

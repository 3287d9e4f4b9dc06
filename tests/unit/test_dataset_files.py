"""Text stays text, whatever the file: values are read as written, and what is not text is refused with a remedy."""

import csv
import datetime
import decimal
import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2a.datasets import DatasetError, load_dataset
from r2a.study.subjects import Dataset

COLUMNS = ["uid", "problem", "answer", "area", "level"]
PLAIN = {"area": None, "level": None}


def load(path, kind="problems", **changes):
    entry = Dataset(kind=kind, path=str(path), **changes).model_dump(exclude={"label", "instruction"})
    load_dataset(path.parent / "out.parquet", entry | {"seed": 1, "dataset": "mine"})
    return pd.read_parquet(path.parent / "out.parquet")


def answers(path, **changes):
    """The answers read from a file without areas and levels, whether or not any could be graded."""
    return load(path, "open_ended", fields={"area": None, "level": None}, **changes)["answer"].tolist()


def write_csv(path, rows, delimiter=",", **options):
    with open(path, "w", newline="", **options) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["uid", "problem", "answer"])
        writer.writerows(rows)


# ---- what is written is what is read

WORDS = [
    "null", "None", "NA", "N/A", "nan", "NaN", "NULL", "#N/A", "-", "true", "True", "FALSE", "yes", "025", "007", "+5",
    "9", "9.80", "1e5", "1E-3", ".5", "5.", "-0", "0", "9007199254740993", "2.5", "123456789012345678901234567", "inf",
    "2023-05-01", "2024-01-31", "12:30", "1/2", "1_000", "1,000", "0x1F", "$3", "100%", " padded ", "'5", "=1+1",
    "é再🙂", "['2']", '{"a": 1}', "a\nb", 'say "x"', "\u2028", "\x85", "a\tb;c|d", "\ufeff", "~",
]  # fmt: skip


@pytest.mark.parametrize(
    "suffix",
    [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow", ".csv.gz", ".jsonl.zst", ".JSONL"],
)
def test_words_that_look_like_other_types_stay_texts(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    rows = [[f"{number:03d}", f"{word}?", word] for number, word in enumerate(WORDS)]
    objects = [dict(zip(COLUMNS, row, strict=False)) for row in rows]
    if "json" in suffix.lower():
        text = json.dumps(objects, indent=1) if suffix == ".json" else "\n".join(map(json.dumps, objects))
        (tmp_path / "text").write_text(text)
    elif suffix == ".parquet":
        pd.DataFrame(objects).to_parquet(path)
    elif suffix == ".arrow":
        pd.DataFrame(objects).to_feather(path)
    else:
        write_csv(tmp_path / "text", rows, "\t" if suffix == ".tsv" else ",")
    if suffix.endswith(".gz"):
        path.write_bytes(gzip.compress((tmp_path / "text").read_bytes()))
    elif suffix.endswith(".zst"):
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write((tmp_path / "text").read_bytes())
    elif suffix not in (".parquet", ".arrow"):
        path.write_bytes((tmp_path / "text").read_bytes())
    table = load(path, "open_ended", fields={"area": None, "level": None})
    assert table["answer"].tolist() == WORDS
    assert table["problem"].tolist() == [f"{word}?" for word in WORDS]
    assert table["uid"].tolist() == [row[0] for row in rows]


NUMBERS = "9007199254740993 2.5 2.50 12345678901234567890123 -0 1e5 1E400 0.1 true false Infinity".split()  # noqa: SIM905


def test_numbers_of_json_keep_their_digits(tmp_path):
    lines = [f'{{"uid": {k}, "problem": {number}, "answer": {number}}}' for k, number in enumerate(NUMBERS)]
    for name, text in (("a.jsonl", "\n".join(lines)), ("a.json", f"[{', '.join(lines)}]")):
        (tmp_path / name).write_text(text)
        assert answers(tmp_path / name) == NUMBERS
    long = "7" * 6000
    (tmp_path / "b.jsonl").write_text(f'{{"uid": 0, "problem": "p", "answer": {long}}}')
    assert answers(tmp_path / "b.jsonl") == [long]


def test_numbers_of_parquet_are_exact_by_their_own_precision(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {
        pa.int64(): (9007199254740993, "9007199254740993"), pa.uint64(): (2**64 - 1, str(2**64 - 1)),
        pa.float64(): (9.8, "9.8"), pa.float32(): (9.8, "9.8"), pa.float16(): (0.5, "0.5"), pa.bool_(): (True, "true"),
        pa.decimal128(5, 2): (decimal.Decimal("9.80"), "9.80"), pa.date32(): (datetime.date(2023, 5, 1), "2023-05-01"),
        pa.large_string(): ("NA", "NA"), pa.dictionary(pa.int8(), pa.string()): ("001", "001"),
        pa.string_view(): ("9.80", "9.80"),
    }  # fmt: skip
    for kind, (value, text) in columns.items():
        table = pa.table({"uid": ["1"], "problem": ["p"], "answer": pa.array([value], kind)})
        pq.write_table(table, path)
        assert answers(path) == [text], kind
    pq.write_table(pa.table({"uid": ["1", "2"], "problem": ["p", "q"], "answer": ["a", "b"], "l": [1.0, None]}), path)
    chosen = load(path, fields={"area": None, "level": "l"}, filter={"level": [1]})
    assert chosen["level"].tolist() == ["1"]  # whole numbers that pandas made floats because one is missing


def test_levels_beside_an_empty_one_are_still_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("uid,problem,answer,area,level\n001,p,025,A,1\n002,q,9.80,A,2\n003,r,9,A,\n")
    assert load(path, filter={"level": [1]})["uid"].tolist() == ["001"]
    assert load(path)["level"].isna().tolist() == [False, False, True]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.mark.slow
@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=5))
@settings(max_examples=150)
def test_any_text_comes_through_any_format(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    rows = [[str(number), text, text] for number, text in enumerate(texts)]
    objects = [dict(zip(COLUMNS, row, strict=False)) for row in rows]
    write_csv(folder / "a.csv", rows, encoding="utf-8")
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in objects), "utf-8")
    pd.DataFrame(objects).to_parquet(folder / "a.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        assert answers(folder / f"a.{suffix}") == texts, suffix


# ---- delimiters, encodings, and other ways to write a table


@pytest.mark.parametrize("delimiter", list(",;\t|"))
def test_the_delimiter_is_found_by_the_columns(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    write_csv(path, [["1", "a, b; c | d\te", "1,5"], ["2", "q", "2"]], delimiter)
    assert load(path, fields={"area": None, "level": None})["problem"].tolist() == ["a, b; c | d\te", "q"]


def test_the_delimiter_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("uid^problem^answer\n1^p,q^3\n")
    assert answers(path, delimiter="^") == ["3"]
    with pytest.raises(DatasetError, match=r"a\.csv: row 1 has no uid.*there are: uid\^problem\^answer"):
        answers(path, delimiter=";")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_unicodes_other_encodings_are_read(tmp_path, encoding, suffix):
    text = (
        'uid,problem,answer\r\n1,é?,"a\r\nb"\r\n'
        if suffix == "csv"
        else '{"uid": 1, "problem": "é?", "answer": "a\\r\\nb"}'
    )
    (tmp_path / f"a.{suffix}").write_bytes(text.encode(encoding))
    assert answers(tmp_path / f"a.{suffix}") == ["a\r\nb"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_another_encoding_is_told_with_the_byte(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes("uid,problem,answer\n1,caf\xe9,3\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"byte 24 \(line 2\) is 0xe9, which is not UTF-8; save the file as UTF-8"):
        answers(tmp_path / f"a.{suffix}")


def test_json_lines_may_be_an_array_and_an_array_lines(tmp_path):
    rows = [{"uid": "1", "problem": "p", "answer": "a"}, {"uid": "2", "problem": "q", "answer": "b"}]
    for name in ("a.json", "a.jsonl"):
        for text in (json.dumps(rows), "\n\n".join(map(json.dumps, rows)) + "\n", json.dumps(rows, indent=2)):
            (tmp_path / name).write_text(text)
            assert answers(tmp_path / name) == ["a", "b"]
    (tmp_path / "a.json").write_text("\n".join(json.dumps(row, indent=2) for row in rows))
    assert answers(tmp_path / "a.json") == ["a", "b"]


# ---- names with dots, and values that are no text


def test_a_name_with_dots_comes_before_a_path(tmp_path):
    rows = [
        {"id": 1, "q.text": "flat", "a": {"b.c": [{"d": "in"}]}},
        {"id": 2, "q.text": "flat", "q": {"text": "nested"}, "a": {"b": {"c": ["no"]}, "b.c": [{"d": "in"}]}},
    ]
    fields = {"uid": "id", "problem": "q.text", "answer": "a.b.c.0.d", "area": None, "level": None}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame(rows[:1]).to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path / "a.jsonl", fields=fields)[["problem", "answer"]].to_numpy().tolist() == [["flat", "in"]] * 2
    assert load(tmp_path / "a.parquet", fields=fields)["answer"].tolist() == ["in"]
    (tmp_path / "b.csv").write_text("id,q.text,a.b.c.0.d\n1,p,x\n")
    assert load(tmp_path / "b.csv", fields=fields)["answer"].tolist() == ["x"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["2"], r"row 1 is a list of 1; name one of its entries, e\.g\. answer\.0"),
        (["3", "4"], r"is a list of 2.*answer\.0"),
        ([], r"is a list of 0"),
        ({"value": "2", "unit": "cm"}, r"is a record of value, unit; name one of its parts, e\.g\. answer\.value"),
        ("\ud83d", "contains half of a surrogate pair"),
    ],
)
def test_a_value_that_is_no_text_is_refused_with_the_way_inside(tmp_path, value, said):
    (tmp_path / "a.jsonl").write_text(json.dumps({"uid": 1, "problem": "p", "answer": value}))
    with pytest.raises(DatasetError, match=said):
        answers(tmp_path / "a.jsonl")
    if isinstance(value, list | dict) and value:
        pd.DataFrame([{"uid": 1, "problem": "p", "answer": value}]).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(DatasetError, match=said):
            answers(tmp_path / "a.parquet")


def test_bytes_are_refused_and_every_column_that_is_no_text_is_told(tmp_path):
    row = {"uid": 1, "problem": ["p"], "answer": b"2", "area": {"a": 1}, "level": None}
    pd.DataFrame([row, row]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DatasetError) as error:
        load(tmp_path / "a.parquet")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    for line, part in zip(lines, ("e.g. problem.0", "contains bytes", "e.g. area.a"), strict=True):
        assert part in line and "each of 2 rows (1, 2)" in line


def test_a_reference_that_is_no_number_is_missing_and_told(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"uid": "a", "problem": "p", "answer": NaN}\n{"uid": "b", "problem": "q", "answer": 3}'
    )
    pd.DataFrame({"uid": ["a", "b"], "problem": ["p", "q"], "answer": [float("nan"), 3]}).to_parquet(
        tmp_path / "a.parquet"
    )
    (tmp_path / "a.csv").write_text("uid,problem,answer\na,p,\nb,q,3\n")
    for suffix in ("jsonl", "parquet", "csv"):
        with pytest.raises(DatasetError, match=r"(?s)1 references cannot be compared.*row 1, a: missing"):
            load(tmp_path / f"a.{suffix}", fields={"area": None, "level": None})


def test_pairs_are_called_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("uid,query_a,answer_a,query_b,answer_b\n1,p,01,q,1\n0,r,NA,s,null\n")
    table = load(tmp_path / "a.csv", kind="comparison_pairs")
    assert table["uid"].tolist() == ["1.a", "1.b", "0.a", "0.b"]
    assert table["answer"].tolist() == ["01", "1", "NA", "null"]
    rows = [{"uid": uid, "query_a": "p", "answer_a": 2, "query_b": "q", "answer_b": 3.50} for uid in (0, None)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load(tmp_path / "a.jsonl", kind="comparison_pairs")["pair"].tolist() == ["0", "0", "pair-0002", "pair-0002"]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0] | {"answer_b": ["3"]}))
    with pytest.raises(DatasetError, match=r"is a list.*answer_b\.0"):
        load(tmp_path / "a.jsonl", kind="comparison_pairs")


# ---- files that cannot be read are reported in words

BAD = {
    "a.csv": {
        "uid,problem,answer\n1,p,2,3\n2,q\n3,r,4\n": r"header has 3 columns, and line 2 has 4, line 3 has 2; correct",
        'uid,problem,answer\n1,"p,2\n2,q,3\n': r"line 3: unexpected end of data; correct the quotation marks",
        'uid,problem,answer\n1,"p"q,2\n': r"line 2: .*; correct the quotation marks",
        "uid,problem,answer,answer\n1,p,2,3\n": r"several columns are called answer",
        "uid,problem,answer\n": "has no rows",
        "": "has no rows",
        "\n\n": "has no rows",
    },
    "a.jsonl": {
        '{"uid": 1}\n[1]\n"x"\n': r"line 2 is not an object, line 3 is not an object; give one JSON object per line",
        '{"uid": 1\n{"uid": 2}\n{"uid"': r"line 1 is not JSON \(.*\), line 3 is not JSON",
        '{"uid": 1, "answer": 2, "answer": 3}': r"line 1 is not JSON \(the key answer occurs twice in an object\)",
        "[" * 100_000: "line 1 is not JSON",
        "": "has no rows",
        "[]": "has no rows",
    },
    "a.json": {
        '[{"uid": 1}, 5]': "entry 2 is not an object",
        '[{"uid": 1},\n {"uid": ]': "line 2 is not JSON",
        '{"data": [{"uid": 1}]}': r"row 1 has no uid; name the right column under fields \(there are: data\)",
        "5": "value 1 is not an object",
    },
    "a.jsonl.gz": {"not packed": "cannot be unpacked"},
    "a.csv.zst": {"not packed": "cannot be unpacked"},
    "a.parquet": {"PAR1": "cannot be read"},
    "a.arrow": {"ARROW1 or not": "cannot be read", "x" * 99: "cannot be read", "": "cannot be read"},
    "b.parquet.gz": {"x": "is packed again, which only text files may be; unpack it"},
    "b.csv": {
        "PAR1 and so on": r"is Parquet \(\.parquet\), not text; unpack it, or name it by what it is",
        "PK\x03\x04": "is a ZIP archive or a spreadsheet, not text",
        "BZh9": r"is bzip2 \(\.bz2\), not text",
    },
    "a.xlsx": {"PK": r"is a spreadsheet, whose cells are typed; save the sheet as CSV \(UTF-8\)"},
    "a.zip": {"PK": "is an archive; unpack it"},
    "a.txt": {"x": r"unknown kind of file; use one of \.jsonl"},
    "b.jsonl": {"version https://git-lfs.github.com/spec/v1\noid sha256:1": "is a Git LFS pointer.*git lfs pull"},
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_file_that_cannot_be_read_is_told_with_place_and_remedy(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=rf"{name}: .*{BAD[name][text]}"):
        answers(tmp_path / name)


def test_a_file_that_is_not_there_or_packed_twice_is_told(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.csv: cannot be read \(No such file or directory\); correct path"):
        answers(tmp_path / "a.csv")
    (tmp_path / "a.csv").symlink_to("nowhere.csv")
    with pytest.raises(DatasetError, match=r"a\.csv: cannot be read \(No such file or directory\); correct path"):
        answers(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(gzip.compress(b"uid,problem,answer\n1,p,2\n")))
    with pytest.raises(DatasetError, match=r"a\.csv\.gz: is gzip \(\.gz\), not text"):
        answers(tmp_path / "a.csv.gz")


def test_columns_of_one_name_are_told_in_parquet_too(tmp_path):
    columns = [pa.array([text]) for text in ("1", "p", "2", "3")]
    pq.write_table(pa.Table.from_arrays(columns, ["uid", "problem", "answer", "answer"]), tmp_path / "a.parquet")
    with pytest.raises(
        DatasetError, match=r"a\.parquet: several columns are called answer; give each one its own name"
    ):
        answers(tmp_path / "a.parquet")


@pytest.mark.parametrize("is_split", [False, True])
def test_what_save_to_disk_wrote_is_read(tmp_path, is_split):
    rows = datasets.Dataset.from_list([{"uid": "001", "problem": "p", "answer": "NA", "parts": [{"a": 1}]}])
    (datasets.DatasetDict(test=rows) if is_split else rows).save_to_disk(tmp_path / "saved")
    table = load(tmp_path / "saved", "open_ended", fields=PLAIN, split="test" if is_split else "train")
    assert table[["uid", "answer"]].to_numpy().tolist() == [["001", "NA"]]


def test_a_folder_that_holds_a_script_is_told_as_such(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.py").write_text("raise SystemExit\n")
    with pytest.raises(
        DatasetError, match=r"mine: Dataset scripts are no longer supported.*; correct subset, or name a f"
    ):
        load(tmp_path / "mine")


def test_a_thousand_unreadable_references_are_counted_and_a_hundred_named(tmp_path):
    rows = [{"uid": number, "problem": "p", "answer": None} for number in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DatasetError, match=r"1000 references cannot be compared") as error:
        load(tmp_path / "a.jsonl", fields=PLAIN)
    assert str(error.value).count("\n") == 101 and str(error.value).endswith("  and 900 more")


@pytest.mark.parametrize(
    ("changed", "settings", "said"),
    [
        ({"problem": None}, {"fields": PLAIN | {"wrong_answers": ["wrong"]}}, "1 has no problem text; correct it"),
        ({"problem": " "}, {"fields": PLAIN | {"wrong_answers": ["wrong"]}}, "1 has no problem text; correct it"),
        ({"wrong": " 2\n"}, {"fields": PLAIN | {"wrong_answers": ["wrong"]}}, "answers of 1 are missing or equal"),
        ({"uid": None}, {}, r"1 rows \(null, \.\.\.\) have a uid that occurs more than once, or none"),
        ({"area": None}, {"areas": {"A": "B"}}, r"1 rows \(1, \.\.\.\) have no area; correct them"),
    ],
)
def test_what_a_setting_needs_of_a_row_is_told_where_it_is_missing(tmp_path, changed, settings, said):
    row = {"uid": "1", "problem": "p", "answer": "2", "wrong": "3", "area": "A", "level": "1"}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [row | {"uid": "0"}, row | changed])))
    with pytest.raises(DatasetError, match=said):
        load(tmp_path / "a.jsonl", **settings)


def test_a_torn_parquet_file_is_told(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"uid": ["1"], "problem": ["p"], "answer": ["a"]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"a\.parquet: cannot be read"):
        answers(path)


def test_a_folder_of_several_files_is_read_as_text(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test-1.csv").write_text("uid,problem,answer\n001,p,NA\n")
    (tmp_path / "data/test-2.csv").write_text("uid,problem,answer\n002,q,025\n")
    entry = Dataset(kind="open_ended", path=str(tmp_path / "data"), fields={"area": None, "level": None})
    chosen = entry.model_dump(exclude={"label", "instruction"}) | {"seed": 1, "dataset": "mine"}
    load_dataset(tmp_path / "out.parquet", chosen)
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table[["uid", "answer"]].to_numpy().tolist() == [["001", "NA"], ["002", "025"]]
    with pytest.raises(DatasetError, match="has no split train; there are: test"):
        load_dataset(Path(tmp_path / "out.parquet"), chosen | {"split": "train"})

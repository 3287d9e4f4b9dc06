"""Reading problems and pairs from files in the formats that users have."""

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import httpx
import huggingface_hub
import pandas as pd
import pytest
import yaml

from r2a.datasets import DatasetError, load_dataset
from r2a.grading import Attempt, grade_answers
from r2a.store import read_provenance
from r2a.study import Dataset, load_study

ROOT = Path(__file__).parents[2]


def settings(path, kind="problems", **changes):
    entry = Dataset(kind=kind, path=str(path), **changes).model_dump(exclude={"label", "instruction"})
    return entry | {"stage": "datasets", "version": 2, "study": "test", "seed": 1, "dataset": "mine"}


def example(name, folder, config="config/examples/benchmarks.yaml", **changes):
    """The entry of an example configuration, with a local folder in place of the hub."""
    entry = yaml.safe_load((ROOT / config).read_text())["datasets"][name]
    del entry["hub"]
    return settings(folder, **(entry | changes))


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


def test_a_filter_keeps_areas_as_renamed_and_levels(tmp_path):
    rows = [row | {"level": k % 3} for k, row in enumerate(ROWS)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    fields, areas = FIELDS | {"level": "level"}, {"Math": "Maths", "Art": "Arts"}
    chosen = settings(path, fields=fields, areas=areas, filter={"area": ["Maths"], "level": [0, "1"]})
    assert list(load(tmp_path, chosen)["uid"]) == ["p1", "p3"]
    drawn = load(tmp_path, settings(path, fields=fields, filter={"level": [0, 1]}, n_problems=2))
    assert len(drawn) == 2
    assert set(drawn["level"]) <= {"0", "1"}
    with pytest.raises(DatasetError, match=r"no problem has level 9, which filter asks for; there are: 0, 1, 2"):
        load(tmp_path, settings(path, fields=fields, filter={"level": [9]}))


def test_missing_columns_and_repeated_uids_are_told_with_the_file(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS + ROWS[:1])))
    with pytest.raises(
        DatasetError, match=r"data\.jsonl: each of 7 rows \(1, 2, 3 and 4 more\) has no problem; name"
    ) as e:
        load(tmp_path, settings(path, fields=FIELDS | {"problem": "problem"}))
    assert "there are: unique_id, q, gold, subject" in str(e.value)
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


@pytest.mark.parametrize(
    ("answers", "kind"),
    [(("4", "5"), "number"), (("1,000", "-2.5"), "number"), (("No", "yes"), "yes_no"), (("a", "b"), "word")],
)
def test_a_pairs_kind_is_read_off_its_answers_where_it_is_no_column(tmp_path, answers, kind):
    path = tmp_path / "pairs.jsonl"
    row = {"query_a": "p", "answer_a": answers[0], "query_b": "q", "answer_b": answers[1]}
    path.write_text(json.dumps(row))
    assert set(load(tmp_path, settings(path, kind="comparison_pairs"))["kind"]) == {kind}
    path.write_text(json.dumps(row | {"kind": "riddle"}))
    assert set(load(tmp_path, settings(path, kind="comparison_pairs"))["kind"]) == {"riddle"}


def test_the_shipped_pairs_load_with_their_domains_and_kinds(tmp_path):
    table = load(tmp_path, settings(ROOT / "resources/datasets/everyday_comparisons.csv", kind="comparison_pairs"))
    assert (len(table), table["area"].nunique(), table["kind"].nunique()) == (560, 14, 3)
    assert {"yes", "no", "0", "9"} <= set(table["answer"])  # none of them read as a boolean or a float


def test_pairs_of_one_answer_are_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("query_a,answer_a,query_b,answer_b,domain\nbig?,cow,small?,cow,size\n")
    with pytest.raises(DatasetError, match="answers are the same or missing"):
        load(tmp_path, settings(path, kind="comparison_pairs"))


def test_the_published_pairs_load_as_they_are(tmp_path, reference):
    table = load(tmp_path, settings(reference / "coc_pairs.csv", kind="comparison_pairs"))
    assert len(table) == 2 * 99


# ---- folders laid out as on the hub


@pytest.fixture
def gsm8k(tmp_path):
    """openai/gsm8k: Parquet files of two subsets, named in the dataset's card."""
    folder = tmp_path / "gsm8k"
    rows = [
        {"question": f"How many are {k} and 1,000?", "answer": f"{k}+1000=<<{k}+1000={1000 + k}>>.\n#### 1,00{k}"}
        for k in range(5)
    ]
    for subset in ("main", "socratic"):
        (folder / subset).mkdir(parents=True)
        for split in ("train", "test"):
            pd.DataFrame(rows).to_parquet(folder / subset / f"{split}-00000-of-00001.parquet")
    files = "".join(
        f"- config_name: {subset}\n  data_files:\n"
        f"  - {{split: train, path: {subset}/train-*}}\n  - {{split: test, path: {subset}/test-*}}\n"
        for subset in ("main", "socratic")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{files}---\n# GSM8K\n")
    return folder


def test_gsm8k_gives_its_final_numbers_and_numbered_rows(tmp_path, gsm8k):
    table = load(tmp_path, example("gsm8k", gsm8k))
    assert list(table["uid"]) == [f"problem-{k:05d}" for k in range(1, 6)]
    assert list(table["answer"]) == [f"1,00{k}" for k in range(5)]
    with pytest.raises(DatasetError, match=r"5 answers \(problem-00001, .*have no '%%%%'"):
        load(
            tmp_path,
            example(
                "gsm8k",
                gsm8k,
                fields={"uid": None, "problem": "question", "answer_after": "%%%%"} | dict.fromkeys(("area", "level")),
            ),
        )


def test_aime_is_read_from_its_folder(tmp_path):
    (tmp_path / "aime/data").mkdir(parents=True)
    rows = [
        {"id": 60 + k, "problem": f"Find ${k}$.", "solution": "So.", "answer": f"0{k}", "url": "u", "year": "2024"}
        for k in range(3)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "aime/data/train-00000-of-00001.parquet")
    table = load(tmp_path, example("aime24", tmp_path / "aime"))
    assert table[["uid", "problem", "answer"]].to_numpy().tolist()[1] == ["61", "Find $1$.", "01"]


def test_math_500_is_read_from_its_folder_with_subjects_and_levels(tmp_path):
    """HuggingFaceH4/MATH-500: one file of JSON lines."""
    (tmp_path / "math").mkdir()
    subjects = ["Algebra", "Number Theory", "Algebra"]
    rows = [
        {"problem": f"Find ${k}$.", "solution": "So.", "answer": f"\\frac{{{k}}}{{2}}", "subject": subject, "level": k}
        | {"unique_id": f"test/algebra/{k}.json"}
        for k, subject in enumerate(subjects, 1)
    ]
    (tmp_path / "math/test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = load(tmp_path, example("math500", tmp_path / "math", "config/paper.yaml"))
    assert table.to_numpy().tolist()[1] == ["test/algebra/2.json", "Find $2$.", "\\frac{2}{2}", "Number Theory", "2"]
    assert list(table["area"]) == subjects


def test_wildbench_is_read_by_subset_in_the_papers_areas_and_without_earlier_turns(tmp_path):
    """allenai/WildBench: one Parquet file per subset, named in the card; Math and longer conversations are left out."""
    folder = tmp_path / "wildbench"
    (folder / "v2").mkdir(parents=True)
    turn = {"content": "Plan a day.", "role": "user", "language": "English", "redacted": False, "toxic": False}
    turns = {"one": [turn], "two": [turn, turn | {"role": "assistant"}, turn]}
    rows = [
        {"id": f"{tag}-{kind}", "session_id": "s", "conversation_input": said, "checklist": ["Is it a day?", "Whole?"]}
        | {"references": {"gpt-4": "Sleep."}, "length": 1, "intent": "i", "primary_tag": tag, "secondary_tags": ["t"]}
        for tag in ("Planning", "Role playing", "Math")
        for kind, said in turns.items()
    ]
    pd.DataFrame(rows).to_parquet(folder / "v2/test-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- {config_name: v2, data_files: [{split: test, path: v2/test-*}]}\n---\n"
    )
    table = load(tmp_path, example("wildbench", folder, "config/paper.yaml"))
    found = table.set_index("uid")
    assert found["area"].to_dict() == {"Planning-one": "Reasoning & Planning", "Role playing-one": "Creative Tasks"}
    assert set(found["problem"]) == {"Plan a day."} and set(found["history"]) == {""}
    assert [list(points) for points in found["checklist"]] == [["Is it a day?", "Whole?"]] * 2


@pytest.fixture
def gpqa(tmp_path):
    """Idavidrein/gpqa: one CSV file per subset, named in the card."""
    folder = tmp_path / "gpqa"
    folder.mkdir()
    columns = ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
    domains = ("Physics", "Chemistry", "Biology")
    rows = [
        {"Record ID": f"rec{k}", "Question": f"Question {k}?", "High-level domain": domains[k % 3]}
        | {column: f"{column} of {k}\n" for column in columns}
        for k in range(40)
    ]
    for subset in ("gpqa_main", "gpqa_diamond"):
        pd.DataFrame(rows).to_csv(folder / f"{subset}.csv", index=False)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- {config_name: gpqa_main, data_files: gpqa_main.csv}\n"
        "- {config_name: gpqa_diamond, data_files: gpqa_diamond.csv}\n---\n"
    )
    return folder


def test_gpqa_becomes_lettered_choices_whose_order_the_seed_draws(tmp_path, gpqa):
    chosen = example("gpqa", gpqa)
    table = load(tmp_path, chosen)
    for row in table.itertuples():
        question, *choices = row.problem.split("\n")
        number = row.uid.removeprefix("rec")
        assert question == f"Question {number}?"
        right = [line for line in choices if line.endswith(f" Correct Answer of {number}")]
        assert right == [f"({row.answer}) Correct Answer of {number}"]
        assert [line[:3] for line in choices if line] == ["(A)", "(B)", "(C)", "(D)"]
        assert len(set(choices)) == 1 + 4
    assert table["answer"].value_counts().between(4, 20).all()
    assert set(table["answer"]) == set("ABCD")
    assert list(load(tmp_path, chosen)["answer"]) == list(table["answer"])
    assert list(load(tmp_path, chosen | {"seed": 2})["answer"]) != list(table["answer"])
    assert len(load(tmp_path, example("gpqa", gpqa, filter={"area": ["Biology"]}))) == 13


def test_choices_that_are_the_same_are_refused(tmp_path, gpqa):
    fields = {"uid": "Record ID", "problem": "Question", "answer": "Correct Answer", "area": None, "level": None}
    with pytest.raises(DatasetError, match="answers of rec0 are missing or equal"):
        load(tmp_path, example("gpqa", gpqa, filter={}, fields=fields | {"wrong_answers": ["Correct Answer"]}))


def test_a_change_anywhere_in_a_datasets_folder_counts(monkeypatch, gsm8k):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config/examples/benchmarks.yaml").read_text())
    config["datasets"]["gsm8k"]["path"] = str(gsm8k)
    del config["datasets"]["gsm8k"]["hub"]
    study = load_study(config)
    names = {str(Path(file).relative_to(gsm8k)) for file in study.source_files(study.datasets["gsm8k"])}
    files = {
        f"{subset}/{split}-00000-of-00001.parquet" for subset in ("main", "socratic") for split in ("train", "test")
    }
    assert names == files | {"README.md"}


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_cache(monkeypatch, folder):
    """The hub's cache as a download leaves it, for a dataset of two subsets, and no network."""
    kept = folder / "datasets--me--sums"
    snapshot = kept / "snapshots" / COMMIT
    for subset in ("easy", "hard"):
        (snapshot / subset).mkdir(parents=True)
        row = {"uid": "007", "problem": "1 + 1?", "answer": 9007199254740993, "area": subset, "level": 1.50}
        (snapshot / subset / "test.jsonl").write_text(json.dumps(row))
    configs = [{"config_name": name, "data_files": f"{name}/test.jsonl"} for name in ("easy", "hard")]
    (snapshot / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_dataset_of_the_hub_is_read_from_the_cache_where_there_is_no_network(tmp_path, monkeypatch, revision):
    in_cache(monkeypatch, tmp_path / "hub")
    chosen = settings(tmp_path) | {"path": None, "hub": "me/sums", "revision": revision, "subset": "hard"}
    with pytest.raises(DatasetError, match="has no split test; there are: train"):
        load(tmp_path, chosen)
    table = load(tmp_path, chosen | {"split": "train"})
    assert table.to_numpy().tolist() == [["007", "1 + 1?", "9007199254740993", "hard", "1.5"]]
    assert read_provenance(tmp_path / "out.parquet")["revision"] == COMMIT
    with pytest.raises(DatasetError, match=r"'easier' not found.*easy.*correct subset"):
        load(tmp_path, chosen | {"subset": "easier"})
    with pytest.raises(DatasetError, match=r"me/other \(hub\): cannot be reached .*not in the cache"):
        load(tmp_path, chosen | {"hub": "me/other"})


def test_a_network_that_fails_is_no_network(tmp_path, monkeypatch):
    in_cache(monkeypatch, tmp_path / "hub")

    def dataset_info(self, hub, revision):
        raise httpx.ConnectError("")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    chosen = settings(tmp_path) | {"path": None, "hub": "me/sums", "subset": "easy", "split": "train"}
    assert list(load(tmp_path, chosen)["area"]) == ["easy"]


def test_a_dataset_of_the_hub_is_read_at_the_commit_that_its_provenance_names(tmp_path, monkeypatch):
    """A stand-in for the hub, whose main branch moves between two requests."""
    snapshot = in_cache(monkeypatch, tmp_path / "hub")
    asked = []

    def dataset_info(self, hub, revision):
        asked.append((hub, revision))
        return SimpleNamespace(sha=COMMIT)

    def builder(hub, subset, revision):
        asked.append((hub, revision))
        files = {"test": [f"hf://datasets/{hub}@{revision}/{subset}/test.jsonl"]}
        return SimpleNamespace(config=SimpleNamespace(data_files=files))

    def download(hub, name, repo_type, revision):
        asked.append((hub, revision))
        assert repo_type == "dataset"
        return str(snapshot / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    chosen = settings(tmp_path) | {"path": None, "hub": "me/sums", "revision": "main", "subset": "easy"}
    assert list(load(tmp_path, chosen)["area"]) == ["easy"]
    assert asked == [("me/sums", "main"), ("me/sums", COMMIT), ("me/sums", COMMIT)]
    assert read_provenance(tmp_path / "out.parquet")["revision"] == COMMIT


REFERENCES = ["1", r"\frac{", "No solution.", r"x^{2}+", "5 km", None]


def with_references(tmp_path, references, remedy):
    path = tmp_path / "data.jsonl"
    rows = [{"uid": f"p{k}", "problem": f"problem {k}", "answer": answer} for k, answer in enumerate(references)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return settings(path, fields={"area": None, "level": None}, unreadable_references=remedy)


def test_unreadable_references_are_all_told_by_row_and_reason_before_anything_is_written(tmp_path):
    with pytest.raises(DatasetError) as refusal:
        load(tmp_path, with_references(tmp_path, REFERENCES, "stop"))
    for part in ("3 references", "row 2, p1", r"\frac{", "row 4, p3", "row 6, p5: missing", "unreadable_references"):
        assert part in str(refusal.value)
    assert ", p2:" not in str(refusal.value)
    assert not (tmp_path / "out.parquet").exists()


def test_problems_with_unreadable_references_are_dropped_and_named_in_the_provenance(tmp_path):
    table = load(tmp_path, with_references(tmp_path, REFERENCES, "drop"))
    assert list(table["uid"]) == ["p0", "p2", "p4"]
    assert list(read_provenance(tmp_path / "out.parquet")["unreadable_references"]) == ["p1", "p3", "p5"]


def test_unreadable_references_become_texts_that_only_their_own_words_equal(tmp_path):
    table = load(tmp_path, with_references(tmp_path, ["1", "x^{2}+"], "text"))
    reference = table["answer"][1]
    same, other = grade_answers([Attempt(r"\boxed{x^2+}", reference), Attempt(r"\boxed{x^2}", reference)])
    assert (same.is_correct, other.is_correct, other.reason) == (True, False, "mismatch")


def test_missing_references_are_no_texts(tmp_path):
    with pytest.raises(DatasetError, match="missing"):
        load(tmp_path, with_references(tmp_path, ["1", None], "text"))

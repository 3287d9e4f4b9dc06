"""Which pairs are used and why the others are not: from traces to the two tables, with nothing dropped silently."""

from pathlib import Path

import pandas as pd
import pytest

from r2a.evaluation.pairs import tabulate_pairs
from r2a.models import load_tokenizer, marks_of
from r2a.patching.pairs import align_pairs
from r2a.prompts import prompt_ids
from r2a.store import add_array, add_axis, new_hdf5, provenance, read_parquet, write_json, write_parquet
from r2a.traces import segment_bounds

MODEL = Path(__file__).parents[2] / "resources/models/tiny-qwen"
SETTINGS = {
    "seed": 1, "decoding": "greedy", "probes": ["plain"], "keep_reasoning": True, "alignment": "role",
}  # fmt: skip
# pair: domain, kind, answers, both valid, both right, both prefer their own answer (None: not patched), why it is out
PAIRS = {
    "used": ("farm", "word", "ant", "cow", True, True, True, ""),
    "swayed": ("farm", "word", "ant", "pig", True, True, False, "a run does not prefer its own answer"),
    "open": ("farm", "word", "ant", "pig", False, True, None, "a trace is not valid"),
    "wrong": ("zoo", "word", "ant", "pig", True, False, None, "an answer is wrong"),
    "split": ("zoo", "yes_no", "ant", "elephant", True, True, None, "an answer is not one token in the box"),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The inputs of both jobs, for PAIRS."""
    folder = tmp_path_factory.mktemp("funnel")
    tokenizer, marks = load_tokenizer(MODEL), marks_of(MODEL)
    questions, traces, grades = [], [], []
    for pair, (domain, kind, *answers, is_valid, is_right, _, _) in PAIRS.items():
        for side, answer in zip("ab", answers, strict=True):
            key = {"uid": f"{pair}.{side}", "condition": "with_reasoning", "decoding": "greedy", "sample": 0}
            question = f"Considering size, which one is bigger: {answers[0]} or {answers[1]}?"
            questions.append(
                {"uid": key["uid"], "pair": pair, "side": side, "problem": question, "answer": answer}
                | {"area": domain, "kind": kind, "comparator": "bigger", "template": domain}
            )
            prompt = prompt_ids(tokenizer, question, "", "with_reasoning")
            completion = tokenizer.encode(f"{'Well. ' * (side == 'b')}Okay.\n</think>\n\n", add_special_tokens=False)
            bounds = segment_bounds(prompt, completion, marks)
            # in a pair that fails, question b fails
            valid, right = (is_valid or side == "a"), (is_right or side == "a")
            traces.append(
                key | {"prompt_token_ids": prompt, "completion_token_ids": completion, "bounds": bounds}
                | {"is_valid": valid}
            )  # fmt: skip
            grades.append(key | {"is_correct": right})
    for name, rows in (("questions", questions), ("traces", traces), ("grades", grades)):
        write_parquet(folder / f"{name}.parquet", pd.DataFrame(rows), provenance({}))
    manifest = provenance({}) | {"models": {"tiny": {"dtype": "float32"}}, "folder": str(MODEL)}
    write_json(folder / "manifest.json", manifest)
    return folder


def align(folder, **changes):
    inputs = [folder / name for name in ("traces.parquet", "grades.parquet", "questions.parquet", "manifest.json")]
    align_pairs(*inputs, folder / "pairs.parquet", SETTINGS | changes)
    return read_parquet(folder / "pairs.parquet").set_index("pair")


def test_every_pair_is_counted_at_the_step_that_it_fails(stored):
    align(stored)
    patched = {pair: row[6] for pair, row in PAIRS.items() if row[6] is not None}
    with new_hdf5(stored / "patching.h5", provenance({})) as file:
        add_axis(file, "probe", ["plain"])
        of_probe = file.create_group("plain")
        add_axis(of_probe, "pair", list(patched))
        add_array(of_probe, "is_left_out", ("pair",), "1 where it does not fit into memory", "int8", 0)
        used = add_array(of_probe, "is_used", ("pair",), "1 where used", "int8", 0)
        used[:] = list(patched.values())
    tabulate_pairs(
        stored / "pairs.parquet", stored / "patching.h5", stored / "funnel.csv", stored / "outcomes.csv", SETTINGS
    )
    outcomes = pd.read_csv(stored / "outcomes.csv", keep_default_na=False).set_index("pair")
    assert outcomes["left_out"].to_dict() == {pair: row[7] for pair, row in PAIRS.items()}
    assert outcomes.loc["split", ["form_a", "form_b"]].tolist() == ["bare and spaced", "several tokens"]
    funnel = pd.read_csv(stored / "funnel.csv").set_index(["by", "name"])
    assert list(funnel) == [
        "probe",
        "asked",
        "both_valid",
        "both_right",
        "one_token",
        "aligned",
        "own_answer_preferred",
    ]
    funnel = funnel.drop(columns="probe")
    assert funnel.loc[("all", "all")].tolist() == [5, 4, 3, 2, 2, 1]
    assert funnel.loc[("domain", "farm")].tolist() == [3, 2, 2, 2, 2, 1]
    assert funnel.loc[("domain", "zoo")].tolist() == [2, 2, 1, 0, 0, 0]
    assert funnel.loc[("kind", "word")].tolist() == [4, 3, 2, 2, 2, 1]
    assert funnel.loc[("kind", "yes_no")].tolist() == [1, 1, 1, 0, 0, 0]


def test_alignments_differ_in_padding_alone(stored):
    rows = {alignment: align(stored, alignment=alignment).loc["used"] for alignment in ("role", "pad", "pad_visible")}
    assert len(rows["role"]["clean_ids"]) < len(rows["role"]["corrupted_ids"])  # its question is a word longer
    for alignment in ("pad", "pad_visible"):
        row = rows[alignment]
        assert len(row["clean_ids"]) == len(row["corrupted_ids"])
        assert list(row["clean_positions"]) == list(row["corrupted_positions"])
        assert list(row["roles"]) == list(rows["role"]["roles"])
    n_pads = len(rows["role"]["corrupted_ids"]) - len(rows["role"]["clean_ids"])
    assert [len(rows[alignment]["clean_masked"]) for alignment in rows] == [0, n_pads, 0]
    assert list(rows["pad"]["clean_ids"]) == list(rows["pad_visible"]["clean_ids"])

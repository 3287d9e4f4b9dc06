"""Bad configurations, data files, stores and models: one clear message each, before any work starts."""

import copy
import json
import shutil
from pathlib import Path

import h5py
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from r2a.config import ConfigError, Dataset, load_study
from r2a.datasets import DatasetError, load_dataset
from r2a.models import ModelError, resolve_model
from r2a.store import StoreError, open_hdf5, read_parquet, read_provenance
from r2a.traces import SEGMENTS, Marks, find_boxes, segment_bounds

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "config/config.yaml").read_text())
DELETE = object()
QWEN = "models.tiny-qwen"

# what is changed, to what, and what must be said about it
CONFIGURATIONS = [
    ("study", DELETE, "study: missing; see config/README.md"),
    ("study", "my study", "study: a name has letters, digits"),
    ("study", "../outside", "study: a name has letters, digits"),
    ("study", "", "study: a name has letters, digits"),
    ("study", 7, "study: "),
    ("seed", DELETE, "seed: missing; see config/README.md"),
    ("seed", "soon", "seed: "),
    ("seed", 1.5, "seed: "),
    ("sed", 1, "sed: unknown key; did you mean seed?"),
    ("models", DELETE, "models: missing"),
    ("models", {}, "models: needs at least one entry"),
    ("models", None, "models: "),
    ("models", ["a"], "models: "),
    ("models.a/b", {"path": "resources/models/tiny-qwen"}, "models.a/b: a name has letters, digits"),
    (QWEN, None, f"{QWEN}: "),
    (f"{QWEN}.path", DELETE, f"{QWEN}: give exactly one of path (local) and hub"),
    (f"{QWEN}.path", "no/such/folder", f"{QWEN}.path: no/such/folder does not exist"),
    (f"{QWEN}.path", 3, f"{QWEN}.path: "),
    (f"{QWEN}.hub", "owner/name", f"{QWEN}: give exactly one of path (local) and hub"),
    (f"{QWEN}.dtype", "float8", f"{QWEN}.dtype: "),
    (f"{QWEN}.dtyp", "float32", f"{QWEN}.dtyp: unknown key; did you mean dtype?"),
    (f"{QWEN}.prompt", "chatty", f"{QWEN}.prompt: "),
    (f"{QWEN}.gpus", -1, f"{QWEN}.gpus: "),
    (f"{QWEN}.gpus", "two", f"{QWEN}.gpus: "),
    (f"{QWEN}.threads", 0, f"{QWEN}.threads: "),
    (f"{QWEN}.memory_mb", 0, f"{QWEN}.memory_mb: "),
    (f"{QWEN}.endpoint", {"base_url": "localhost:8000", "model": "m"}, f"{QWEN}.endpoint.base_url: "),
    (f"{QWEN}.endpoint", {"base_url": "https://key@host/v1", "model": "m"}, f"{QWEN}.endpoint.base_url: "),
    (f"{QWEN}.endpoint", {"base_url": "https://host/v1"}, f"{QWEN}.endpoint.model: missing"),
    (f"{QWEN}.endpoint", {"base_url": "https://h", "model": "m", "api_key": "k"}, "api_key: unknown key; did you mean"),
    (f"{QWEN}.endpoint", {"base_url": "https://h/v1", "model": "m", "kind": "chat"}, "use completions"),
    ("datasets", {}, "datasets: needs at least one entry"),
    ("datasets.puzzles.kind", DELETE, "datasets.puzzles.kind: missing"),
    ("datasets.puzzles.kind", "riddles", "datasets.puzzles.kind: "),
    ("datasets.puzzles.path", "nowhere.jsonl", "datasets.puzzles.path: nowhere.jsonl does not exist"),
    ("datasets.puzzles.path", DELETE, "datasets.puzzles: give exactly one of path (local) and hub"),
    ("datasets.puzzles.n_problems", 0, "datasets.puzzles.n_problems: "),
    ("datasets.puzzles.fields", {"question": "q"}, "datasets.puzzles.fields.question: unknown key"),
    ("datasets.puzzles.filter", {"size": [1]}, "datasets.puzzles.filter.size"),
    ("datasets.puzzles.filter", {"level": 3}, "datasets.puzzles.filter.level: "),
    ("decodings", {}, "decodings: needs at least one entry"),
    ("decodings.greedy", {}, "decodings.greedy.temperature: missing"),
    ("decodings.greedy.temperature", -1, "decodings.greedy.temperature: "),
    ("decodings.greedy.n_samples", 2, "decodings.greedy.n_samples: greedy decoding gives the same text each time"),
    ("decodings.sampled.top_p", 0, "decodings.sampled.top_p: "),
    ("decodings.sampled.top_p", 1.5, "decodings.sampled.top_p: "),
    ("decodings.sampled.n_samples", 0, "decodings.sampled.n_samples: "),
    ("generation.max_new_tokens", 0, "generation.max_new_tokens: "),
    ("generation.max_new_tokens", "many", "generation.max_new_tokens: "),
    ("models.tiny-qwen.without_reasoning", "nothing", "models.tiny-qwen.without_reasoning: "),
    ("generation.gpu_memory_percent", 120, "generation.gpu_memory_percent: "),
    ("grading.graders", [], "grading.graders: "),
    ("grading.graders", ["policy", "policy"], "grading.graders: a grader is named twice"),
    ("grading.graders", ["teacher"], "grading.graders.0: "),
    ("grading.seconds", 0, "grading.seconds: "),
    ("statistics", {"confidence": 95}, "statistics.confidence: "),
    ("statistics", {"n_resamples": 1}, "statistics.n_resamples: "),
    ("attention.decoding", "nucleus", "attention.decoding: 'nucleus' is none of the decodings (greedy, sampled)"),
    ("attention.n_top_heads", 0, "attention.n_top_heads: "),
    ("attention.cue_words", [], "attention.cue_words: "),
    ("attention.cue_words", [""], "attention.cue_words.0: "),
    ("patching", {"decoding": "sampled"}, "patching.decoding: 'sampled' samples; pairs need a greedy decoding"),
    ("patching", {"components": ["attn_out"]}, "patching.components: resid_pre is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "said"), CONFIGURATIONS, ids=lambda part: str(part)[:30])
def test_a_wrong_configuration_is_told_with_its_key(key, value, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = copy.deepcopy(SHIPPED)
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section[part]
    if value is DELETE:
        del section[last]
    else:
        section[last] = value
    with pytest.raises(ConfigError) as error:
        load_study(config, "my.yaml")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("my.yaml has ")
    assert any(said in line for line in lines[1:]), lines
    assert len(lines) <= 4, lines


ROW = {"uid": "a", "problem": "1 + 1?", "answer": "2", "area": "sums", "level": 1}
PAIR = {"query_a": "a or b?", "answer_a": "a", "query_b": "b or a?", "answer_b": "b"}
DATA_FILES = {
    "a missing column": ("problems", "x.jsonl", [{"uid": "a", "q": "?"}], r"row 1 has no problem; name the right"),
    "no rows": ("problems", "x.jsonl", [], r"x\.jsonl: cannot be read \(it holds no rows"),
    "a repeated uid": ("problems", "x.jsonl", [ROW, ROW], r"2 rows \(a, a, \.\.\.\) have a uid that occurs more"),
    "a missing uid": ("problems", "x.jsonl", [ROW | {"uid": None}], "have a uid"),
    "an empty problem": ("problems", "x.jsonl", [ROW | {"problem": "  "}], "have no problem text"),
    "no problem": ("problems", "x.jsonl", [ROW | {"problem": None}], "have no problem text"),
    "a missing reference": ("problems", "x.jsonl", [ROW | {"answer": None}], "have no reference answer"),
    "torn JSON": ("problems", "x.jsonl", '{"uid": "a", "prob', r"x\.jsonl: cannot be read \(.+\); mend the file"),
    "no JSON at all": ("problems", "x.jsonl", "hello\nworld\n", r"x\.jsonl: cannot be read \(.+\); mend the file"),
    "no Parquet": ("problems", "x.parquet", "PAR1 not really", r"x\.parquet: .*cannot be read"),
    "an unknown suffix": ("problems", "x.xlsx", "anything", r"unknown kind of file; use one of .*\.jsonl"),
    "pairs without a column": ("comparison_pairs", "x.jsonl", [{"query_a": "a"}], "no column answer_a"),
    "pairs of one answer": ("comparison_pairs", "x.jsonl", [PAIR | {"answer_b": "a"}], "two answers are the same"),
    "a pair without an answer": ("comparison_pairs", "x.jsonl", [PAIR | {"answer_b": None}], "the same or missing"),
    "a pair without a question": ("comparison_pairs", "x.jsonl", [PAIR | {"query_b": ""}], "have no problem text"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA_FILES)
def test_a_bad_data_file_is_told_with_its_rows(name, tmp_path):
    kind, file, content, said = DATA_FILES[name]
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    (tmp_path / file).write_text(text)
    with pytest.raises(DatasetError, match=said) as error:
        _load(tmp_path, kind, file)
    assert file in str(error.value)
    assert not (tmp_path / "out.parquet").exists()


def _load(folder, kind, file):
    entry = Dataset(kind=kind, path=str(folder / file)).model_dump(exclude={"label", "instruction"})
    load_dataset(folder / "out.parquet", entry | {"seed": 1, "dataset": "mine"})


def test_a_uid_may_hold_anything_since_it_never_becomes_a_path(tmp_path):
    uids = ["../../etc/passwd", "a/b\\c", "nul\u0000", "<script>", "=1+1", "\u202e", "x" * 500]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(ROW | {"uid": uid}) + "\n" for uid in uids))
    _load(tmp_path, "problems", "x.jsonl")
    assert list(pd.read_parquet(tmp_path / "out.parquet")["uid"]) == uids
    assert {path.name for path in tmp_path.iterdir()} == {"x.jsonl", "out.parquet"}


def broken_model(folder, change):
    shutil.copytree(ROOT / "resources/models/tiny-qwen", folder)
    change(folder)
    return {
        "source": {"hub": None, "path": str(folder), "revision": None},
        "endpoint": None,
        "model": "m",
        "dtype": "float32",
        "prompt": "raw",
    }


def rename_in(name, old, new):
    def change(folder):
        (folder / name).write_text((folder / name).read_text().replace(old, new))

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


MODELS = {
    "pickled weights only": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "only safetensors weights are loaded",
    ),
    "no think tags": (rename_in("tokenizer.json", "<think>", "<thunk>"), "<think> is . tokens; only models with one"),
    "an unknown architecture": (
        rename_in("config.json", '"qwen2"', '"gpt17"'), "m/config.json: .*gpt17.* not recognize"),
    "no configuration": (remove("config.json"), r"config\.json"),
    "a torn configuration": (rename_in("config.json", "}", ""), r"config\.json"),
    "a torn tokenizer": (lambda folder: (folder / "tokenizer.json").write_text('{"model": '), r"tokenizer\.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_an_unusable_model_is_refused_before_anything_is_generated(name, tmp_path):
    change, said = MODELS[name]
    chosen = broken_model(tmp_path / "m", change)
    with pytest.raises(ModelError, match=said):
        resolve_model(tmp_path / "m.json", chosen)
    assert not (tmp_path / "m.json").exists()


def test_stores_that_are_torn_or_foreign_say_which_file_to_delete(tmp_path):
    torn, foreign = tmp_path / "torn.h5", tmp_path / "foreign.h5"
    torn.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with h5py.File(foreign, "w") as file:
        file["x"] = [1]
    parquet = tmp_path / "torn.parquet"
    parquet.write_bytes(b"PAR1" + b"\0" * 50)
    for read, path in ((open_hdf5, torn), (read_provenance, torn), (read_provenance, foreign), (read_parquet, parquet)):
        with pytest.raises(StoreError, match=f"{path.name}: .*delete it and run again"):
            found = read(path)
            found.__enter__()


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*SHIPPED, "path", "hub", "decoding", "kind", "temperature", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_configuration_is_a_study_or_an_error_in_words(config):
    try:
        load_study(config if isinstance(config, dict) else {"models": config})
    except ConfigError as error:
        assert str(error).count("\n") >= 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=30), st.lists(st.integers(0, 6), max_size=30))
def test_segments_tile_any_trace(prompt, completion):
    marks = Marks(bos=1, eos=frozenset({2}), think_open=3, think_close=4)
    if 3 not in prompt + completion:
        with pytest.raises(ValueError, match="no <think>"):
            segment_bounds(prompt, completion, marks)
        return
    bounds = segment_bounds(prompt, completion, marks)
    assert bounds[0] == 0
    assert bounds[-1] == len(prompt) + len(completion)
    assert bounds == sorted(bounds)
    assert len(bounds) == len(SEGMENTS) + 1


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="\\boxed{}[]$a1 ", max_size=60))
def test_boxes_of_any_text_are_parts_of_it_with_matched_braces(text):
    for box in find_boxes(text):
        assert box in text
        depth = 0
        for part in box.replace("\\{", "").replace("\\}", ""):
            depth += {"{": 1, "}": -1}.get(part, 0)
            assert depth >= 0 or "\\" in box

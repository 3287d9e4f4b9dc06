"""Bad configurations, data files, stores and models: one clear message each, before any work starts."""

import copy
import fcntl
import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import r2a.generation
from r2a.ablation.runs import ablate_heads
from r2a.attention import capture_attention
from r2a.boxes import find_boxes
from r2a.datasets import DatasetError, load_dataset
from r2a.figures.registry import draw
from r2a.formats import FORMATS
from r2a.generation import generate_traces
from r2a.generation.perturbed import regenerate_answers
from r2a.generation.requests import Completion
from r2a.grading import grade_traces
from r2a.models import ModelError, load_model, read_manifest, resolve_model, text_marks
from r2a.models.attention import SEAM
from r2a.patching.pairs import align_pairs
from r2a.patching.runs import capture_activations
from r2a.perturbation import perturb_reasoning
from r2a.store import (
    NothingToMeasure,
    StoreError,
    add_array,
    add_axis,
    new_hdf5,
    open_hdf5,
    provenance,
    read_parquet,
    read_provenance,
    why_empty,
    write_csv,
    write_parquet,
)
from r2a.study import ConfigError, Dataset, load_study, stage_settings
from r2a.summary.accuracy import find_accuracy
from r2a.traces import SEGMENTS, segment_bounds

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "config/config.yaml").read_text())
DELETE = object()
QWEN = "models.tiny-qwen"

# what is changed, to what, and what the message must say
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
    ("grading.graders", ["policy", "policy"], "grading.graders: 'policy' is named twice"),
    ("grading.graders", ["teacher"], "grading.graders.0: "),
    ("grading.seconds", 0, "grading.seconds: "),
    ("statistics", {"confidence": 95}, "statistics.confidence: "),
    ("statistics", {"n_resamples": 1}, "statistics.n_resamples: "),
    ("attention.decoding", "nucleus", "attention.decoding: 'nucleus' is not one of the decodings (greedy, sampled)"),
    ("attention.n_top_heads", 0, "attention.n_top_heads: "),
    ("attention.cue_words", [], "attention.cue_words: "),
    ("attention.cue_words", [""], "attention.cue_words.0: "),
    ("patching", {"decoding": "sampled"}, "patching.decoding: 'sampled' samples, but pairs need greedy decoding"),
    ("patching", {"components": ["attn_out"]}, "patching.components: resid_pre is missing"),
    ("models", {False: {"path": "resources/models/tiny-qwen"}}, "models.False: input should be a valid string (found"),
    (f"{QWEN}.path", "", f"{QWEN}.path: string should have at least 1 character"),
    ("datasets.puzzles.path", "", "datasets.puzzles.path: string should have at least 1 character"),
    ("models", {1: {}}, "models.1: input should be a valid string (found 1; put it in quotes)"),
    ("models." + "m" * 101, {"path": "resources/models/tiny-qwen"}, "string should have at most 100 characters"),
    ("models.Tiny-Qwen", {"path": "resources/models/tiny-llama"}, "models: tiny-qwen, Tiny-Qwen differ in case alone"),
    ("models.other", {"path": "resources/models/tiny-qwen", "label": "Tiny Qwen2"}, "several have the label Tiny Qwen"),
    ("datasets.puzzles.label", "Comparisons", "datasets: several have the label Comparisons; give each one its own"),
    (f"{QWEN}.label", False, f"{QWEN}.label: input should be a valid string (found False; put it in quotes)"),
    (f"{QWEN}.path", "resources/models/tiny-qwen/config.json", f"{QWEN}.path: resources/models/tiny-qwen/config.json"),
    (f"{QWEN}.hub", "https://huggingface.co/owner/name", f"{QWEN}.hub: an id on the hub is owner/name, without the hu"),
    (f"{QWEN}.gpus", True, f"{QWEN}.gpus: is a number; YAML reads yes, no, on and off as true and false (found True)"),
    ("datasets.puzzles.n_problems", True, "datasets.puzzles.n_problems: is a number"),
    ("datasets.puzzles.fields", {"wrong_answers": ["w"] * 26}, "datasets.puzzles.fields.wrong_answers: list should ha"),
    ("decodings.sampled.temperature", float("inf"), "decodings.sampled.temperature: input should be a finite number"),
    ("decodings.sampled.temperature", False, "decodings.sampled.temperature: is a number"),
    ("generation", None, "generation: is empty; remove it, or give it keys from config/README.md"),
    (f"{QWEN}.endpoint", {"base_url": "http://h/v1?key=k", "model": "m"}, "base_url: an address starts with http:// o"),
    (f"{QWEN}.endpoint", {"base_url": "http://h/v1/chat/completions", "model": "m"}, "base_url: give the address up t"),
    (f"{QWEN}.endpoint", {"base_url": "http://h", "model": "m", "api_key_variable": "sk-1"}, "key_variable: name the"),
    (f"{QWEN}.endpoint", {"base_url": "http://h", "model": "m", "body": {"api_key": "k"}}, "body: api_key would be ke"),
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


def test_a_path_that_snakemake_would_fill_in_is_told(tmp_path):
    path = tmp_path / "my {1}.jsonl"
    path.write_text("{}")
    config = copy.deepcopy(SHIPPED)
    config["datasets"]["puzzles"]["path"] = str(path)
    with pytest.raises(
        ConfigError, match=r"datasets\.puzzles\.path: .* has braces, which Snakemake takes for wildcards"
    ):
        load_study(config)


MISREAD = {
    "models: {m: 1}\nmodels: {n: 2}": "models: is given twice, in lines 1 and 2; only the last would count",
    "a:\n  b: 1\n  c: 2\n  b: 3": "a.b: is given twice, in lines 2 and 4",
    '{"a": {"b": 1,\n "b": 1}}': "a.b: is given twice, in lines 1 and 2",
    "a: [{b: 1, b: 2}]": "a.0.b: is given twice",
    "\ufeffseed: 010": "seed: YAML reads 010 as 8 (line 1); write 8, or quote a text",
    "filter:\n  level: [1, 02]": "filter.level.1: YAML reads 02 as 2 (line 2)",
    "minutes: 1:30": "minutes: YAML reads 1:30 as 90",
    "seconds: 1:30.5": "seconds: YAML reads 1:30.5 as 90.5",
    "revision: 0123456": "revision: YAML reads 0123456 as 42798 (line 1); write 42798, or quote a text",
}


@pytest.mark.parametrize("text", MISREAD)
def test_what_yaml_reads_otherwise_than_it_looks_is_told_with_its_line(text, tmp_path):
    (tmp_path / "my.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as error:
        load_study(copy.deepcopy(SHIPPED), "my.yaml", [tmp_path / "my.yaml"])
    assert str(error.value).startswith(f"my.yaml has 1 error:\n  {MISREAD[text]}")


def test_of_several_files_the_one_at_fault_is_named(tmp_path):
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file, text in zip(files, ("a: 1", "a: 1\na: 2"), strict=True):
        file.write_text(text)
    with pytest.raises(
        ConfigError, match=r"a: is given twice, in lines 1 and 2; only the last would count \(.*b\.yaml\)"
    ):
        load_study(copy.deepcopy(SHIPPED), "both", files)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1, y: [0, 0.5, 1e4, 1_000]}\nb: {<<: *a, x: 2}\nc: *a\nd: '010'\n",
        "a: &a {x: 1}\nb: &b {y: 1}\nc:\n  <<: *a\n  <<: *b\n",
        '{\n\t"a": 1}',
        "",
        "a:\n",
    ],
)
def test_what_is_read_as_it_looks_is_no_error(text, tmp_path):
    (tmp_path / "my.yaml").write_text(text)
    assert load_study(copy.deepcopy(SHIPPED), "my.yaml", [tmp_path / "my.yaml"]).study == "tiny"


ROW = {"uid": "a", "problem": "1 + 1?", "answer": "2", "area": "sums", "level": 1}
PAIR = {"query_a": "a or b?", "answer_a": "a", "query_b": "b or a?", "answer_b": "b"}
DATA_FILES = {
    "a missing column": ("problems", "x.jsonl", [{"uid": "a", "q": "?"}], r"row 1 has no problem; name the right"),
    "no rows": ("problems", "x.jsonl", [], r"x\.jsonl: has no rows"),
    "a repeated uid": ("problems", "x.jsonl", [ROW, ROW], r"2 rows \(a, a, \.\.\.\) have a uid that occurs more"),
    "a missing uid": ("problems", "x.jsonl", [ROW | {"uid": None}], "have a uid"),
    "an empty problem": ("problems", "x.jsonl", [ROW | {"problem": "  "}], "have no problem text"),
    "no problem": ("problems", "x.jsonl", [ROW | {"problem": None}], "have no problem text"),
    "a missing reference": ("problems", "x.jsonl", [ROW | {"answer": None}], "cannot be compared with answers"),
    "torn JSON": ("problems", "x.jsonl", '{"uid": "a", "prob', r"x\.jsonl: line 1 is not JSON \(.+\); give one"),
    "no JSON at all": ("problems", "x.jsonl", "hello\nworld\n", r"x\.jsonl: line 1 is not JSON \(.+\), line 2 is"),
    "no Parquet": ("problems", "x.parquet", "PAR1 not really", r"x\.parquet: .*cannot be read"),
    "an unknown suffix": ("problems", "x.doc", "anything", r"unknown kind of file; use one of .*\.jsonl"),
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


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, end):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:end])


def move(name, other):
    return lambda folder: (folder / name).rename(folder / other)


def no_end(folder):
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(
            json.dumps({k: v for k, v in known.items() if k not in ("eos_token", "eos_token_id")})
        )


NOT_WHOLE = r"m/model\.safetensors: is not a whole safetensors file \(\d+ bytes\); download it again"


MODELS = {
    "pickled weights only": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "only safetensors weights are loaded",
    ),
    "no think tags": (
        rename_in("tokenizer.json", "<think>", "<thunk>"), "what opens and closes its reasoning is not known"),
    "an unknown architecture": (
        rename_in("config.json", '"qwen2"', '"gpt17"'), "m/config.json: .*gpt17.* not recognize"),
    "code of its own": (
        rename_in("config.json", '"qwen2"', '"own", "auto_map": {"AutoConfig": "own.Own"}'),
        r"m/config\.json: .* contains custom code",
    ),
    "weights that are a pointer": (
        put("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "run git lfs pull"),
    "weights that are a page": (put("model.safetensors", b"<!DOCTYPE html><html>"), NOT_WHOLE),
    "no weights in their file": (put("model.safetensors", b""), NOT_WHOLE),
    "weights without their end": (cut("model.safetensors", -1000), NOT_WHOLE),
    "weights without their beginning": (cut("model.safetensors", 50), NOT_WHOLE),
    "a missing shard": (
        move("model.safetensors", "model-00002-of-00003.safetensors"),
        r"m: model-00001-of-00003\.safetensors and 1 more of 3 weight files are missing; download the model again"),
    "an index of other files": (
        put("model.safetensors.index.json", b'{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'),
        r"model-00001-of-00001\.safetensors of 1 weight files is missing; download .*, or delete model.*index\.json"),
    "a torn index": (put("model.safetensors.index.json", b"{"), r"index\.json: cannot be read"),
    "an adapter": (put("adapter_config.json", b"{}"), r"m: holds an adapter \(LoRA\); merge it into its base model"),
    "a number of heads that is none": (
        rename_in("config.json", '"num_attention_heads": 6', '"num_attention_heads": "six"'), r"m/config\.json: "),
    "fewer embeddings than tokens": (
        rename_in("config.json", '"vocab_size": ', '"vocab_size": 5, "was": '),
        r"its tokenizer gives token \d+, but vocab_size in config\.json is 5; give the model its own tokenizer"),
    "nothing that ends an answer": (no_end, r"m: no token ends its answers; add eos_token_id to generation_c"),
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


@pytest.mark.parametrize("name", ["x.h5", "x.parquet", "x.json", "x.csv"])
def test_a_store_that_the_system_does_not_open_is_not_called_damaged(name, tmp_path):
    """Here, links that lead back to themselves; permissions and too many open files are told alike."""
    (tmp_path / name).symlink_to(name)
    (tmp_path / "x.provenance.json").symlink_to("x.provenance.json")
    read = {".h5": open_hdf5, ".parquet": read_parquet}.get((tmp_path / name).suffix, read_provenance)
    if name == "x.csv":  # its provenance is beside it
        (tmp_path / "x.provenance.json").unlink()
        (tmp_path / "x.provenance.json").mkdir()
    with pytest.raises(StoreError, match=r"cannot be read \(.+\), but may be whole; put that right, run again$"):
        read(tmp_path / name).__enter__()


def test_stores_need_no_locks_which_some_file_systems_lack(tmp_path):
    with new_hdf5(tmp_path / "x.h5", provenance({})) as file:
        add_axis(file, "trace", range(3))
    with open(tmp_path / "x.h5") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as another program that writes it would
        with open_hdf5(tmp_path / "x.h5") as file:
            assert file["trace"][:].tolist() == [0, 1, 2]


def test_a_byte_changed_in_a_store_is_noticed_or_changes_nothing(tmp_path):
    frame = pd.DataFrame({"ids": [list(range(n % 40)) for n in range(300)], "text": [f"t{n}" for n in range(300)]})
    values = np.random.default_rng(0).random((100, 50)).astype(np.float32)
    write_parquet(tmp_path / "x.parquet", frame, provenance({}))
    with new_hdf5(tmp_path / "x.h5", provenance({})) as file:
        add_axis(file, "trace", range(100))
        add_axis(file, "head", range(50))
        add_array(file, "values", ("trace", "head"), "share")[:] = values

    def read_values(path):
        with open_hdf5(path) as file:
            return file["values"][:]

    for path, read, expected in (
        (tmp_path / "x.parquet", lambda path: read_parquet(path).to_json(), frame.to_json()),
        (tmp_path / "x.h5", lambda path: read_values(path).tolist(), values.tolist()),
    ):
        whole, n_noticed = path.read_bytes(), 0
        for place in range(len(whole) // 5, len(whole) * 4 // 5, len(whole) // 40):  # beyond headers and footers
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
            try:
                assert read(path) == expected, place
            except StoreError as error:
                n_noticed += 1
                assert str(error).startswith(f"{path}: is truncated or corrupt")
                assert str(error).endswith("delete it and run again")
        assert n_noticed > 10


@pytest.fixture(scope="module")
def spoilt_weights(tmp_path_factory):
    """The manifest of a model with a nan among its weights."""
    folder = tmp_path_factory.mktemp("nan")

    def put_nan(model):
        weights = load_file(model / "model.safetensors")
        weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    resolve_model(folder / "m.json", broken_model(folder / "m", put_nan))
    return read_manifest(folder / "m.json")


@pytest.mark.parametrize("attention", [SEAM, "sdpa", "eager"])
def test_numbers_that_are_none_are_told_in_every_rerun_with_model_and_dtype(attention, spoilt_weights):
    model = load_model(spoilt_weights, attention)
    with pytest.raises(ModelError, match=r"^m: computes nan or infinity in float32.*check its weights"):
        model.model(input_ids=torch.tensor([[1, 5, 6, 7]]), use_cache=False, recorder=Nothing(), forward_pass=Nothing())


class Nothing:
    """Stands in for the recorder of a rerun, and records nothing."""

    spans = ()

    def attend(self, _layer, query, _key, _value, _scaling):
        return query.transpose(1, 2)


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """The first stages' files for a tiny study whose model answers each request with the given tokens."""
    monkeypatch.chdir(ROOT)
    config = copy.deepcopy(SHIPPED)
    config["datasets"]["comparisons"]["n_problems"] = 3
    study = load_study(config)
    names = "models", "datasets", "traces", "grades", "attention", "ablation", "pairs", "activations", "perturbation"
    of_job = "tiny-qwen", "comparisons", None, "with_reasoning", "greedy"
    settings = {name: stage_settings(study, name, *of_job) for name in (*names, "perturbed_answers")}

    def run(completion):
        paths = {name: tmp_path / name for name in ("dataset", "manifest", "traces", "grades", "heads", "output")}
        load_dataset(paths["dataset"], settings["datasets"])
        resolve_model(paths["manifest"], settings["models"])
        monkeypatch.setattr(
            r2a.generation, "_complete", lambda requests, *_: ((request, completion) for request in requests)
        )
        generate_traces(paths["dataset"], paths["manifest"], paths["traces"], settings["traces"], {})
        grade_traces(paths["traces"], paths["dataset"], paths["grades"], settings["grades"])
        write_parquet(paths["heads"], pd.DataFrame({"layer": range(24), "head": 0, "rank": range(24)}), provenance({}))
        return paths, settings

    return run


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (Completion((5,) * 20, "length", 0.1), "unfinished"),
        (Completion((), "stop", 0.1), "never_closed"),
    ],
    ids=["never ends", "no token"],
)
def test_a_model_that_never_answers_is_counted_and_later_stages_say_so_in_one_sentence(completion, reason, stages):
    paths, settings = stages(completion)
    assert list(read_parquet(paths["traces"])["invalid_reason"].unique()) == [reason]
    assert not read_parquet(paths["grades"])["is_correct"].any()
    dataset, manifest, output = paths["dataset"], paths["manifest"], paths["output"]
    with pytest.raises(NothingToMeasure, match="no valid greedy trace"):
        capture_attention([paths["traces"]], manifest, output, settings["attention"], 1000)
    with pytest.raises(NothingToMeasure, match="no valid greedy trace with reasoning"):
        ablate_heads(paths["traces"], paths["heads"], manifest, output, settings["ablation"], 1000)
    assert not output.exists()
    align_pairs(paths["traces"], paths["grades"], dataset, manifest, output, settings["pairs"])
    assert set(read_parquet(output)["left_out"]) == {"a trace is not valid"}
    with pytest.raises(NothingToMeasure, match="no pair can be used"):
        capture_activations(output, manifest, output.with_suffix(".h5"), settings["activations"])
    perturb_reasoning(paths["traces"], paths["grades"], dataset, manifest, output, settings["perturbation"])
    with pytest.raises(NothingToMeasure, match=r"no reasoning can be perturbed \(\d+ times: the trace is not valid\)"):
        regenerate_answers(output, dataset, manifest, output, settings["perturbed_answers"], {})


def test_a_study_of_open_ended_datasets_alone_has_empty_figures_and_says_that_nothing_is_graded(tmp_path):
    columns = ["model", "dataset", "decoding", "condition", "by", "group", "level", "accuracy", "low", "high"]
    nothing = pd.DataFrame(columns=columns)
    accuracy, effect = tmp_path / "accuracy.csv", tmp_path / "effect.csv"
    for path in (accuracy, effect):
        write_csv(path, nothing, provenance({}))
    settings = {"variants": {}, "is_toy": False, "confidence": 0.95}
    draw(["accuracy", "areas"], {"accuracy": accuracy, "effect": effect}, tmp_path / "figures", settings)
    assert why_empty(tmp_path / "figures/accuracy.csv") == "no answer of this study is graded"
    assert (tmp_path / "figures/areas.png").exists()
    assert find_accuracy(effect, accuracy, settings).sentences == ["No answer of this study is graded."]


@settings(max_examples=150)
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


@settings(max_examples=300)
@given(st.lists(st.integers(0, 6), max_size=30), st.lists(st.integers(0, 6), max_size=30))
def test_segments_tile_any_trace(prompt, completion):
    texts = ["a", "b", "e", "<think>", "</think>", "</thi", "nk>"]
    marks = replace(text_marks(FORMATS["r1"].function(), texts), stops=frozenset({2}))
    asked, answered = ("".join(texts[token] for token in ids) for ids in (prompt, completion))
    closes_in_prompt = 0 <= f"{asked}{answered}".find("</think>") < len(asked)
    if 3 not in prompt + completion and not closes_in_prompt:
        with pytest.raises(ValueError, match="nothing opens a reasoning"):
            segment_bounds(prompt, completion, marks)
        return
    bounds = segment_bounds(prompt, completion, marks)
    assert bounds.bos == 0
    assert bounds.end == len(prompt) + len(completion)
    assert list(bounds) == sorted(bounds)
    assert len(bounds) == len(SEGMENTS) + 1


@settings(max_examples=300)
@given(st.text(alphabet="\\boxed{}[]$a1 ", max_size=60))
def test_boxes_of_any_text_are_parts_of_it_with_matched_braces(text):
    for box in find_boxes(text):
        assert box.content in text
        if box.end < 0:
            continue
        depth = 0
        for part in box.content.replace("\\{", "").replace("\\}", ""):
            depth += {"{": 1, "}": -1}.get(part, 0)
            assert depth >= 0 or "\\" in box

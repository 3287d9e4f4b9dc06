"""Nothing that a model or a file contains is ever run, and nothing secret is kept."""

import ast
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2a.datasets import DatasetError, load_dataset
from r2a.models import HUB_FILES, ModelError, resolve_model
from r2a.parts import Parts
from r2a.store import StoreError, open_hdf5, provenance, read_parquet, read_provenance, write_csv
from r2a.study import Dataset

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "docs", "envs", "profiles", "resources", "tests", "workflow")  # all that are not hidden
SOURCES = sorted([*(ROOT / "workflow").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "envs").rglob("*.py")])
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_ATTRIBUTES = {
    ("torch", "load"),
    ("torch", "save"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("os", "system"),
}


def forbidden(source):
    """What a program must not contain: ways to run text, or to load what can run."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                found.append(node.func.id)
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                name = (node.func.value.id, node.func.attr)
                found += [".".join(name)] if name in FORBIDDEN_ATTRIBUTES else []
            for keyword in node.keywords:
                is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and is_true:
                    found.append(f"{keyword.arg}=True")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_text_or_loads_what_can_run(path):
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from joblib import load", "eval(answer)", "torch.load(path)", "f(trust_remote_code=True)",
     "numpy.load(path, allow_pickle=True)", "yaml.load(text)", "subprocess.run(command, shell=True)"],
)  # fmt: skip
def test_the_check_itself_finds_each(source):
    assert forbidden(source)


def test_no_file_of_the_repository_can_run_when_loaded():
    files = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    assert len(files) > 500
    suffixes = {path.suffix for path in files}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy"}


def test_a_models_own_code_is_neither_fetched_nor_run_even_where_somebody_could_be_asked(tmp_path, monkeypatch):
    assert not any(Path("own.py").match(pattern) for pattern in HUB_FILES)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tmp_path / "m"
    shutil.copytree(ROOT / "resources/models/tiny-qwen", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    source = {"hub": None, "path": str(folder), "revision": None}
    with pytest.raises(ModelError, match="custom code"):
        resolve_model(tmp_path / "m.json", {"source": source, "endpoint": None, "model": "m", "dtype": "float32"})
    assert not (tmp_path / "ran").exists()


class Runs:
    """An object whose pickle opens a file for writing when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_hostile_stores_run_nothing_and_open_no_other_file(tmp_path):
    ran, secret = tmp_path / "ran", tmp_path / "secret.csv"
    secret.write_text("key\n1\n")
    hostile = np.array([Runs(str(ran))], dtype=object)
    parts = Parts(tmp_path / "x.h5", provenance({}), {"0": "a"})
    parts.add("0", {"a": np.zeros(1)})
    np.savez(next(parts.folder.glob("*.npz")), a=hostile)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        parts["0"]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["r2a"] = hostile.dumps().hex()
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(StoreError, match="delete it and run again"):
        read_provenance(tmp_path / "x.h5")
    with pytest.raises(StoreError, match="delete it and run again"), open_hdf5(tmp_path / "x.h5"):
        pass
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    with open_hdf5(tmp_path / "y.h5") as file, pytest.raises(KeyError):
        file["elsewhere"]
    table = pa.table({"a": [b"cos\nsystem\n(S'touch ran'\ntR."]}).replace_schema_metadata({"r2a": "__import__('os')"})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(StoreError, match="delete it and run again"):
        read_provenance(tmp_path / "x.parquet")
    with pytest.raises(StoreError, match="delete it and run again"):
        read_parquet(tmp_path / "x.parquet")
    assert not ran.exists()


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"uid": "a", "problem": ' + "9" * 5_000 + "}", '{"__reduce__": ["os.system", "touch ran"]}'],
    ids=["deep", "a long number", "a call"],
)
def test_hostile_json_is_an_error_in_words(text, tmp_path):
    (tmp_path / "x.jsonl").write_text(text + "\n")
    entry = Dataset(kind="problems", path=str(tmp_path / "x.jsonl")).model_dump(exclude={"label", "instruction"})
    with pytest.raises(DatasetError, match=r"x\.jsonl"):
        load_dataset(tmp_path / "out.parquet", entry | {"seed": 1, "dataset": "mine"})
    assert not (tmp_path / "ran").exists()


def test_no_text_in_a_table_is_a_formula_to_a_spreadsheet_and_numbers_stay_numbers(tmp_path):
    texts = ["=HYPERLINK(0)", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "-5", "+.5", "x=1"]
    write_csv(tmp_path / "x.csv", pd.DataFrame({"answer": texts, "difference": -1.5}), provenance({}))
    found = pd.read_csv(tmp_path / "x.csv", dtype={"answer": str})
    assert list(found["answer"]) == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert list(found["difference"]) == [-1.5] * len(texts)

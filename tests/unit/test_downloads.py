"""Models on the Hugging Face hub: found once, then read from disk."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from r2a.datasets import load_dataset
from r2a.model_check import check_model
from r2a.models import load_model, load_tokenizer, read_manifest, resolve_judge, resolve_model
from r2a.models.weights import COPIES, HUB_FILES
from r2a.store import read_parquet
from r2a.study import load_study, stage_settings

MODELS = Path(__file__).parents[2] / "resources/models"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STUDIED = ("attention", "ablation", "patching", "sentences")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study with a model and a judge that were downloaded from the hub before; the hub is out of reach now."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("tiny-qwen", "tiny-judge"):
        shutil.copytree(MODELS / name, tmp_path / f"models--me--{name}" / "snapshots" / COMMIT)
        branch = tmp_path / f"models--me--{name}" / "refs" / "main"
        branch.parent.mkdir()
        branch.write_text(COMMIT)
    monkeypatch.chdir(MODELS.parents[1])
    return load_study(
        {
            "study": "test", "seed": 1, "models": {"mine": {"hub": "me/tiny-qwen", "dtype": "float32"}},
            "judges": {"theirs": {"hub": "me/tiny-judge", "revision": "main"}},
            "datasets": {"puzzles": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}},
            "decodings": {"greedy": {"temperature": 0}},
        }
    )  # fmt: skip


def test_a_models_manifest_names_the_commit_and_the_folder_that_jobs_read(study, tmp_path):
    resolve_model(tmp_path / "mine.json", stage_settings(study, "models", "mine"))
    manifest = read_manifest(tmp_path / "mine.json")
    assert manifest["folder"] == str(tmp_path / "models--me--tiny-qwen/snapshots" / COMMIT)
    assert (manifest["models"]["mine"]["source"], manifest["models"]["mine"]["revision"]) == ("me/tiny-qwen", COMMIT)
    assert load_tokenizer(manifest["folder"]).encode("a") and load_model(manifest, "sdpa")


def test_a_judge_likewise(study, tmp_path):
    resolve_judge(tmp_path / "theirs.json", stage_settings(study, "judges", judge="theirs"))
    manifest = read_manifest(tmp_path / "theirs.json")
    assert manifest["folder"] == str(tmp_path / "models--me--tiny-judge/snapshots" / COMMIT)
    assert manifest["models"]["theirs"]["revision"] == COMMIT


def test_a_manifest_depends_on_what_is_downloaded_and_not_on_how_a_judge_is_asked(study):
    before = (
        stage_settings(study, "judges", judge="theirs"),
        stage_settings(study, "judgements", dataset="puzzles", judge="theirs"),
    )
    study.judges["theirs"].max_tokens = 7
    after = (
        stage_settings(study, "judges", judge="theirs"),
        stage_settings(study, "judgements", dataset="puzzles", judge="theirs"),
    )
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_the_laptop_study_runs_on_what_lies_in_the_hub_models_place(tmp_path, monkeypatch):
    """Both models by id and pinned commit; files of the tiny model, with a chat template, stand in for theirs."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(MODELS.parents[1])
    laptop = load_study(yaml.safe_load(Path("config/laptop.yaml").read_text()))
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
        "{% endif %}"
    )
    for name, model in laptop.models.items():
        assert re.fullmatch("[0-9a-f]{40}", model.revision)
        folder = tmp_path / f"models--{model.hub.replace('/', '--')}" / "snapshots" / model.revision
        shutil.copytree(MODELS / "tiny-qwen", folder)
        (folder / "chat_template.jinja").write_text(template)
        resolve_model(tmp_path / f"{name}.json", stage_settings(laptop, "models", name))
        manifest = read_manifest(tmp_path / f"{name}.json")
        assert manifest["folder"] == str(folder)
        assert manifest["models"][name]["revision"] == model.revision
        assert manifest["models"][name]["dtype"] in ("float32", "bfloat16")
        check_model(tmp_path / f"{name}.json", tmp_path / "check.json", stage_settings(laptop, "model_check", name))
        stages = json.loads((tmp_path / "check.json").read_text())["stages"]
        assert {found["stage"]: found["holds"] for found in stages} == dict.fromkeys(STUDIED, True)
    for name in laptop.datasets:
        load_dataset(tmp_path / f"{name}.parquet", stage_settings(laptop, "datasets", dataset=name))
        n_rows = 32 if name in laptop.pair_datasets else 16
        assert len(read_parquet(tmp_path / f"{name}.parquet")) == n_rows
    assert laptop.pair_datasets and {dataset.n_problems for dataset in laptop.datasets.values()} == {16}


def test_copies_of_the_weights_for_other_software_are_not_downloaded():
    copies = [
        "original/model-00001-of-2.safetensors",
        "original/config.json",
        "consolidated-00001-of-00002.safetensors",
    ]
    wanted = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "chat_template.jinja"]
    files = [*copies, *wanted, "metal/model.bin", "pytorch_model.bin", "README.md"]
    assert list(filter_repo_objects(files, allow_patterns=HUB_FILES, ignore_patterns=COPIES)) == wanted

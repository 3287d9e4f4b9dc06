"""Jobs that share a model's work on a dataset give together what one job would, and finished traces are found."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import r2a.generation
from r2a.formats import FORMATS
from r2a.generation import generate_traces
from r2a.generation.requests import Completion
from r2a.shards import WHOLE, gather_shards, shard_range
from r2a.store import (
    StoreError,
    add_array,
    add_axis,
    new_hdf5,
    parameters_hash,
    provenance,
    read_parquet,
    why_empty,
    write_json,
    write_parquet,
)
from r2a.study import ConfigError, load_study

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "model": "served", "dataset": "texts", "kind": "problems", "seed": 1, "instruction": "", "max_new_tokens": 50,
    "prompt": "raw", "without_reasoning": "finished", "think_tags": "token", "repetition": None,
    "reasoning_budget": None, "endpoint": {"model": "served", "kind": "completions", "body": {}, "prefill": {}},
    "condition": "with_reasoning", "decoding": "sampled", "temperature": 0.6, "top_p": None, "n_samples": 2,
}  # fmt: skip


def named(n_shards: int) -> list[str]:
    return [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]


@pytest.mark.parametrize("n_shards", [1, 3, 8])
def test_shards_have_every_number_once_in_order_and_as_many_as_the_others(n_shards):
    ranges = [shard_range(shard, 5) for shard in named(n_shards)]
    assert [number for own in ranges for number in own] == [0, 1, 2, 3, 4]
    sizes = [len(own) for own in ranges]
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that an engine was asked to complete; each completion depends only on its prompt."""
    prompts: list[str] = []

    def complete(requests, *_):
        for request in requests:
            prompts.append(request.key)
            text = f"Yes.</think> \\boxed{{{parameters_hash({'prompt': request.full_prompt})}}}"
            yield request, Completion((), "stop", 0.1, text)

    monkeypatch.setattr(r2a.generation, "_complete", complete)
    problems = pd.DataFrame({"uid": [f"text-{k}" for k in range(5)], "problem": [f"Is it {k}?" for k in range(5)]})
    write_parquet(tmp_path / "texts.parquet", problems, provenance({}))
    manifest = provenance({}) | {"folder": None, "n_positions": None, "models": {"served": {"source": "served"}}}
    format_ = {"format": FORMATS["r1"].function().as_mapping(), "declines_reasoning": False}
    write_json(tmp_path / "manifest.json", manifest | format_)
    return prompts


def generate(folder: Path, shard: str = WHOLE, **changed: Any) -> Path:
    name = "texts.parquet" if shard == WHOLE else f"texts.{shard}.parquet"
    output = folder / "traces" / name
    generate_traces(folder / "texts.parquet", folder / "manifest.json", output, SETTINGS | changed, {}, shard)
    return output


@pytest.mark.parametrize("n_shards", [3, 8])
def test_traces_of_shards_are_those_of_one_job(tmp_path, asked, n_shards):
    shards = [generate(tmp_path, shard) for shard in named(n_shards)]
    assert len(asked) == 5 * 2
    gather_shards(shards, tmp_path / "gathered.parquet")
    for ledger in (tmp_path / "traces").glob(".*.jsonl"):
        ledger.unlink()
    whole = generate(tmp_path)
    assert len(asked) == 2 * 5 * 2
    assert (tmp_path / "gathered.parquet").read_bytes() == whole.read_bytes()


def test_finished_traces_are_found_in_any_number_of_shards(tmp_path, asked):
    generate(tmp_path, "1-of-3")
    generate(tmp_path, "2-of-3")
    (tmp_path / "traces/.texts.2-of-3.ledger.jsonl").open("a").write('{"key": "torn')  # as a job at work leaves it
    n_asked = len(asked)
    for shard in named(2):
        generate(tmp_path, shard)
    generate(tmp_path)
    assert n_asked == 3 * 2 and len(asked) == len(set(asked)) == 5 * 2
    assert (tmp_path / "traces/.texts.2-of-3.ledger.jsonl").read_text().endswith('{"key": "torn')


def test_shards_of_different_parameters_do_not_mix(tmp_path, asked):
    shards = [generate(tmp_path, "1-of-2"), generate(tmp_path, "2-of-2", seed=2)]
    with pytest.raises(StoreError, match=r"2-of-2\.parquet: has other parameters than .*1-of-2\.parquet; delete both"):
        gather_shards(shards, tmp_path / "gathered.parquet")
    assert not (tmp_path / "gathered.parquet").exists()


def test_shards_without_any_row_make_an_empty_store_with_the_reason(tmp_path):
    """As in ablation, if not one trace fits into memory; one shard that has rows is the whole."""
    shards = [tmp_path / f"answers.{name}.parquet" for name in named(2)]
    for shard in shards:
        write_parquet(shard, pd.DataFrame(), provenance({}) | {"models": {}})
    gather_shards(shards, tmp_path / "answers.parquet")
    assert why_empty(tmp_path / "answers.parquet") == "no trace fits into memory (the shards' logs)"
    write_parquet(shards[1], pd.DataFrame({"uid": ["a"]}), provenance({}) | {"models": {}})
    gather_shards(shards, tmp_path / "answers.parquet")
    assert why_empty(tmp_path / "answers.parquet") is None
    assert read_parquet(tmp_path / "answers.parquet")["uid"].tolist() == ["a"]


def errors(monkeypatch: pytest.MonkeyPatch, **model: Any) -> str:
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    config["models"]["tiny-qwen"] = {"path": "resources/models/tiny-qwen"} | model
    with pytest.raises(ConfigError) as raised:
        load_study(config)
    return str(raised.value)


def test_less_than_one_shard_and_shards_of_an_endpoint_are_errors_in_words(monkeypatch):
    assert "models.tiny-qwen.shards: input should be greater than 0 (found 0)" in errors(monkeypatch, shards=0)
    endpoint = {"base_url": "http://localhost/v1", "model": "served"}
    found = errors(monkeypatch, path=None, endpoint=endpoint, shards=2)
    assert "models.tiny-qwen.shards: a single job queries an endpoint; raise endpoint.max_concurrency instead" in found


def test_shards_that_patched_other_layers_are_not_joined(tmp_path):
    shards = [tmp_path / f"pairs.{name}.h5" for name in named(2)]
    for path, layers in zip(shards, ([0, 2], [0, 3]), strict=True):
        with new_hdf5(path, provenance({})) as file:
            add_axis(file, "pair", range(2))
            add_axis(file, "layer", layers)
            add_array(file, "effect", ("pair", "layer"), "share")[:] = layers
    with pytest.raises(StoreError, match=r"pairs.2-of-2.h5: its axis /layer differs from that of .*pairs.1-of-2.h5"):
        gather_shards(shards, tmp_path / "pairs.h5")
    assert not (tmp_path / "pairs.h5").exists()


@pytest.mark.parametrize(("gpus", "is_refused"), [(1, False), (2, False), (3, True), (6, False), (12, True)])
def test_heads_that_vllm_cannot_split_over_the_gpus_are_told_before_any_job(monkeypatch, tmp_path, gpus, is_refused):
    """tiny-qwen has 6 attention heads and 2 key-value heads."""
    model = {"gpus": gpus, "shards": 0}
    words = f"models.tiny-qwen.gpus: vLLM cannot split 6 attention heads and 2 key-value heads over {gpus} GPUs"
    assert (f"{words}; take one of 1, 2, 6" in errors(monkeypatch, **model)) == is_refused


def test_heads_of_a_model_from_the_hub_are_refused_before_vllm_starts(tmp_path):
    from r2a.engine import EngineError, start_engine

    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 28, "num_key_value_heads": 4}))
    with pytest.raises(EngineError, match="cannot split 28 attention heads and 4 key-value heads over 8 GPUs"):
        start_engine(str(tmp_path), "bfloat16", 100, {"gpu": 8, "gpu_memory_percent": 90})

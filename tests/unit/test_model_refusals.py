"""What check_model and resolve_model refuse because of a configuration file is reported before any job runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import save_file
from transformers import CONFIG_MAPPING

from families import FAMILIES, LATENT, LONGROPE, N_LAYERS, ROUTED, tiny_model
from r2a.config_file import ANSWERS, RESTARTED, TRIED, read_config, refused_stages
from r2a.model_check import check_model
from r2a.models import ModelError, resolve_model
from r2a.store import provenance, write_json
from r2a.study import load_study
from r2a.study.checks import ConfigError, left_out_in_words

DYNAMIC = FAMILIES["llama+dynamic"]["rope_parameters"]
QUANTIZED = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
INDEX = {"index_topk": 16, "index_n_heads": 2, "index_head_dim": 16}
BY_KIND = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": DYNAMIC,
}
# for each configuration: the model's type, its settings besides those of tests/families.py, and what is refused
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "plain": ("llama", {}, ()),
    "windows": ("gemma3_text", {}, ()),
    "longrope": ("phi3+longrope", {}, ()),
    "longrope with the factor that follows": ("phi3+longrope", {"rope_parameters": LONGROPE | {"factor": 8.0}}, ()),
    "dynamic": ("llama+dynamic", {}, ()),
    "dynamic with the alpha that Hunyuan reads": (
        "hunyuan_v1_dense", {"rope_parameters": DYNAMIC | {"alpha": 1000.0}}, (),
    ),
    "attention factor": ("phi3+longrope", {"rope_parameters": LONGROPE | {"attention_factor": 1.9}}, TRIED),
    "short scale": ("phi3+longrope", {"rope_parameters": LONGROPE | {"short_mscale": 1.1}}, TRIED),
    "long scale": ("phi3+longrope", {"rope_parameters": LONGROPE | {"long_mscale": 1.9}}, TRIED),
    "another factor": ("phi3+longrope", {"rope_parameters": LONGROPE | {"factor": 32.0}}, TRIED),
    "trained positions": ("llama+dynamic", {"rope_parameters": DYNAMIC | {"max_trained_positions": 32}}, TRIED),
    "alpha": ("llama+dynamic", {"rope_parameters": DYNAMIC | {"alpha": 1000.0}}, TRIED),
    "dynamic in some layers": ("gemma3_text", {"rope_parameters": BY_KIND}, TRIED),
    "convolutions": ("lfm2", {}, RESTARTED),
    "Mamba in every layer beside attention": ("falcon_h1", {}, RESTARTED),
    "scaled queries": ("llama4_text", {}, RESTARTED),
    "no attention": (
        "granitemoehybrid", {"layer_types": ["mamba"] * N_LAYERS, "layers_block_type": ["mamba"] * N_LAYERS}, TRIED,
    ),
    "a head that vLLM does not load": ("cohere2", {"tie_word_embeddings": False}, TRIED),
    "layers of different heads": ("laguna", {"num_attention_heads_per_layer": [4, 2, 4, 2]}, TRIED),
    "an index": ("deepseek_v32", ROUTED | LATENT | INDEX, TRIED),
}  # fmt: skip


def manifest_of(family: str, settings: dict[str, Any], folder: Path) -> Path:
    """The manifest of a tiny model in a folder."""
    tiny_model(family, **settings).save_pretrained(folder)
    return in_manifest(folder)


def in_manifest(folder: Path) -> Path:
    origin = {"source": "here", "revision": None, "weights": None, "tokenizer": None, "dtype": "float32"}
    sizes = {"folder": str(folder), "n_positions": 512}
    write_json(folder / "manifest.json", provenance({}) | {"models": {"mine": origin}} | sizes)
    return folder / "manifest.json"


def refused(manifest: Path) -> tuple[str, ...]:
    """The stages that do not hold, by check_model."""
    output = manifest.with_name("check.json")
    check_model(manifest, output, {"model": "mine", "stages": list(TRIED)})
    return tuple(s["stage"] for s in json.loads(output.read_text())["stages"] if not s["holds"])


def told(folder: Path, **entry: Any) -> list[str]:
    """What is reported when a study of tiny-qwen and another model is read."""
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    config["models"]["further"] = {"path": str(folder), **entry}
    return list(left_out_in_words(load_study(config)))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_configuration_gives_away_what_check_model_refuses(case, tmp_path):
    family, settings, stages = CASES[case]
    assert refused(manifest_of(family, settings, tmp_path)) == stages
    assert refused_stages(read_config(str(tmp_path)) or {})[1] == stages
    lines = told(tmp_path)
    assert len(lines) == bool(stages)
    assert all(stage in lines[0] for stage in stages)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["longrope", "attention factor", "another factor", "long scale"])
def test_a_configuration_of_the_older_form_gives_away_the_same(case, tmp_path):
    """rope_scaling with its type and the switch beside it, as in published files."""
    family, settings, stages = CASES[case]
    manifest = manifest_of(family, settings, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rotary = config.pop("rope_parameters")
    config |= {"rope_theta": rotary.pop("rope_theta"), "rope_scaling": rotary | {"type": rotary.pop("rope_type")}}
    config["original_max_position_embeddings"] = rotary.pop("original_max_position_embeddings")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert refused_stages(config)[1] == stages
    assert refused(manifest) == stages


@pytest.mark.slow
@pytest.mark.parametrize("settings", [QUANTIZED, {"model_type": "mistral3"}])
def test_what_cannot_be_loaded_is_given_away(settings, tmp_path):
    manifest = manifest_of("mistral", {}, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert refused_stages(config)[1] == TRIED
    assert refused(manifest) == TRIED


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 has an encoder"),
        ({"model_type": "mamba", "state_size": 16}, "mamba has no attention heads"),
        ({"model_type": "brand_new"}, "transformers does not know models of the type brand_new"),
    ],
)
def test_what_resolve_model_refuses_is_given_away(settings, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    save_file({}, tmp_path / "model.safetensors")
    found, stages = refused_stages(settings)
    assert found == reason and ANSWERS in stages
    (line,) = told(tmp_path)
    assert line == f"models.further: {reason}, so resolve_model will refuse it; remove it, or study another checkpoint"
    source = {"path": str(tmp_path), "hub": None, "revision": None}
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve_model(
            tmp_path / "manifest.json", {"model": "mine", "source": source, "endpoint": None, "dtype": "float32"}
        )


def test_what_is_left_out_is_not_told(tmp_path):
    tiny_model("lfm2").config.save_pretrained(tmp_path)
    (line,) = told(tmp_path)
    assert line.startswith("models.further: ") and "kind conv" in line
    assert "so its answers, perturbation and attention are studied" in line
    assert "leave_out: [ablation, patching, sentences]" in line
    assert told(tmp_path, leave_out=["ablation", "patching", "sentences"]) == []


def test_a_study_whose_model_leaves_stages_out_keeps_the_others(tmp_path):
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    config["models"]["further"] = {"path": str(tmp_path), "leave_out": ["ablation", "patching", "sentences"]}
    study = load_study(config)
    assert "further" in study.weighted_models
    assert "further" not in [*study.ablated_models, *study.patched_models, *study.parsed_models]


RESTARTED_NOT = [
    "qwen3_next", "qwen3_5_text", "granitemoehybrid", "falcon_h1", "nemotron_h", "minimax", "lfm2", "kimi_linear",
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_config_files_give_away_which_families_have_no_restarts(family, tmp_path):
    tiny_model(family).config.save_pretrained(tmp_path)
    expected = RESTARTED if family in [*RESTARTED_NOT, "llama4_text"] else ()
    assert refused_stages(read_config(str(tmp_path)) or {})[1] == expected


# types whose modules r2a cannot see through, with settings that make a small model, and the reason
UNSEEN: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"n_layer": 4, "n_head": 4}, "no attention function"),
    "mpt": ({"d_model": 64, "n_layers": 4, "n_heads": 4}, "no attention function"),
    "gptj": ({"n_embd": 64, "n_layer": 4, "n_head": 4, "rotary_dim": 8}, "no attention function"),
    "falcon_mamba": ({"state_size": 16, "time_step_rank": 4}, "no attention function"),
    "bert": ({"is_decoder": True}, "no list of layers"),
    "biogpt": ({}, "no list of layers"),
    "recurrent_gemma": ({"lru_width": 64}, "no list of layers"),
    "zamba": (
        {"mamba_d_state": 16, "n_mamba_heads": 2, "attention_head_dim": 32, "num_key_value_heads": 4,
         "layers_block_type": ["mamba", "hybrid"] * 2},
        "share one attention",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNSEEN)
def test_the_type_gives_away_modules_that_cannot_be_seen_through(kind, tmp_path):
    settings, reason = UNSEEN[kind]
    assert refused(manifest_of(kind, settings, tmp_path)) == TRIED
    found, stages = refused_stages(read_config(str(tmp_path)) or {})
    assert stages == TRIED and reason in found
    (line,) = told(tmp_path)
    assert all(stage in line for stage in TRIED)


@pytest.mark.parametrize("kind", ["gpt_neo", "falcon", "rwkv", "xglm", "roberta", "whisper", "zamba2"])
def test_further_types_give_the_same_away(kind):
    assert set(TRIED) <= set(refused_stages({"model_type": kind})[1])
    assert set(TRIED) <= set(refused_stages({"model_type": "outer", "text_config": {"model_type": kind}})[1])


@pytest.mark.parametrize("kind", ["bamba", "jamba", "kimi_linear", "olmo_hybrid"])
def test_further_recurrent_families_are_known_by_their_settings(kind):
    """As in published files, without a list of the layers' kinds."""
    config = CONFIG_MAPPING[kind]().to_dict()
    assert refused_stages(config)[1] in (RESTARTED, TRIED)
    published = {name: value for name, value in config.items() if name not in ("layer_types", "layers_block_type")}
    assert refused_stages(published)[1] == RESTARTED


@pytest.mark.parametrize(
    ("names", "below"),
    [
        ({"HF_HUB_CACHE": "{}"}, "."), ({"HF_HUB_CACHE": "$HERE"}, "."), ({"HF_HOME": "{}"}, "hub"),
        ({"HF_HOME": "~"}, "hub"), ({"XDG_CACHE_HOME": "{}"}, "huggingface/hub"), ({}, ".cache/huggingface/hub"),
    ],
)  # fmt: skip
def test_a_cached_models_config_file_is_read_from_where_the_hub_keeps_it(names, below, tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "{}", "HERE": "{}"} | names).items():
        monkeypatch.setenv(name, value.format(tmp_path))
    tmp_path = tmp_path / below
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    tiny_model("lfm2").config.save_pretrained(snapshot)
    assert read_config(None, "org/name") is None
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert refused_stages(read_config(None, "org/name") or {})[1] == RESTARTED
    assert refused_stages(read_config(None, "org/name", "abc") or {})[1] == RESTARTED


@pytest.mark.parametrize("is_nested", [False, True])
def test_heads_that_cannot_be_split_over_gpus_are_told_of_a_cached_and_of_a_nested_model(
    tmp_path, monkeypatch, is_nested
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2}
    (snapshot / "config.json").write_text(json.dumps({"text_config": sizes} if is_nested else sizes))
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    config["models"]["further"] = {"hub": "org/name", "revision": "abc", "gpus": 4}
    with pytest.raises(ConfigError, match=r"further\.gpus: vLLM cannot split 6 attention heads"):
        load_study(config)


def test_perturbed_answers_that_nothing_tests_are_told():
    study = {
        "study": "mine", "seed": 1, "models": {"m": {"hub": "a/b"}}, "decodings": {"greedy": {"temperature": 0}},
        "datasets": {"d": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}},
    }  # fmt: skip
    for kinds, cuts, is_told in (
        (["filler"], [0, 100], 1),
        (["cut", "filler"], [0], 1),
        (["cut"], [100], 0),
        ([], [], 0),
    ):
        told = left_out_in_words(load_study({**study, "perturbation": {"kinds": kinds, "cuts": cuts or [100]}}))
        assert len([words for words in told if words.startswith("perturbation: ")]) == is_told

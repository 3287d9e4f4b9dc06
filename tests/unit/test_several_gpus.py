"""A model whose layers are spread over two devices gives the same as on one, in 32 bits and in 16."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from families import tiny_model
from pretended_gpus import PretendedGpus, spread
from r2a.ablation.runs import ablate_heads
from r2a.attention import capture_attention
from r2a.attention.diagnostics import diagnose_heads
from r2a.attention.rows import capture_rows
from r2a.config_file import TRIED
from r2a.devices import FULL_CAPABILITY
from r2a.model_check import check_model, stages_that_hold
from r2a.models import ModelError, load_model, load_tokenizer, marks_of, read_manifest
from r2a.models.attention import SEAM
from r2a.models.decoder import Decoder, follow_vllm
from r2a.patching.components import hook_points_of
from r2a.patching.mechanism import follow_patches
from r2a.patching.runs import capture_activations, patch_pairs
from r2a.roles import KEY_ROLES, PROBE
from r2a.sentences.runs import measure_sentences
from r2a.store import provenance, read_parquet, read_provenance, write_parquet
from r2a.traces import segment_bounds
from random_traces import write_random_traces
from same_stores import assert_same_store

pytestmark = pytest.mark.slow

NAMES = {"model": "random", "dataset": "texts", "decoding": "greedy", "seed": 1}
ATTENTION = NAMES | {"kernel": "fused", "cue_words": ["Wait"], "temperature": 0}
ROWS = ATTENTION | {
    "uids": [],
    "n_cases": 2,
    "n_top_heads": 2,
    "row_heads": "all",
    "row_dtype": "float32",
    "case_megabytes": 8,
}
DIAGNOSTICS = NAMES | {
    "n_repeats": 2, "repeat_tokens": 20, "induction_prompts": ["one two one two"], "lengths": [40], "depths": [0.5],
    "needles": [{"needle": "A fox sang.", "question": " Who sang?"}],
}  # fmt: skip
ABLATION = NAMES | {
    "version": 1,
    "n_problems": 2, "modes": ["zero", "mean", "cut_off"], "doses": [1, 3], "n_draws": 1, "extra_tokens": 4,
    "selections": ["random", "matched"],
}  # fmt: skip
PATCHING = NAMES | {"components": ["resid_pre", "resid_mid", "attn_out", "mlp_out", "z"], "range_tokens": 3,
    "layer_step": 1, "scan_effect": 0.1,
}  # fmt: skip
PATCHING["controls"] = ["same_answer", "unrelated_answer", "random_vector"]
MECHANISM = NAMES | {"range_tokens": 3, "n_top_heads": 2}
SENTENCES = NAMES | {"n_top_heads": 2, "n_problems": None, "stub": None, "n_matrices": 3}


def preferred_id(model: Any, ids: list[int]) -> int:
    with torch.no_grad():
        return int(model(torch.tensor([ids], device=model.device)).logits[0, -1].argmax())


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of three layers, its number format, and everything that its stages read."""
    folder = tmp_path_factory.mktemp(request.param)
    write_random_traces(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["models"]["random"]["dtype"] = request.param
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "haystack.txt").write_text("Rain fell. Wind blew. Night came.")
    heads = pd.DataFrame([(layer, head) for layer in range(3) for head in range(4)], columns=["layer", "head"])
    heads = heads.assign(rank=range(12, 0, -1), has_attention=True, is_rfh=heads["head"] == 0)
    heads = heads.assign(a2p=0.1, a2bos=0.2, output_share=0.3, contribution=0.4)
    write_parquet(folder / "heads.parquet", heads, provenance({}))
    traces = read_parquet(folder / "traces.parquet").assign(answer_text="It is it.")
    write_parquet(folder / "traces.parquet", traces, provenance({}, [folder / "manifest.json"]))
    model, pairs = load_model(read_manifest(folder / "manifest.json"), "sdpa"), []
    for number, (clean, corrupted) in enumerate([(0, 2), (2, 0)]):
        row: dict[str, Any] = {
            "probe": "plain",
            "pair": f"pair-{number}",
            "left_out": "",
            "roles": [f"{PROBE}first", *KEY_ROLES],
        } | {"template": "t"}
        for run, of, answer in (("clean", clean, "answer_a_id"), ("corrupted", corrupted, "answer_b_id")):
            trace = traces.iloc[of]
            ids = [*trace["prompt_token_ids"], *trace["completion_token_ids"]][:-3]
            close = trace["bounds"][4]
            row |= {
                f"{run}_ids": ids,
                f"{run}_positions": [close - 2, close - 1, close, len(ids) - 1],
                f"{run}_masked": [],
            }
            row |= {f"{run}_reasoning_start": trace["bounds"][3], answer: preferred_id(model, ids)}
        pairs.append(row)
    write_parquet(folder / "pairs.parquet", pd.DataFrame(pairs), provenance({}))
    return folder


def attention(folder: Path, output: Path) -> None:
    capture_attention([folder / "traces.parquet"], folder / "manifest.json", output, ATTENTION, 1000)


def eager_attention(folder: Path, output: Path) -> None:
    settings = ATTENTION | {"kernel": "eager"}
    capture_attention([folder / "traces.parquet"], folder / "manifest.json", output, settings, 1000)


def rows(folder: Path, output: Path) -> None:
    capture_rows(folder / "traces.parquet", folder / "manifest.json", folder / "heads.parquet", output, ROWS)


def diagnostics(folder: Path, output: Path) -> None:
    diagnose_heads(folder / "manifest.json", folder / "haystack.txt", output, DIAGNOSTICS)


def patching(folder: Path, output: Path) -> None:
    activations = output.with_name(f"activations-{output.name}")
    capture_activations(folder / "pairs.parquet", folder / "manifest.json", activations, PATCHING)
    activations.replace(folder / "activations.h5")
    patch_pairs(
        folder / "pairs.parquet", folder / "activations.h5", folder / "manifest.json", output, PATCHING, 2000
    )  # fmt: skip


def ablation(folder: Path, output: Path) -> None:
    inputs = (folder / name for name in ("traces.parquet", "heads.parquet", "manifest.json"))
    ablate_heads(*inputs, output, ABLATION, 500)


def mechanism(folder: Path, output: Path) -> None:
    activations = output.with_name(f"activations-{output.name}")
    capture_activations(folder / "pairs.parquet", folder / "manifest.json", activations, PATCHING)
    activations.replace(folder / "activations.h5")
    names = ("pairs.parquet", "activations.h5", "heads.parquet", "manifest.json")
    follow_patches(*(folder / name for name in names), output, MECHANISM, 500)


def sentences(folder: Path, output: Path) -> None:
    if not (folder / "boxed.h5").exists():
        write_boxed_traces(folder)
    names = ("boxed.parquet", "texts.parquet", "boxed.h5", "heads.parquet", "manifest.json")
    measure_sentences(*(folder / name for name in names), output, SENTENCES, 500)


def write_boxed_traces(folder: Path) -> None:
    """The traces with final answers, their attention, and the reference answers."""
    rows, origin = read_parquet(folder / "traces.parquet"), read_provenance(folder / "traces.parquet")
    tokenizer, marks = load_tokenizer(folder), marks_of(folder)
    texts = tokenizer.batch_decode(list(rows["completion_token_ids"]))
    boxed = [text.replace("It is it.", "\\boxed{it}") for text in texts]
    rows["completion_token_ids"] = [tokenizer.encode(text, add_special_tokens=False) for text in boxed]
    rows["answer_text"] = "\\boxed{it}"
    both = zip(rows["prompt_token_ids"], rows["completion_token_ids"], strict=True)
    rows["bounds"] = [segment_bounds(list(prompt), completion, marks) for prompt, completion in both]
    rows["answer_text"] = "\\boxed{it}"
    write_parquet(folder / "boxed.parquet", rows, origin)
    write_parquet(folder / "texts.parquet", rows[["uid"]].assign(answer="so"), provenance({}))
    capture_attention([folder / "boxed.parquet"], folder / "manifest.json", folder / "boxed.h5", ATTENTION, 1000)


STAGES = [attention, eager_attention, rows, diagnostics, patching, mechanism, ablation, sentences]
MODULES = [
    "attention", "attention.rows", "attention.diagnostics", "patching.runs", "patching.mechanism", "ablation.runs",
    "sentences.runs", "model_check",
]  # fmt: skip


@pytest.mark.parametrize("unembedding", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_two_pretended_devices_give_the_stores_of_one(folder, monkeypatch, stage, unembedding):
    """The unembedding is on the embedding's device, as when they are tied, or on the last layer's."""
    suffix = "parquet" if stage is ablation else "h5"
    one, two = (folder / f"{stage.__name__}-{n}.{suffix}" for n in (1, 2))
    if not one.exists():
        stage(folder, one)
    manifest = read_manifest(folder / "manifest.json")
    models = {name: spread(load_model(manifest, name), unembedding) for name in ("eager", SEAM)}
    for module in MODULES:
        monkeypatch.setattr(f"r2a.{module}.load_model", lambda _, name: models[name])
    with PretendedGpus():
        stage(folder, two)
    if suffix == "h5":
        assert_same_store(one, two)
    else:
        pd.testing.assert_frame_equal(read_parquet(one), read_parquet(two))


def test_every_stage_is_tried_on_two_pretended_devices_as_on_one(folder, monkeypatch):
    settings = {"model": "random", "stages": list(TRIED)}
    model = spread(load_model(read_manifest(folder / "manifest.json"), SEAM), 1)
    monkeypatch.setattr("r2a.model_check.load_model", lambda *_: model)
    with PretendedGpus():
        check_model(folder / "manifest.json", folder / "check.json", settings)
    found = json.loads((folder / "check.json").read_text())
    assert [(stage["stage"], stage["reason"]) for stage in found["stages"]] == [(stage, "") for stage in TRIED]


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "deepseek_v3", "exaone4+window", "phi3+longrope", "granite"])
def test_stages_of_a_family_are_exact_on_two_pretended_devices(family):
    """Softcaps, sinks, narrower values, windows, two sets of rotary factors, and factors on the residual stream."""
    model = tiny_model(family, SEAM)
    follow_vllm(Decoder(model))
    components = hook_points_of(model).components
    with PretendedGpus():
        found = stages_that_hold(spread(model, 1), TRIED, 256, "float32", components)
    assert [(stage["stage"], stage["reason"]) for stage in found] == [(stage, "") for stage in TRIED]


def test_pretended_devices_refuse_what_gpus_refuse():
    with PretendedGpus():
        first, second = torch.ones(2, device="cpu:0"), torch.ones(2, device="cpu:1")
        assert (first.device, second.to(first.device).device) == (torch.device("cpu:0"), torch.device("cpu:0"))
        assert (first + second.to(first)).tolist() == [2, 2]
        for refused in (lambda: first + second, lambda: torch.stack([first, second]), first.numpy):
            with pytest.raises(RuntimeError):
                refused()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("stage", STAGES)
def test_a_gpu_gives_the_stores_of_the_cpu(folder, monkeypatch, stage):
    if folder.name.startswith("bfloat16") and torch.cuda.get_device_capability() < FULL_CAPABILITY:
        pytest.skip("this GPU does not compute in bfloat16")
    suffix = "parquet" if stage is ablation else "h5"
    of_cpu, of_gpu = (folder / f"{stage.__name__}-{n}.{suffix}" for n in ("cpu", "cuda"))
    with monkeypatch.context() as alone:
        alone.setattr(torch.cuda, "is_available", lambda: False)
        stage(folder, of_cpu)
    stage(folder, of_gpu)
    if not folder.name.startswith("float32"):
        return  # it ran; in 16 bits, a random model's values differ by more than a tolerance that would tell anything
    if suffix == "h5":
        assert_same_store(of_cpu, of_gpu)
    else:
        pd.testing.assert_frame_equal(read_parquet(of_cpu), read_parquet(of_gpu), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
@pytest.mark.parametrize("stage", STAGES)
def test_two_gpus_give_the_stores_of_one(folder, monkeypatch, stage):
    suffix = "parquet" if stage is ablation else "h5"
    one, two = (folder / f"{stage.__name__}-{n}.{suffix}" for n in ("gpu", "gpus"))
    with monkeypatch.context() as alone:
        alone.setattr(torch.cuda, "device_count", lambda: 1)
        stage(folder, one)
    model = load_model(read_manifest(folder / "manifest.json"), "sdpa")
    assert {str(parameter.device) for parameter in model.parameters()} == {"cuda:0", "cuda:1"}
    stage(folder, two)
    if suffix == "h5":
        assert_same_store(one, two)
    else:
        pd.testing.assert_frame_equal(read_parquet(one), read_parquet(two), atol=1e-4)


def test_weights_that_do_not_fit_into_the_gpus_are_not_left_on_the_host(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ModelError, match=r"random: its weights do not fit into 2 GPUs; raise models\.random\.gpus"):
        load_model(read_manifest(folder / "manifest.json"), "sdpa")

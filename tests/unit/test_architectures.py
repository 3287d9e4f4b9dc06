"""Every family of decoders gives, stage by stage, what the model's own forward pass gives, or is refused by name.

Short and long traces share a pass; the long one exceeds every window, chunk and switch of rotary factors. `pytest
--write-models` writes the results into docs/models.md.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForImageTextToText
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from families import COMMON, D_MODEL, FAMILIES, LOCAL, N_HEADS, WINDOW, random_ids, tiny_model
from r2a.ablation.arms import Arm
from r2a.ablation.decoding import answer_outputs, generate, of_others, read
from r2a.attention.reference import rerun_eager
from r2a.attention.rerun import attention_rows, rerun_traces
from r2a.config_file import TRIED, longrope_switch, read_config
from r2a.formats import FORMATS
from r2a.model_check import check_model, long_length, stages_that_hold
from r2a.models import ModelError, refuse_failed
from r2a.models.attention import SEAM, AttentionError, attention_kernel
from r2a.models.decoder import Decoder, follow_vllm
from r2a.models.manifest import interpreted_sizes, written_sizes
from r2a.models.rounding import TOLERANCES, rounding
from r2a.patching.components import COMPONENTS, capture, hook_points_of
from r2a.patching.patcher import Patcher
from r2a.roles import RFH, UNABLATED
from r2a.store import NothingToMeasure, provenance, write_json
from r2a.traces import Bounds

pytestmark = pytest.mark.slow

LENGTHS = (30, 100, 51)
POSITIONS = [45, 70, 99]
N_ANSWER = 8
APART = [
    "qwen3_next", "qwen3_5_text", "granitemoehybrid", "falcon_h1", "nemotron_h", "minimax", "lfm2", "llama4_text",
    "kimi_linear",
]  # fmt: skip
# families whose layers' outputs do not follow from what enters them, and why
BEYOND = {
    "gemma3n_text": "4 residual streams enter each layer",
    "gemma4_text+shared": "its last 2 layers attend to the keys of earlier ones",
}
NO_MLP = ["opt", "gemma4_text+moe", "granitemoeshared"]  # none, or none of one module
NO_MIDDLE = ["gpt_neox", "phi", "cohere", "cohere2", "gemma4_text", *NO_MLP]
GATED = ["afmoe", "laguna"]  # heads' outputs, before the projection
RESTARTED = [family for family in FAMILIES if family not in APART]
PATCHED = [family for family in RESTARTED if family not in BEYOND]
NOTHING = Arm(UNABLATED, UNABLATED, 0, ())
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
MARK = "<!-- architectures: written by `pytest --write-models` -->\n"
END_MARK = "<!-- end of architectures -->\n"
FOUND: dict[str, dict[str, str]] = {}


def seen_through(family: str) -> tuple[Any, Decoder]:
    model = tiny_model(family, SEAM)
    decoder = Decoder(model)
    follow_vllm(decoder)
    return model.requires_grad_(False), decoder


def note(family: str, stage: str, words: str) -> None:
    FOUND.setdefault(family, {})[stage] = words


def bounds_of(n: int) -> Bounds:
    return Bounds(0, 1, n // 4, n // 4 + 1, n // 2, n // 2 + 1, n - 1, n)


def own_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with attention_kernel(model, "eager"):
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.std())


# ---- attention


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_traces_that_share_passes_is_eager_attention_of_each_alone(family):
    model, decoder = seen_through(family)
    ids = [random_ids(n, seed=n) for n in LENGTHS]
    bounds = [bounds_of(n) for n in LENGTHS]
    for trace, of, (kept, hidden) in zip(ids, bounds, list(rerun_traces(model, ids, bounds, 1000)), strict=True):
        with attention_kernel(model, "eager"):
            expected, own_hidden = rerun_eager(model, trace, of)
        for name in ("reasoning_mass", "answer_mass", "centre", "spread"):
            np.testing.assert_allclose(getattr(kept, name), getattr(expected, name), atol=1e-4, err_msg=name)
        assert not np.isnan(kept.answer_mass[decoder.attending]).any()
        assert distance(hidden, own_hidden) < 1e-4
        assert distance(decoder.logits(hidden[-1:])[0], own_logits(model, trace)) < 1e-4
    layers = len(decoder.attending)
    note(family, "attention", "exact" if layers == decoder.n_layers else "exact in the layers that attend")


@pytest.mark.parametrize("family", ["gpt_oss", "gemma2", "deepseek_v3", "mistral+window", "llama4_text", "lfm2"])
def test_chosen_rows_are_those_of_eager_attention(family):
    model, decoder = seen_through(family)
    ids, rows = random_ids(90), [0, 7, 60, 89]
    heads = [(layer, head) for layer in decoder.attending for head in (0, 3)]
    found = attention_rows(model, ids, heads, rows)
    with attention_kernel(model, "eager"):
        whole = decoder.body(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    by_layer = dict(zip(decoder.attending, whole, strict=True))
    for number, (layer, head) in enumerate(heads):
        np.testing.assert_allclose(found[number], by_layer[layer][0, head, rows], atol=1e-5)


# ---- patching


@pytest.mark.parametrize("family", PATCHED)
def test_restarts_give_what_whole_hooked_passes_give_for_every_component(family):
    model, decoder = seen_through(family)
    patcher, hook_points = Patcher(model), hook_points_of(model)
    ids, other = random_ids(LENGTHS[1], seed=1), random_ids(LENGTHS[1], seed=2)
    missing = ["resid_mid"] * (family in NO_MIDDLE) + ["mlp_out"] * (family in NO_MLP)
    assert hook_points.components == [name for name in COMPONENTS if name not in missing]
    vectors, logits = capture(model, other, POSITIONS, hook_points.components)
    assert distance(logits, own_logits(model, other)) < 1e-4
    kept = patcher.keep(ids, POSITIONS)
    for component in hook_points.components:
        patched = patcher.logits(patcher.patch(kept, component, vectors[component], 1000))
        for layer in range(decoder.n_layers):
            for place, position in enumerate(POSITIONS):
                head = (layer + place) % N_HEADS

                def put(found: torch.Tensor, at: Any = (component, layer, place, position, head)) -> torch.Tensor:
                    component, layer, place, position, head = at
                    changed = found.clone()
                    if component == "z":
                        heads = changed.unflatten(-1, (N_HEADS, -1))
                        heads[0, position, head] = vectors["z"][layer, place, head, : heads.shape[-1]]
                    else:
                        changed[0, position] = vectors[component][layer, place]
                    return changed

                with hook_points.hooked(layer, component, put):
                    expected = own_logits(model, ids)
                found = patched[layer, place, head] if component == "z" else patched[layer, place]
                assert distance(found, expected) < 1e-4, (component, layer, position)
    note(family, "patching", f"exact; has no {' and no '.join(missing)}" if missing else "exact")


@pytest.mark.parametrize("family", ["mistral+window", "gemma2", "gpt_oss", "mimo_v2_flash", "opt"])
def test_masked_padding_changes_nothing_beyond_the_window(family):
    model, _ = seen_through(family)
    patcher, ids = Patcher(model), random_ids(LENGTHS[1], seed=1)
    masked = [1, 2, 3, 31, 32, 90]
    padded = list(ids)
    for position in masked:
        padded.insert(position, 1)
    at = [place for place in range(len(padded)) if place not in masked]
    _, logits = capture(model, padded, [0], [], masked)
    assert distance(logits, own_logits(model, ids)) < 1e-4
    runs = patcher.keep(ids, POSITIONS), patcher.keep(padded, [at[position] for position in POSITIONS], masked=masked)
    vectors, _ = capture(model, random_ids(LENGTHS[1], seed=2), POSITIONS, ["attn_out"])
    bare, found = (patcher.logits(patcher.patch(run, "attn_out", vectors["attn_out"], 1000)) for run in runs)
    torch.testing.assert_close(found, bare, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss", "gpt_neox", "deepseek_v3", "granite"])
def test_gradients_are_those_of_a_whole_pass(family):
    model, _ = seen_through(family)
    patcher = Patcher(model)
    ids, components = random_ids(60), patcher.hook_points.components
    gradients = patcher.gradients(patcher.keep(ids, [20, 59]), 3, 4, components)
    captured: dict[str, torch.Tensor] = {}

    def keep(tensor: torch.Tensor, component: str) -> torch.Tensor:
        captured[component] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return captured[component]

    for component in components:
        with (
            patcher.hook_points.hooked(2, component, lambda tensor, name=component: keep(tensor, name)),
            torch.enable_grad(),
        ):
            if component == "resid_mid":  # changed in place, so it cannot be a leaf; resid_pre is
                with patcher.hook_points.hooked(2, "resid_pre", lambda tensor: tensor.detach().requires_grad_()):
                    logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            else:
                logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            (expected,) = torch.autograd.grad(logits[3] - logits[4], captured[component])
        found = gradients[component][2].flatten(1)
        torch.testing.assert_close(found, expected[0, [20, 59]], atol=1e-5, rtol=1e-3, msg=component)


# ---- ablation


def greedy(model: Any, ids: list[int], n_tokens: int) -> list[int]:
    """The model's greedy continuation, by whole eager passes."""
    answer: list[int] = []
    while len(answer) < n_tokens:
        answer.append(int(own_logits(model, [*ids, *answer]).argmax()))
    return answer


@pytest.mark.parametrize("family", RESTARTED)
def test_answers_of_short_and_long_traces_are_those_of_whole_passes(family):
    """Unablated, token by token; with heads replaced by zero or their mean, as whole passes with hooks continue."""
    model, _ = seen_through(family)
    traces = [random_ids(n, seed=n) for n in LENGTHS]
    bounds = [Bounds(0, 1, 6, 7, n - 4, n - 3, n, n) for n in LENGTHS]
    cut = [trace[: of.answer] for trace, of in zip(traces, bounds, strict=True)]
    readings = [read(model, ids, of) for ids, of in zip(cut, bounds, strict=True)]
    outputs, heads = answer_outputs(model, traces, bounds), ((0, 1), (2, 3))
    for number, reading in enumerate(readings):
        reading.mean, reading.resampled = of_others(outputs, number, 0)
    modes = ["zero"] if family in GATED else ["zero", "mean"]  # the mean is put in before the gate, and hooks after it
    arms = [NOTHING, *(Arm(mode, RFH, 0, heads) for mode in modes)]
    rows = [(reading, arm) for reading in readings for arm in arms]
    answers = iter(generate(model, rows, [N_ANSWER] * len(rows), eos=[]))
    hook_points = hook_points_of(model)
    for ids, reading in zip(cut, readings, strict=True):
        mean = reading.mean
        assert next(answers).token_ids == greedy(model, ids, N_ANSWER)
        for arm in arms[1:]:
            found = next(answers).token_ids

            def put(layer: int, head: int, n_read: int, mode: str = arm.mode, mean: Any = mean) -> Any:
                def change(z: torch.Tensor) -> torch.Tensor:
                    changed = z.clone()
                    of_heads = changed.unflatten(-1, (N_HEADS, -1))
                    of_heads[0, n_read:, head] = 0 if mode == "zero" else mean[layer, head, : of_heads.shape[-1]]
                    return changed

                return hook_points.hooked(layer, "z", change)

            with put(*heads[0], len(ids)), put(*heads[1], len(ids)):
                assert found == greedy(model, ids, N_ANSWER), arm.mode
    note(family, "ablation", "exact")


def slow_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Whole rows of scores, with module.hidden [head, query, key] added if a test has set it."""
    key, value = (side.repeat_interleave(query.shape[1] // side.shape[1], 1) for side in (key, value))
    scores = query @ key.transpose(2, 3) * scaling + attention_mask + getattr(module, "hidden", 0)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


@pytest.mark.parametrize("family", ["mistral+window", "gemma3_text"])
def test_heads_cut_off_from_a_reasoning_beyond_the_window_answer_as_in_masked_whole_passes(family):
    AttentionInterface.register("slow", slow_attention)
    AttentionMaskInterface.register("slow", eager_mask)
    model, decoder = seen_through(family)
    ids = random_ids(LENGTHS[1], seed=1)
    bounds = Bounds(0, 1, 6, 7, len(ids) - 4, len(ids) - 3, len(ids), len(ids))
    assert bounds.answer - bounds.reasoning > WINDOW
    heads = tuple((layer, head) for layer in range(decoder.n_layers) for head in (0, 1))
    read_ids = ids[: bounds.answer]
    rows = [(read(model, read_ids, bounds), Arm("cut_off", RFH, 0, heads))]
    (found,) = generate(model, rows, [N_ANSWER], eos=[])
    answer: list[int] = []
    while len(answer) < N_ANSWER:
        n_tokens = len(read_ids) + len(answer)
        hidden = torch.zeros(N_HEADS, n_tokens, n_tokens)
        hidden[:2, len(read_ids) :, bounds.span("reasoning")] = -torch.inf
        for attention in decoder.attentions:
            attention.hidden = hidden
        with attention_kernel(model, "slow"):
            answer.append(int(model(torch.tensor([[*read_ids, *answer]]), use_cache=False).logits[0, -1].argmax()))
    assert found.token_ids == answer


# ---- what is refused


@pytest.mark.parametrize("family", APART)
def test_what_cannot_be_exact_is_refused_by_stage_and_name(family):
    model, decoder = seen_through(family)
    found = {
        s["stage"]: s
        for s in stages_that_hold(model, ["attention", "patching", "ablation", "sentences"], 512, "float32", COMPONENTS)
    }
    assert found["attention"]["holds"] and found["attention"]["deviation"] < 1e-4
    for stage in ("patching", "ablation", "sentences"):
        assert not found[stage]["holds"]
        assert found[stage]["reason"].endswith(decoder.apart)
        if stage != "sentences":
            note(family, stage, f"refused: {decoder.apart}")


@pytest.mark.parametrize("family", BEYOND)
def test_a_layer_that_takes_more_than_one_stream_is_not_patched(family):
    model, decoder = seen_through(family)
    with pytest.raises(ModelError, match=f"{decoder.name}: patching cannot restart its runs: {BEYOND[family]}"):
        Patcher(model)
    note(family, "patching", f"refused: {BEYOND[family]}")


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("diffllama", {}, "its layers attend more than once"),
        ("laguna", {"num_attention_heads_per_layer": [4, 2, 4, 2]}, r"different numbers of heads \(2, 4\)"),
        ("doge", {}, "read or change the attention mask"),
        ("jetmoe", LOCAL | {"kv_channels": 16}, "JetMoeAttention has none of o_proj"),
    ],
)
def test_a_family_of_another_structure_is_refused_with_what_is_different(family, settings, reason):
    with pytest.raises((ModelError, AttentionError), match=reason):
        Decoder(tiny_model(family, SEAM, **settings))


def test_every_stage_holds_of_a_model_with_softcaps_which_sdpa_ignores():
    found = stages_that_hold(
        tiny_model("gemma2", SEAM), ["attention", "patching", "ablation", "sentences"], 512, "float32", COMPONENTS
    )
    assert [stage["reason"] for stage in found] == [""] * 4


def written(family: str, folder: Path) -> Path:
    """Write a model of the family and its manifest; return the manifest's path."""
    tiny_model(family).save_pretrained(folder)
    return manifest_in(folder)


def manifest_in(folder: Path) -> Path:
    origin = {"source": "here", "revision": None, "weights": None, "tokenizer": None, "dtype": "float32"}
    sizes = {"folder": str(folder), "n_positions": 512}
    write_json(folder / "manifest.json", provenance({}) | {"models": {"mine": origin}} | sizes)
    return folder / "manifest.json"


def test_check_model_says_what_fails_and_what_holds_and_the_rest_of_the_study_goes_on(tmp_path, caplog):
    settings = {
        "model": "mine",
        "stages": ["attention", "ablation", "patching", "sentences"],
        "components": ["resid_pre"],
    }
    check = tmp_path / "check.json"
    with caplog.at_level("WARNING", "r2a"):
        check_model(written("lfm2", tmp_path), check, settings)
    assert "mine: ablation does not hold" in caplog.text and "; patching does not hold" in caplog.text
    assert "What holds is studied: answers, perturbation, attention." in caplog.text
    refuse_failed(check, "attention")
    for stage in ("ablation", "patching", "sentences"):
        with pytest.raises(NothingToMeasure, match=f"{stage} does not hold for this model: .*carry a state"):
            refuse_failed(check, stage)


def test_a_model_that_cannot_be_loaded_has_its_answers_and_nothing_else(tmp_path):
    settings = {"model": "mine", "stages": ["attention"], "components": ["resid_pre"]}
    manifest = written("llama", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nothing that is known"}')
    check_model(manifest, tmp_path / "check.json", settings)
    with pytest.raises(NothingToMeasure, match="transformers does not know models of the type nothing"):
        refuse_failed(tmp_path / "check.json", "attention")


def test_a_component_that_a_model_does_not_have_is_left_out_of_its_patching_alone(tmp_path, caplog):
    settings = {"model": "mine", "stages": ["patching"], "components": ["resid_pre", "resid_mid", "z"]}
    with caplog.at_level("WARNING", "r2a"):
        check_model(written("phi", tmp_path), tmp_path / "check.json", settings)
    assert "mine: has no resid_mid in every layer, so patching leaves it out for this model" in caplog.text
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["left_out"] == ["resid_mid"] and found["stages"][0]["holds"]


def test_check_model_goes_beyond_windows_and_switches():
    for family, longest in {"mistral+window": WINDOW, "phi3+longrope": 64, "llama4_text": 48, "ministral3": 64}.items():
        assert long_length(tiny_model(family).config, 512) > longest


def test_a_wrong_stage_is_told_with_its_deviation():
    model, _ = seen_through("llama")
    model.model.layers[2].mlp.register_forward_hook(lambda _module, _inputs, output: output.cumsum(1))
    (found,) = stages_that_hold(model, ["patching"], 512, "float32", COMPONENTS)
    assert not found["holds"] and "away from the model's own" in found["reason"]


@pytest.mark.parametrize("family", ["gpt_oss", "phimoe", "granite_swa"])
def test_what_rounding_does_to_a_model_is_no_reason_to_refuse_it(family):
    """In a mixture, rounding can choose another expert; granite_swa multiplies it."""
    model = tiny_model(family, SEAM).to(torch.bfloat16)
    found = stages_that_hold(model, TRIED, 512, "bfloat16", hook_points_of(model).components)
    assert [stage["reason"] for stage in found] == [""] * len(TRIED)
    assert max(rounding(model, random_ids(n)) for n in (64, 110)) > TOLERANCES[torch.bfloat16]
    model.get_decoder().layers[2].mlp.register_forward_hook(_sums_over_tokens)
    found = stages_that_hold(model, ["ablation", "patching"], 512, "bfloat16", hook_points_of(model).components)
    assert not any(stage["holds"] for stage in found)


def _sums_over_tokens(_mlp, _inputs, output):
    """What a layer would do that carries tokens to later ones outside of attention."""
    states, *more = output if isinstance(output, tuple) else (output,)
    summed = states.cumsum(-2)
    return (summed, *more) if more else summed


def test_a_model_whose_text_skips_layers_is_refused():
    text = COMMON | {"model_type": "mllama_text_model", "cross_attention_layers": [1], "pad_token_id": 1}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_global_layers": 1,
        "image_size": 28,
    }
    vision |= {"attention_heads": 2, "intermediate_layers_indices": [0], "vision_output_dim": 64, "patch_size": 14}
    config = CONFIG_MAPPING["mllama"](text_config=text, vision_config=vision)
    with pytest.raises(ModelError, match="text alone passes through 3 of its 4 layers"):
        Decoder(AutoModelForImageTextToText.from_config(config, dtype=torch.float32))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [("gemma3", "gemma3_text"), ("gemma4", "gemma4_text"), ("mistral3", "ministral3"), ("qwen3_vl", "qwen3_vl_text")],
)
def test_the_text_model_inside_of_a_multimodal_one_holds_at_every_stage(outer, inner, tmp_path):
    text = COMMON | FAMILIES.get(inner, {}) | {"model_type": inner}
    if inner == "qwen3_vl_text":
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    if outer == "qwen3_vl":
        vision |= {"depth": 1, "num_heads": 2, "out_hidden_size": D_MODEL, "deepstack_visual_indexes": [0]}
    config = CONFIG_MAPPING[outer](text_config=text, vision_config=vision | {"image_size": 28})
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="eager")
    model.save_pretrained(tmp_path)
    assert "ConditionalGeneration" in type(model).__name__
    check_model(manifest_in(tmp_path), tmp_path / "check.json", {"model": "mine", "stages": list(TRIED)})
    found = json.loads((tmp_path / "check.json").read_text())["stages"]
    assert [stage["reason"] for stage in found] == [""] * 4


# ---- the page


def table_rows(page: str) -> dict[str, str]:
    """The rows of the page's table by family."""
    rows = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 5]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows if "family" not in row}


def found_rows() -> dict[str, str]:
    """The table's rows for what this run found, without families of which it tried only a part."""
    stages = ("attention", "patching", "ablation")
    whole = {family: found for family, found in FOUND.items() if set(stages) <= found.keys()}
    return {
        family: " | ".join([f"| {family}", *(found[stage] for stage in stages)]) + " |"
        for family, found in whole.items()
    }


def write_page() -> None:
    """Put what this run found into the page's table; the rows of other families stay."""
    page = PAGE.read_text()
    rows = table_rows(page) | found_rows()
    versions = f"Tried with torch {torch.__version__} and transformers {transformers.__version__}."
    formats = "Reasoning formats, each tried on a model in small: " + ", ".join(f"`{name}`" for name in FORMATS) + ".\n"
    table = [
        "| family | attention | patching | ablation |", "|---|---|---|---|",
        *(rows[family] for family in FAMILIES if family in rows), "", formats, versions,
    ]  # fmt: skip
    before, _, after = page.partition(MARK)
    _, _, after = after.partition(END_MARK)
    PAGE.write_text(before + MARK + "\n".join(table) + "\n" + END_MARK + after)


def test_the_page_tells_what_this_run_found_and_every_family_and_format(request):
    if request.config.getoption("--write-models"):
        write_page()
    page = PAGE.read_text()
    assert list(table_rows(page)) == list(FAMILIES)
    assert {family: table_rows(page)[family] for family in found_rows()} == found_rows()
    assert [name for name in FORMATS if f"`{name}`" not in page] == []


# ---- rotary factors


def test_longrope_models_get_the_factors_for_long_texts_in_reruns_and_in_vllm(tmp_path):
    model = tiny_model("phi3+longrope")
    model.config.save_pretrained(tmp_path)
    assert longrope_switch(read_config(str(tmp_path))) == 64  # start_engine asks for a longer max_model_len
    short = own_logits(model, random_ids(30))
    follow_vllm(Decoder(model))
    fixed = own_logits(model, random_ids(30))
    assert distance(short, fixed) > 0.01
    ids = random_ids(100)
    free = tiny_model("phi3+longrope")
    torch.testing.assert_close(own_logits(free, ids), own_logits(model, ids))


@pytest.mark.parametrize("files", [[], ["params.json"], ["params.json", "consolidated.safetensors"]])
def test_ministral_scales_queries_by_position_only_if_vllm_reads_mistrals_own_files(files, tmp_path):
    model, ids = tiny_model("ministral3").requires_grad_(False), random_ids(100)
    for name in files:
        (tmp_path / name).write_text("")
    model.config.name_or_path = str(tmp_path)
    before = own_logits(model, ids), own_logits(model, ids[:60])
    follow_vllm(Decoder(model))
    moved = [distance(own_logits(model, ids), before[0]), distance(own_logits(model, ids[:60]), before[1])]
    assert (moved[0] > 0.01) == (len(files) < 2) and moved[1] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_that_config_json_writes_are_those_that_transformers_reads_in_it(family, tmp_path):
    config = CONFIG_MAPPING[family.split("+")[0]](**COMMON | FAMILIES[family], architectures=["Mine"])
    config.save_pretrained(tmp_path)
    assert written_sizes(tmp_path) in (None, interpreted_sizes(tmp_path))
    if family in ("llama", "qwen2", "mistral"):
        assert written_sizes(tmp_path)["n_heads"] == N_HEADS

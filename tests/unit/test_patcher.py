"""Restarts give what whole forward passes with hooks give, in models with random weights."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from families import tiny_model
from hooked_patching import hooked_patch, last_logits
from r2a.models import ModelError
from r2a.patching.components import COMPONENTS, capture
from r2a.patching.patcher import Patcher
from r2a.patching.restarts import Patch

ARCHITECTURES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
}
N_LAYERS, N_HEADS = 3, 4
SIZES = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "initializer_range": 0.3,
}  # fmt: skip
IDS = {"clean": [1, 17, 4, 30, 22, 9, 41, 5, 12], "corrupted": [1, 8, 33, 4, 25, 22, 19, 6, 40, 28, 7]}
# different tokens, out of order, including the first and the last
POSITIONS = {"clean": [6, 0, 8, 3], "corrupted": [8, 0, 10, 4]}
DIRECTIONS = [("clean", "corrupted"), ("corrupted", "clean")]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    kind, config = ARCHITECTURES[request.param]
    torch.manual_seed(3)
    return kind(config(**SIZES)).eval()


@pytest.fixture(scope="module")
def patcher(model: Any) -> Patcher:
    return Patcher(model)


def patched_logits(
    patcher: Patcher, component: str, source: str, base: str, batch_tokens: int = 10_000
) -> torch.Tensor:
    """Logits of one run, each position's component replaced by another run's, [layer, position(, head), vocabulary]."""
    vectors = capture(patcher.model, IDS[source], POSITIONS[source], [component])[0][component]
    kept = patcher.keep(IDS[base], POSITIONS[base])
    return patcher.logits(patcher.patch(kept, component, vectors, batch_tokens))


@pytest.mark.parametrize(("source", "base"), DIRECTIONS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_every_components_patch_equals_a_whole_run_with_a_hook(patcher, component, source, base):
    vectors = capture(patcher.model, IDS[source], POSITIONS[source], [component])[0][component]
    found = patched_logits(patcher, component, source, base)
    unpatched = last_logits(patcher.model, IDS[base])
    effects = []
    for layer, place, *head in np.ndindex(found.shape[:-1]):
        at = (layer, place, *head)
        slow = hooked_patch(patcher.model, IDS[base], component, layer, POSITIONS[base][place], vectors[at], *head)
        np.testing.assert_allclose(found[at], slow, atol=1e-4, err_msg=str(at))
        effects.append(float((slow - unpatched).abs().max()))
    # the patches do something, else the comparison would prove nothing
    assert np.median(effects) > 1e-2


@pytest.mark.parametrize("component", COMPONENTS)
def test_null_patch_changes_nothing(patcher, component):
    found = patched_logits(patcher, component, "corrupted", "corrupted")
    expected = last_logits(patcher.model, IDS["corrupted"])
    np.testing.assert_allclose(found, expected.expand_as(found), atol=1e-4)


def test_patches_leave_no_hook_in_the_model(patcher):
    before = last_logits(patcher.model, IDS["corrupted"])
    patched_logits(patcher, "resid_pre", "clean", "corrupted")
    assert torch.equal(last_logits(patcher.model, IDS["corrupted"]), before)


@pytest.mark.parametrize("component", ["resid_pre", "z"])
def test_the_size_of_batches_changes_nothing(patcher, component):
    whole = patched_logits(patcher, component, "clean", "corrupted")
    for batch_tokens in (1, 25, 60):
        split = patched_logits(patcher, component, "clean", "corrupted", batch_tokens)
        np.testing.assert_allclose(split, whole, atol=1e-5)


def test_a_patch_of_several_positions_is_one_run_with_all_of_them_replaced(patcher):
    clean, corrupted = IDS["clean"], IDS["corrupted"]
    vectors = capture(patcher.model, clean, [3, 4, 8], ["resid_pre"])[0]["resid_pre"]
    kept = patcher.keep(corrupted, [3, 10, 4])
    patches = [Patch(kept, layer, (4, 5, 10), vectors[layer]) for layer in range(N_LAYERS)]
    found = patcher.logits(patcher.finish(patches, 100))

    for layer in range(N_LAYERS):

        def replace(_module: Any, inputs: tuple[torch.Tensor, ...], layer: int = layer) -> tuple[torch.Tensor, ...]:
            hidden = inputs[0].clone()
            hidden[0, [4, 5, 10]] = vectors[layer]
            return (hidden, *inputs[1:])

        hook = patcher.model.model.layers[layer].register_forward_pre_hook(replace)
        slow = last_logits(patcher.model, corrupted)
        hook.remove()
        np.testing.assert_allclose(found[layer], slow, atol=1e-4)


def test_runs_that_share_batches_come_out_as_each_by_itself(patcher):
    kept, patches, alone = {}, [], []
    for source, base in DIRECTIONS:
        vectors = capture(patcher.model, IDS[source], POSITIONS[source], ["resid_pre"])[0]["resid_pre"]
        kept[base] = patcher.keep(IDS[base], POSITIONS[base])
        patches += patcher.patches(kept[base], "resid_pre", vectors)
        alone.append(patcher.patch(kept[base], "resid_pre", vectors, 100).flatten(0, 1))
    mixed = [*patches[::2], *patches[1::2]]
    expected = torch.cat(alone)
    np.testing.assert_allclose(patcher.finish(mixed, 60), torch.cat([expected[::2], expected[1::2]]), atol=1e-5)


def test_all_heads_of_a_layer_together_are_the_attentions_output(patcher):
    vectors = capture(patcher.model, IDS["clean"], POSITIONS["clean"], ["z", "attn_out"])[0]
    base = IDS["corrupted"]
    found = patcher.logits(
        patcher.patch(patcher.keep(base, POSITIONS["corrupted"]), "attn_out", vectors["attn_out"], 100)
    )
    for layer, place in np.ndindex(found.shape[:2]):

        def replace(
            _module: Any, inputs: tuple[torch.Tensor, ...], layer: int = layer, place: int = place
        ) -> tuple[torch.Tensor, ...]:
            heads = inputs[0].clone()
            heads[0, POSITIONS["corrupted"][place]] = vectors["z"][layer, place].flatten()
            return (heads, *inputs[1:])

        hook = patcher.model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(replace)
        slow = last_logits(patcher.model, base)
        hook.remove()
        np.testing.assert_allclose(found[layer, place], slow, atol=1e-4)


@pytest.mark.parametrize("n_places", [10, 11])
def test_every_token_can_be_a_position(patcher, n_places):
    # one less, or as many, as there are tokens
    ids, places = IDS["corrupted"], list(reversed(range(11)))[:n_places]
    vectors = capture(patcher.model, [*IDS["clean"], 20, 21], places, ["attn_out"])[0]["attn_out"]
    found = patcher.logits(patcher.patch(patcher.keep(ids, places), "attn_out", vectors, 50))
    for layer, place in np.ndindex(found.shape[:2]):
        slow = hooked_patch(patcher.model, ids, "attn_out", layer, places[place], vectors[layer, place])
        np.testing.assert_allclose(found[layer, place], slow, atol=1e-4)


def test_a_whole_clean_last_token_after_the_last_layer_gives_the_clean_logits(patcher):
    kept = {run: patcher.keep(IDS[run], POSITIONS[run]) for run in IDS}
    patch = Patch(kept["corrupted"], N_LAYERS, (len(IDS["corrupted"]) - 1,), kept["clean"].resid_pre[-1])
    found = patcher.logits(patcher.finish([patch], 100))[0]
    np.testing.assert_allclose(found, last_logits(patcher.model, IDS["clean"]), atol=1e-4)


@pytest.mark.parametrize("component", COMPONENTS)
def test_captured_activations_add_up_to_the_residual_stream(patcher, component):
    positions = POSITIONS["clean"]
    found, logits = capture(patcher.model, IDS["clean"], positions, COMPONENTS)
    np.testing.assert_allclose(found["resid_mid"], found["resid_pre"] + found["attn_out"], atol=1e-5)
    np.testing.assert_allclose(found["resid_pre"][1:], (found["resid_mid"] + found["mlp_out"])[:-1], atol=1e-5)
    for layer in range(N_LAYERS):
        with torch.no_grad():
            written = patcher.model.model.layers[layer].self_attn.o_proj(found["z"][layer].flatten(1))
        np.testing.assert_allclose(written, found["attn_out"][layer], atol=1e-5)
    np.testing.assert_allclose(logits, last_logits(patcher.model, IDS["clean"]), atol=1e-4)


def test_captured_resid_pre_is_the_hidden_state_that_enters_each_layer(model):
    found, _ = capture(model, IDS["clean"], POSITIONS["clean"], ["resid_pre"])
    with torch.no_grad():
        output = model(torch.tensor([IDS["clean"]]), output_hidden_states=True, use_cache=False)
    expected = torch.stack([hidden[0, POSITIONS["clean"]] for hidden in output.hidden_states[:-1]])
    np.testing.assert_allclose(found["resid_pre"], expected, atol=1e-5)


def test_half_precision_stays_within_its_rounding(model):
    exact = patched_logits(Patcher(model), "resid_pre", "clean", "corrupted")
    rounded = patched_logits(Patcher(model.bfloat16()), "resid_pre", "clean", "corrupted")
    model.float()
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).square().mean().sqrt() / exact.std()) < 0.05


# ---- first order


def exact_and_expected(patcher: Patcher, component: str, step: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Effects on logit(3) - logit(5): half the difference between a step towards the other run's vectors and one away.

    Once by patching, once by the gradient.
    """
    source, own = (capture(patcher.model, IDS[run], POSITIONS[run], [component])[0][component] for run in IDS)
    kept = patcher.keep(IDS["corrupted"], POSITIONS["corrupted"])
    towards, away = (
        patcher.logits(patcher.patch(kept, component, own + sign * step * (source - own), 100)) for sign in (1, -1)
    )
    expected = (patcher.gradients(kept, 3, 5)[component] * step * (source - own)).sum(-1)
    return ((towards[..., 3] - towards[..., 5]) - (away[..., 3] - away[..., 5])) / 2, expected


@pytest.mark.parametrize("component", COMPONENTS)
def test_on_a_linear_model_the_first_order_result_is_the_exact_one(component):
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    # no norm, uniform attention, and MLPs of one matrix: everything is linear
    model.model.norm = torch.nn.Identity()
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = torch.nn.Identity(), torch.nn.Identity()
        layer.self_attn.q_proj.weight.data.zero_()
        layer.mlp = torch.nn.Linear(32, 32)
    exact, expected = exact_and_expected(Patcher(model), component, 1.0)
    np.testing.assert_allclose(expected, exact, atol=1e-5 * float(exact.abs().max()) + 1e-4)
    assert exact.abs().median() > 1e-2


@pytest.mark.parametrize("component", COMPONENTS)
def test_small_steps_change_the_logits_as_the_gradient_says(patcher, component):
    exact, expected = exact_and_expected(patcher, component, 0.01)
    np.testing.assert_allclose(expected, exact, atol=0.05 * float(exact.abs().max()))
    assert exact.abs().max() > 1e-3


def test_a_model_with_recurrent_layers_is_refused_by_name():
    with pytest.raises(ModelError, match=r"^Lfm2ForCausalLM: patching cannot restart .* recurrent layers"):
        Patcher(tiny_model("lfm2"))


def test_a_model_whose_tokens_reach_later_ones_outside_of_attention_is_refused_by_name():
    model = tiny_model("llama")
    model.model.layers[2].mlp.register_forward_hook(lambda _module, _inputs, output: output.cumsum(1))
    with pytest.raises(ModelError, match=r"^LlamaForCausalLM: patching cannot restart .* of their spread away"):
        Patcher(model)


# ---- TransformerLens

NAMES = {"resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "attn_out": "hook_attn_out"} | {
    "mlp_out": "hook_mlp_out", "z": "attn.hook_z",
}  # fmt: skip


@pytest.mark.skipif(
    find_spec("transformer_lens") is None, reason="TransformerLens is not installed; tests/README.md says how"
)
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patches_equal_transformer_lens_own(architecture, component):
    from transformer_lens import patching

    from transformer_lens_model import bridge

    kind, config = ARCHITECTURES[architecture]
    torch.manual_seed(3)
    model = kind(config(**SIZES)).eval()
    found = patched_logits(Patcher(model), component, "clean", "corrupted")
    lens = bridge(model)
    with torch.no_grad():
        _, clean = lens.run_with_cache(torch.tensor([IDS["clean"]]))
    # its setters copy between equal positions: put the clean vectors where they belong
    cache = {}
    for layer in range(N_LAYERS):
        vectors = clean[f"blocks.{layer}.{NAMES[component]}"]
        moved = vectors.new_zeros(1, len(IDS["corrupted"]), *vectors.shape[2:])
        moved[0, POSITIONS["corrupted"]] = vectors[0, POSITIONS["clean"]]
        cache[f"blocks.{layer}.{NAMES[component]}"] = moved
    places = list(np.ndindex(found.shape[:-1]))
    axes = ["layer", "pos", "head"][: len(places[0])]
    index = pd.DataFrame([(at[0], POSITIONS["corrupted"][at[1]], *at[2:]) for at in places], columns=axes)
    setter = patching.layer_pos_head_vector_patch_setter if component == "z" else patching.layer_pos_patch_setter
    theirs: list[torch.Tensor] = []

    def metric(logits: torch.Tensor) -> torch.Tensor:
        theirs.append(logits[0, -1].clone())
        return logits.sum()

    with torch.no_grad():
        patching.generic_activation_patch(
            lens, torch.tensor([IDS["corrupted"]]), cache, metric, setter, component, index_df=index
        )
    np.testing.assert_allclose(found.flatten(0, -2), torch.stack(theirs), atol=1e-4)

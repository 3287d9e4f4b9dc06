"""What heads write to the residual stream: the rerun's numbers against those computed from the model's parts."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from families import tiny_model
from planted import HEAD, LAYER, planted_model, planted_trace
from r2a.attention.reference import rerun_eager
from r2a.attention.rerun import rerun_batch
from r2a.models.attention import attention_kernel
from r2a.models.decoder import Decoder
from r2a.traces import Bounds

BOUNDS = [Bounds(0, 1, 6, 7, 40, 41, 60, 61), Bounds(0, 1, 4, 5, 12, 13, 30, 31)]
SHARES = ("contribution", "output_share")


@pytest.fixture(scope="module", params=["tiny-qwen", "tiny-llama"])
def model(request: pytest.FixtureRequest) -> Any:
    folder = f"resources/models/{request.param}"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def traces() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(5, 200, bounds.end).tolist() for bounds in BOUNDS]


@torch.no_grad()
def by_hand(model: Any, ids: list[int], bounds: Bounds) -> dict[str, np.ndarray]:
    """Every head's output from the reasoning and from all tokens, written out in full through its columns of o_proj."""
    kept: dict[int, torch.Tensor] = {}
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, output, k=k: kept.__setitem__(k, output[0].double()))
        for k, layer in enumerate(model.model.layers)
    ]
    attentions = model.model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    for hook in hooks:
        hook.remove()
    found: dict[str, list[list[float]]] = {name: [] for name in SHARES}
    for k, layer in enumerate(model.model.layers):
        weights = attentions[k][0].double()  # [head, query, key]
        n_heads, d_head = len(weights), model.config.head_dim
        values = kept[k].unflatten(-1, (-1, d_head)).transpose(0, 1)  # [kv_head, token, d_head]
        values = values.repeat_interleave(n_heads // len(values), 0)
        columns = layer.self_attn.o_proj.weight.double().unflatten(1, (n_heads, d_head))  # [d_model, head, d_head]
        answer = weights[:, bounds.span("answer")]
        reasoning = bounds.span("reasoning")
        parts = answer[..., reasoning] @ values[:, reasoning], answer @ values
        written = [torch.einsum("hrd,mhd->hrm", part, columns) for part in parts]
        together = written[1].sum(0).norm(dim=-1)
        for name, part in zip(SHARES, written, strict=True):
            found[name].append((part.norm(dim=-1) / together).mean(-1).tolist())
    return {name: np.array(layers) for name, layers in found.items()}


def test_the_rerun_equals_the_definition_with_several_traces_in_a_batch(model, traces):
    for (kept, _), ids, bounds in zip(rerun_batch(model, traces, BOUNDS), traces, BOUNDS, strict=True):
        expected = by_hand(model, ids, bounds)
        for name in SHARES:
            np.testing.assert_allclose(getattr(kept, name), expected[name], rtol=1e-4, err_msg=name)


def test_the_eager_kernel_gives_the_same(model, traces):
    with attention_kernel(model, "eager"):
        kept, _ = rerun_eager(model, traces[0], BOUNDS[0])
    expected = by_hand(model, traces[0], BOUNDS[0])
    for name in SHARES:
        np.testing.assert_allclose(getattr(kept, name), expected[name], rtol=1e-5, err_msg=name)


def test_a_head_never_writes_more_of_the_reasoning_than_its_attention_lets_through(model, traces):
    """By the triangle inequality: at most its attention to the reasoning times the largest norm of the values."""
    ((kept, _),) = rerun_batch(model, traces[:1], BOUNDS[:1])
    assert (kept.contribution >= 0).all() and np.isfinite(kept.contribution).all()
    assert kept.output_share.sum(1).min() >= 1 - 1e-5  # the heads' norms add up to at least the norm of their sum


def test_the_planted_head_writes_all_that_its_layer_writes_of_the_reasoning():
    import random

    model, trace = planted_model(), planted_trace(random.Random(1), 2)
    ((kept, _),) = rerun_batch(model, [trace.token_ids], [trace.bounds])
    of_layer = kept.contribution[LAYER]
    assert of_layer.argmax() == HEAD
    assert np.nan_to_num(np.delete(of_layer, HEAD)).max() < 0.1 * of_layer[HEAD]


@pytest.mark.parametrize(
    ("family", "is_direct"),
    [("llama", True), ("gpt2", True), ("gpt_oss", True), ("laguna", False), ("afmoe", False), ("bitnet", False)],
)
def test_heads_that_are_gated_or_normed_before_the_projection_have_no_part_of_it_by_themselves(family, is_direct):
    decoder = Decoder(tiny_model(family))
    weights = [decoder.output_weights(layer) for layer in range(decoder.n_layers)]
    assert [part is not None for part in weights] == [is_direct] * decoder.n_layers
    if is_direct:
        assert weights[0].shape == (decoder.n_heads, decoder.d_values[0], decoder.d_model)

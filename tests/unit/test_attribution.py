"""Direct logit attribution: its parts against hooks on the model's own modules, and their sum against the logits."""

from typing import Any

import numpy as np
import pytest
import torch

from families import tiny_model
from hooked_patching import last_logits
from r2a.patching.attribution import direct_attribution, written_parts
from r2a.patching.patcher import Patcher

IDS, A, B = [5, 17, 4, 30, 22, 9, 41, 5, 12], 7, 19
# plain; norms after both parts and capped logits; attention and MLP in parallel, a norm that subtracts the mean
# and a factor on the logits; factors on both parts; biases everywhere; experts
FAMILIES = ["qwen3", "gemma2", "cohere", "granite", "starcoder2", "phi", "qwen3_moe", "olmo2"]


@pytest.fixture(scope="module", params=FAMILIES)
def patcher(request: pytest.FixtureRequest) -> Patcher:
    return Patcher(tiny_model(request.param))


def test_constant_embedding_attention_and_mlps_add_up_to_the_logit_difference(patcher):
    kept = patcher.keep(IDS, [len(IDS) - 1])
    found = direct_attribution(patcher, kept, A, B)
    logits = last_logits(patcher.model, IDS)
    total = found.constant + found.embedding + found.attention.sum() + found.mlp.sum()
    assert float(total) == pytest.approx(float(logits[A] - logits[B]), abs=1e-3)


def test_written_parts_are_what_each_layer_adds_to_the_stream(patcher):
    kept = patcher.keep(IDS, [len(IDS) - 1])
    attention, mlp, heads = written_parts(patcher, kept)
    entering: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0][0, -1].clone()))
        for layer in patcher.decoder.layers
    ]
    hooks.append(patcher.decoder.norm.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0][0, -1])))
    last_logits(patcher.model, IDS)
    for hook in hooks:
        hook.remove()
    added = torch.stack(entering).diff(dim=0)
    np.testing.assert_allclose(attention + mlp, added, atol=1e-4)
    biases = [getattr(projection, "bias", None) for projection in patcher.decoder.projections]
    if all(bias is None for bias in biases):
        np.testing.assert_allclose(heads.sum(1), attention, atol=1e-4)
    assert heads.abs().amax(dim=(1, 2)).min() > 1e-4


@torch.no_grad()
def test_with_an_rms_norm_each_share_is_the_part_over_the_streams_scale_through_the_unembedding():
    patcher = Patcher(tiny_model("qwen3"))
    model: Any = patcher.model
    kept = patcher.keep(IDS, [len(IDS) - 1])
    found = direct_attribution(patcher, kept, A, B)
    attention, mlp, heads = written_parts(patcher, kept)
    stream = kept.resid_pre[-1][0]
    scale = (stream.square().mean() + model.config.rms_norm_eps).sqrt()
    direction = (model.lm_head.weight[A] - model.lm_head.weight[B]) * model.model.norm.weight / scale
    for share, part in ((found.attention, attention), (found.mlp, mlp), (found.heads, heads)):
        np.testing.assert_allclose(share, part @ direction, atol=1e-4)
    assert float(found.embedding) == pytest.approx(float(kept.resid_pre[0][-1] @ direction), abs=1e-4)

"""Patches that reach the answer's side through only some heads and MLPs, against whole runs with hooks."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from hooked_patching import last_logits
from r2a.patching.patcher import Patcher
from r2a.patching.restarts import KeptRun, Patch, PatchPath

N_LAYERS, N_HEADS = 3, 4
SIZES = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
CORRUPTED = [1, 8, 33, 4, 25, 22, 19, 6, 40, 28, 7]
POSITION, ANSWER = 4, 7  # the patched token, and where the answer's side begins
SETS = {"none": [], "one": [(1, 2)], "some": [(0, 1), (1, 2), (2, 0), (2, 3)]}


@pytest.fixture(scope="module")
def patcher() -> Patcher:
    torch.manual_seed(3)
    return Patcher(Qwen2ForCausalLM(Qwen2Config(**SIZES, attn_implementation="eager")).eval())


@pytest.fixture(scope="module")
def kept(patcher: Patcher) -> KeptRun:
    return patcher.keep(CORRUPTED, [POSITION, len(CORRUPTED) - 1], path_start=ANSWER)


@pytest.fixture(scope="module")
def vector() -> torch.Tensor:
    return torch.randn(1, SIZES["hidden_size"], generator=torch.Generator().manual_seed(1))


def path_of(heads: list[tuple[int, int]], mlps: list[int]) -> PatchPath:
    on_path = torch.zeros(N_LAYERS, N_HEADS, dtype=torch.bool)
    for place in heads:
        on_path[place] = True
    return PatchPath(on_path, torch.tensor([layer in mlps for layer in range(N_LAYERS)]))


EVERY = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]
ALL_MLPS = list(range(N_LAYERS))


@torch.no_grad()
def slow(model: Any, layer: int, vector: torch.Tensor, path: PatchPath) -> torch.Tensor:
    """Last logits of the patched run, spelled out: each layer's parts are called one by one, attention row by row."""
    ids = torch.tensor([CORRUPTED])
    unpatched = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    places = torch.arange(len(CORRUPTED))
    rotation = model.model.rotary_emb(unpatched[0], places[None])
    stream = unpatched[0][0]

    def attention(block: Any, entering: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Heads' outputs [head, query, d]; keys and values before the answer come from `before`."""
        from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

        seen = torch.cat([before[:ANSWER], entering[ANSWER:]])
        query, key, value = (
            projection(x)[None].unflatten(-1, (-1, 8)).transpose(1, 2)
            for projection, x in ((block.q_proj, entering), (block.k_proj, seen), (block.v_proj, seen))
        )
        query, key = apply_rotary_pos_emb(query, key, *rotation)
        key, value = (side.repeat_interleave(2, 1)[0] for side in (key, value))
        scores = (query[0] @ key.transpose(1, 2)) / 8**0.5
        return scores.masked_fill(places[None, :] > places[:, None], -torch.inf).softmax(-1) @ value

    for number, block in enumerate(model.model.layers):
        old = unpatched[number][0]
        if number == layer:
            stream = stream.clone()
            stream[POSITION] = vector[0]
        normed, old_normed = block.input_layernorm(stream), block.input_layernorm(old)
        on, off = attention(block.self_attn, normed, normed), attention(block.self_attn, normed, old_normed)
        z = torch.where(path.heads[number][:, None, None], on, off)
        z[:, :ANSWER] = on[:, :ANSWER]
        old_z = attention(block.self_attn, old_normed, old_normed)
        mid, old_mid = (
            x + block.self_attn.o_proj(heads.transpose(0, 1).flatten(1)) for x, heads in ((stream, z), (old, old_z))
        )
        written, old_written = (block.mlp(block.post_attention_layernorm(x)) for x in (mid, old_mid))
        if not path.mlps[number]:
            written[ANSWER:] = old_written[ANSWER:]
        stream = mid + written
    return model.lm_head(model.model.norm(stream[-1]))


@pytest.mark.parametrize("layer", range(N_LAYERS))
@pytest.mark.parametrize("heads", [*SETS.values(), EVERY])
def test_a_path_is_a_whole_run_in_which_all_other_parts_see_the_unpatched_reasoning(
    patcher, kept, vector, heads, layer
):
    for mlps in (ALL_MLPS, [0, 2], []):
        path = path_of(heads, mlps)
        found = patcher.logits(patcher.finish([Patch(kept, layer, (POSITION,), vector, path)], 100))[0]
        np.testing.assert_allclose(found, slow(patcher.model, layer, vector, path), atol=1e-4)


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_by_every_path_a_patch_does_what_it_does_without_one_and_by_none_nothing(patcher, kept, vector, layer):
    paths = [None, path_of(EVERY, ALL_MLPS), path_of([], ALL_MLPS), path_of([], [])]
    patches = [Patch(kept, layer, (POSITION,), vector, path) for path in paths]
    whole, every, none, frozen = patcher.logits(patcher.finish(patches, 1000))
    unpatched = last_logits(patcher.model, CORRUPTED)
    np.testing.assert_allclose(every, whole, atol=1e-5)
    np.testing.assert_allclose(none, unpatched, atol=1e-4)
    np.testing.assert_allclose(frozen, unpatched, atol=1e-4)
    assert (whole - unpatched).abs().max() > 1e-2


def test_patches_with_and_without_paths_share_batches(patcher, kept, vector):
    paths = [None, *(path_of(heads, mlps) for heads in SETS.values() for mlps in (ALL_MLPS, [1]))]
    patches = [Patch(kept, layer, (POSITION,), vector, path) for path in paths for layer in range(N_LAYERS)]
    together = patcher.finish(patches, 1000)
    for batch_tokens in (1, 30):
        np.testing.assert_allclose(patcher.finish(patches, batch_tokens), together, atol=1e-5)


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_what_a_patch_changes_at_the_last_token_is_the_difference_of_two_whole_runs(patcher, kept, vector, layer):
    stream, heads = patcher.follow([Patch(kept, layer, (POSITION,), vector)], 100)
    runs: list[list[torch.Tensor]] = []
    for is_patched in (False, True):
        seen: list[torch.Tensor] = []
        hooks = []
        for number, block in enumerate(patcher.model.model.layers):
            hooks.append(
                block.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs, s=seen: s.append(inputs[0][0, -1]))
            )
            hooks.append(block.register_forward_hook(lambda _, __, output, s=seen: s.append(output[0, -1])))
            if is_patched and number == layer:

                def patch(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                    hidden = inputs[0].clone()
                    hidden[0, POSITION] = vector[0]
                    return (hidden, *inputs[1:])

                hooks.append(block.register_forward_pre_hook(patch))
        with torch.no_grad():
            patcher.model(torch.tensor([CORRUPTED]), use_cache=False)
        for hook in hooks:
            hook.remove()
        runs.append(seen)
    z, leaving = (
        torch.stack([new - old for old, new in zip(*(run[k::2] for run in runs), strict=True)]) for k in (0, 1)
    )
    np.testing.assert_allclose(stream[0], leaving, atol=1e-4)
    np.testing.assert_allclose(heads[0].flatten(1), z, atol=1e-4)
    assert stream[0, layer].norm() > 1e-3

"""Diagnostics of heads whose attention is known, and of the shipped tiny model against slower ways."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from r2a.attention.diagnostics import (
    LEAST_RECALL,
    NeedlePrompt,
    copy_needle,
    diagnose_heads,
    induction_of_prompt,
    induction_pattern,
    needle_prompt,
    repeat_scores,
    repeated_tokens,
    retrieval_score,
    token_recall,
)
from r2a.models import load_tokenizer, resolve_model
from r2a.models.attention import AttentionError
from r2a.study.settings import Diagnostics

TINY = Path(__file__).parents[2] / "resources/models/tiny-qwen"
HAYSTACKS = Path(__file__).parents[2] / "resources/haystacks"
TEXTS = ["one two three one two three", "red blue red blue red"]
COLOUR = {"needle": "5 red", "question": "Which colour has 5? <think>\nOkay, let me look.\n"}
N_BLOCK, D_HEAD, SHARPNESS = 20, 32, 200.0


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(TINY)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def planted() -> Any:
    """One layer whose heads' weights make them attend to the token N_BLOCK - 1 back, to the previous one, and evenly.

    Query and key are only biases, which rotation turns by the position: a query turned back by d positions matches the
    key of the token d before it, and no other.
    """
    config = Qwen2Config(
        vocab_size=64, hidden_size=3 * D_HEAD, intermediate_size=8, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=128,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    half = D_HEAD // 2
    frequency = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(half) * 2 / D_HEAD)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        attention.k_proj.bias[:half] = 1
        for head, distance in enumerate((N_BLOCK - 1, 1)):
            angle = -distance * frequency
            query = SHARPNESS * torch.cat([angle.cos(), angle.sin()])
            attention.q_proj.bias[head * D_HEAD : (head + 1) * D_HEAD] = query
    return model


# ---- induction


@pytest.mark.parametrize("bos", [[], [0]])
def test_planted_induction_and_previous_token_heads_score_one_on_repeated_tokens(planted, bos):
    ids = bos + list(range(10, 10 + N_BLOCK)) * 2
    induction, previous = repeat_scores(planted, ids)
    even = np.mean([1 / (i + 1) for i in range(len(ids) - N_BLOCK, len(ids))])
    np.testing.assert_allclose(induction, [[1, 0, even]], atol=1e-5)
    np.testing.assert_allclose(previous, [[0, 1, even]], atol=1e-5)


def test_a_planted_heads_score_on_a_text_is_the_share_of_rows_that_repeat(planted):
    ids = [0, *range(10, 10 + N_BLOCK), *range(10, 10 + N_BLOCK)]
    assert induction_of_prompt(planted, ids)[0, 0] == pytest.approx(N_BLOCK / len(ids), abs=1e-5)


def test_induction_pattern_by_hand():
    # a b a b a: the second a follows the first's successor b; the third, those of both; likewise b
    expected = [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 0, 1, 0]]
    assert induction_pattern([7, 8, 7, 8, 7]).tolist() == expected


def test_a_token_that_repeats_at_once_is_its_own_successor():
    assert induction_pattern([7, 7]).tolist() == [[0, 0], [0, 1]]


def test_text_scores_equal_those_of_the_whole_eager_attention(tiny, tokenizer):
    ids = [tokenizer.bos_token_id, *tokenizer.encode(TEXTS[0])]
    with torch.no_grad():
        weights = torch.stack(tiny(torch.tensor([ids]), output_attentions=True).attentions)[:, 0].double().numpy()
    by_hand = np.zeros(weights.shape[:2])
    for i, token in enumerate(ids):
        by_hand += sum(weights[:, :, i, j] for j in range(1, i + 1) if ids[j - 1] == token)
    np.testing.assert_allclose(induction_of_prompt(tiny, ids), by_hand / len(ids), atol=1e-5)


def test_text_scores_equal_transformer_lens_detect_head(tiny, tokenizer):
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed; tests/README.md says how")
    from transformer_lens.head_detector import detect_head
    from transformer_lens.model_bridge import TransformerBridge

    model = AutoModelForCausalLM.from_pretrained(TINY, attn_implementation="eager").eval()  # the bridge changes it
    bridge = TransformerBridge.boot_transformers(str(TINY), hf_model=model, tokenizer=tokenizer)
    texts = [*TEXTS, tokenizer.bos_token + TEXTS[0]]
    ours = [induction_of_prompt(tiny, bridge.to_tokens(text)[0].tolist()) for text in texts]
    for text, score in zip(texts, ours, strict=True):
        np.testing.assert_allclose(score, detect_head(bridge, text, "induction_head").cpu(), atol=1e-5)
    assert np.ptp(ours) > 0.1
    mean = detect_head(bridge, texts, "induction_head").cpu()
    np.testing.assert_allclose(np.mean(ours, axis=0), mean, atol=1e-5)


def test_repeated_tokens_are_two_like_blocks_of_different_plain_tokens(tokenizer):
    prompts = repeated_tokens(tokenizer, 3, 50, seed=1)
    assert len({tuple(ids) for ids in prompts}) == 3
    for bos, *ids in prompts:
        assert bos == tokenizer.bos_token_id
        assert ids[:50] == ids[50:] and len(set(ids)) == 50
        assert not {*tokenizer.encode("<think></think>"), *tokenizer.all_special_ids} & set(ids)


# ---- retrieval


@pytest.fixture
def prompt() -> NeedlePrompt:
    """A prompt with the needle 10, 11, 12 at positions 3 to 5; token 11 also occurs at position 1, outside it."""
    return NeedlePrompt([0, 11, 9, 10, 11, 12, 8], 3, 6, [10, 12])


@pytest.mark.parametrize(
    ("completion", "keys", "score"),
    [
        ([10, 11, 12], [3, 4, 5], 1.0),  # all copied from where they stand
        ([10, 11, 12], [3, 1, 5], 2 / 3),  # 11 read outside the needle
        ([10, 11, 12], [4, 4, 5], 2 / 3),  # 10 written while 11 was read
        ([10, 10, 10], [3, 3, 3], 1 / 3),  # a token counts once
        ([8, 9, 10], [6, 2, 9], 0.0),  # copied, but no needle; its own row
    ],
)
def test_retrieval_score_by_hand(prompt, completion, keys, score):
    assert retrieval_score(prompt, completion, np.array([[keys]]))[0, 0] == pytest.approx(score)


def test_a_repeated_needle_token_is_one_of_its_distinct_tokens():
    prompt = NeedlePrompt([0, 10, 10, 11], 1, 4, [10, 10, 11])
    assert retrieval_score(prompt, [10], np.array([[[2]]]))[0, 0] == 0.5


def test_recall_counts_a_token_as_often_as_the_needle_has_it():
    assert token_recall([5, 5, 6, 7], [5, 7, 7, 7, 1]) == 0.5


@pytest.mark.parametrize(
    ("needle", "question", "own"),
    [
        ("The key is red.", "Where is the key?", " red"),
        ("Ant, bee and cat.", "Which ants?", "Ant bee and cat"),
        ("5 red", "Which colour has 5?", " red"),
    ],
)
def test_a_needles_own_words_are_those_that_the_question_does_not_hold(tokenizer, needle, question, own):
    prompt = needle_prompt(tokenizer, "So it is. " * 9, needle, question, 200, 0.5)
    assert tokenizer.decode(prompt.own_ids).split() == own.split()
    only_the_question = tokenizer.encode(question, add_special_tokens=False)
    assert token_recall(prompt.own_ids, only_the_question) < LEAST_RECALL


def test_a_question_that_holds_the_whole_needle_is_refused(tokenizer):
    with pytest.raises(
        AttentionError, match=r"diagnostics.needles: the question .* has every word of 'It is red.'; use"
    ):
        needle_prompt(tokenizer, "So it is. " * 9, "It is red.", "is it RED?", 200, 0.5)


def test_no_default_question_shares_a_word_with_its_needle():
    for entry in Diagnostics().needles:
        needle, question = (set(re.findall(r"\w+", text.lower())) for text in (entry.needle, entry.question))
        assert needle & question <= {"the", "to", "of", "s"}, entry


@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", ["moves", "everyday"])
def test_needle_stands_whole_between_sentences_at_its_depth(tokenizer, name, depth):
    haystack, length = (HAYSTACKS / f"{name}.txt").read_text(), 400
    needle, question = "The key is red.", "\nWhere?"
    prompt = needle_prompt(tokenizer, haystack, needle, question, length, depth)
    assert tokenizer.decode(prompt.ids[prompt.first : prompt.last]).strip() == needle
    assert len(prompt.ids) <= length
    before, after = tokenizer.decode(prompt.ids[1:]).split(needle)
    assert before == "" or re.search(r"[.!?]\s+$|\n$", before)
    assert after.endswith(question)
    text = f"{before} {after}".split()
    assert text[:-1] == (haystack.split() * 40)[: len(text) - 1]
    n_hay = len(prompt.ids) - len(prompt.needle_ids)
    assert prompt.first / n_hay == pytest.approx(depth, abs=0.15)


def test_a_length_that_holds_no_sentence_is_refused(tokenizer):
    with pytest.raises(
        AttentionError, match=r"diagnostics.lengths: 12 tokens have no room for .* beside the needle '5 red'"
    ):
        needle_prompt(tokenizer, "1 right", "5 red", "Which colour has 5?", 12, 0.5)


def test_copied_tokens_and_their_keys_equal_those_of_whole_eager_passes(tiny, tokenizer):
    prompt = needle_prompt(tokenizer, (HAYSTACKS / "moves.txt").read_text(), **COLOUR, length=32, depth=1.0)
    completion, keys = copy_needle(tiny, prompt, eos=[])
    ids = list(prompt.ids)
    for step, token in enumerate(completion):
        with torch.no_grad():
            output = tiny(torch.tensor([ids]), output_attentions=True)
        assert output.logits[0, -1].argmax() == token
        rows = torch.stack(output.attentions)[:, 0, :, -1].numpy()
        chosen = np.take_along_axis(rows, keys[:, :, step, None].astype(int), -1)[..., 0]
        np.testing.assert_allclose(chosen, rows.max(-1), atol=1e-5)
        ids.append(token)
    assert completion[:2] == tokenizer.encode("5 red")  # the model does copy it


# ---- the store


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    source = {"path": str(TINY), "hub": None, "revision": None}
    settings = {"model": "tiny-qwen", "dtype": "float32", "source": source, "endpoint": None, "prompt": "raw"}
    resolve_model(tmp_path / "manifest.json", settings)
    return tmp_path / "manifest.json"


SETTINGS = {
    "model": "tiny-qwen", "seed": 0, "n_repeats": 2, "repeat_tokens": 10, "induction_prompts": TEXTS,
    "needles": [COLOUR, {"needle": "so it is", "question": "?"}], "lengths": [32], "depths": [0.0, 1.0],
}  # fmt: skip


def test_store_scores_the_runs_whose_needle_was_copied_and_no_other(manifest, tmp_path):
    diagnose_heads(manifest, HAYSTACKS / "moves.txt", tmp_path / "diagnostics.h5", SETTINGS)
    with h5py.File(tmp_path / "diagnostics.h5") as file:
        assert file["needle"].asstr()[:].tolist() == ["5 red"] * 2 + ["so it is"] * 2
        assert file["depth"][:].tolist() == [0, 1, 0, 1]
        is_successful, retrieval = file["is_successful"][:], file["retrieval"][:]
        assert is_successful.tolist() == ["red" in text.split() for text in file["completion"].asstr()[:]]
        assert is_successful[1] and not is_successful[2:].any()
        assert (np.isfinite(retrieval).all(axis=(1, 2)) == is_successful).all()
        for name, axis in (("induction_repeats", "repeat"), ("induction_prompts", "induction_prompt")):
            assert [dimension.label for dimension in file[name].dims] == [axis, "layer", "head"]
            assert np.isfinite(file[name][:]).all()


def test_needle_runs_longer_than_the_model_are_left_out_and_the_others_measured(manifest, tmp_path, caplog):
    settings = SETTINGS | {"lengths": [32, 600], "depths": [1.0]}
    diagnose_heads(manifest, HAYSTACKS / "moves.txt", tmp_path / "diagnostics.h5", settings)
    assert caplog.text.count("exceed the model's 512 positions; left out") == 2
    with h5py.File(tmp_path / "diagnostics.h5") as file:
        is_long = file["length"][:] == 600
        assert np.isnan(file["recall"][:]).tolist() == is_long.tolist()
        assert not file["is_successful"][:][is_long].any()
        assert np.isfinite(file["induction_repeats"][:]).all()

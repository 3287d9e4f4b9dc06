"""What is known about a real pretrained model from outside sources, found by the study's stages."""

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from hooked_patching import hooked_patch, last_logits
from r2a.attention.diagnostics import repeated_tokens
from r2a.boxes import final_answer, find_boxes
from r2a.models import load_tokenizer, token_pieces
from r2a.store import axis_labels, read_parquet
from r2a.traces import Bounds

ROOT = Path(__file__).parents[2]
REASONER, PRETRAINED = "smollm2-reasoner", "smollm2-135m"
TEXTS = [
    "So 12 + 345 = 357.\n\nWait, that is 3.5 times 102, i.e. 357.\n",
    "Naïve café: 東京は大きい。 🙂🙂 ok\n\n\n  indented\tline\r\nend",
    "\\boxed{\\frac{12}{345}} and \\boxed{ 7}.\n",
]


def completions(results: Path, dataset: str) -> pd.DataFrame:
    files = sorted((results / "traces" / REASONER / dataset).glob("*.greedy.parquet"))
    return pd.concat(map(read_parquet, files), ignore_index=True)


# ---- tokens and text


@pytest.fixture(scope="module")
def tokenizer(models: Path) -> Any:
    return load_tokenizer(models / PRETRAINED)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_real_vocabulary_join_to_the_text_but_for_characters_split_over_tokens(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    pieces = token_pieces(tokenizer, ids)
    if text.isascii():
        assert "".join(pieces) == text
    assert len(pieces) == len(ids)


def test_tags_are_single_tokens_that_no_neighbour_merges_with(tokenizer):
    closed = tokenizer.convert_tokens_to_ids("</think>")
    for left in ("a", ".", " ", "\n", ".\n", "7"):
        for right in ("a", "\n", "\n\n", " 7", "."):
            ids = tokenizer.encode(f"{left}</think>{right}", add_special_tokens=False)
            assert ids.count(closed) == 1
            assert tokenizer.decode(ids[: ids.index(closed)]) == left


def test_numbers_are_split_into_digits_and_boxes_are_found_all_the_same(tokenizer):
    ids = tokenizer.encode("\\boxed{1234}.", add_special_tokens=False)
    assert [tokenizer.decode([token]) for token in ids][-6:] == ["{", "1", "2", "3", "4", "}."]
    assert final_answer(tokenizer.decode(ids)) == "1234"


def test_segments_tile_every_trace_and_begin_and_end_as_written(results, tokenizer):
    opened, closed = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    for dataset in ("word-problems", "comparisons"):
        for row in completions(results, dataset).itertuples():
            ids = [*row.prompt_token_ids, *row.completion_token_ids]
            bounds = Bounds.of(row.bounds)
            assert (bounds.bos, bounds.end) == (0, len(ids))
            assert list(bounds) == sorted(bounds)
            prompt, answer = (tokenizer.decode(ids[bounds.span(segment)]) for segment in ("prompt", "answer"))
            assert ids[0] == tokenizer.bos_token_id
            assert ids[bounds.think_open] == opened
            assert prompt.endswith("\\boxed{}. ")
            if row.is_valid:
                assert ids[bounds.think_close] == closed
                assert ids[bounds.eos :] == [tokenizer.eos_token_id]
                assert answer.startswith("\n\n")
                assert len(find_boxes(answer)) == 1


def test_sentences_end_where_lines_of_the_reasoning_end(results, tokenizer):
    table = completions(results, "word-problems").set_index(["uid", "condition"])
    with h5py.File(results / "attention" / REASONER / "word-problems.h5") as file:
        uids, conditions = (file[column].asstr()[:] for column in ("uid", "condition"))
        for k, key in enumerate(zip(uids, conditions, strict=True)):
            row = table.loc[key]
            ids = [*row["prompt_token_ids"], *row["completion_token_ids"]]
            cut = [int(bound) for bound in file["sentence_bounds"][k] if bound >= 0]
            sentences = [tokenizer.decode(ids[one:two]) for one, two in itertools.pairwise(cut)]
            assert all(sentence.rstrip().endswith((".", "?", "!")) for sentence in sentences)
            lines = tokenizer.decode(ids[cut[0] : cut[-1]]).strip().split("\n")
            assert sum("\n" in sentence for sentence in sentences) == len(lines)
            has_cue = any("Wait" in sentence or "check" in sentence for sentence in sentences)
            assert (file["n_cue_tokens"][k] > 0) == has_cue


# ---- generation and rerun


@torch.no_grad()
def test_greedy_vllm_is_the_rerun_s_arg_max_but_for_near_ties(results, reasoner):
    n_tokens = n_equal = 0
    for dataset in ("word-problems", "comparisons"):
        for row in completions(results, dataset).itertuples():
            ids = torch.tensor([[*row.prompt_token_ids, *row.completion_token_ids]])
            n_prompt = len(row.prompt_token_ids)
            logits = reasoner(ids).logits[0, n_prompt - 1 : -1]
            written = ids[0, n_prompt:]
            is_equal = logits.argmax(-1) == written
            gap = logits.max(-1).values - logits.gather(-1, written[:, None])[:, 0]
            assert (gap[~is_equal] < 1e-3).all()
            n_tokens, n_equal = n_tokens + len(written), n_equal + int(is_equal.sum())
    assert n_tokens > 1000
    assert n_equal / n_tokens >= 0.995


def test_reasoning_pays_by_more_than_twenty_points(results):
    folder = results / "grades" / REASONER / "word-problems"
    with_it, without_it = (
        read_parquet(folder / f"{condition}_reasoning.greedy.parquet")["is_correct"].eq(True).mean()
        for condition in ("with", "without")
    )
    assert with_it - without_it > 0.2


# ---- attention


def test_masses_on_the_segments_sum_to_one(results):
    with h5py.File(results / "attention" / REASONER / "word-problems.h5") as file:
        mass = file["segment_mass"][:]
    assert mass.shape[1:3] == (30, 9)
    np.testing.assert_allclose(mass.sum(-1)[np.isfinite(mass).all(-1)], 1, atol=1e-4)


def test_some_heads_of_the_pretrained_model_are_induction_heads(results):
    with h5py.File(results / "diagnostics" / f"{PRETRAINED}.h5") as file:
        scores = file["induction_repeats"][:].mean(0)
    assert scores.max() > 0.5
    assert np.median(scores) < 0.1  # and they are few


def test_induction_scores_equal_those_of_whole_attention_rows(results, models):
    """By definition: the mean attention from each token of the second copy to the token after its first occurrence."""
    model = AutoModelForCausalLM.from_pretrained(models / PRETRAINED, dtype=torch.float32, attn_implementation="eager")
    tokenizer = load_tokenizer(models / PRETRAINED)
    with h5py.File(results / "diagnostics" / f"{PRETRAINED}.h5") as file:
        found, n_tokens = file["induction_repeats"][0], 50
    ids = repeated_tokens(tokenizer, 1, n_tokens, 20251125)[0]
    with torch.no_grad():
        weights = model.eval()(torch.tensor([ids]), output_attentions=True).attentions
    first = len(ids) - n_tokens
    rows = range(first, len(ids))
    by_hand = [[np.mean([float(w[0, head, i, i - n_tokens + 1]) for i in rows]) for head in range(9)] for w in weights]
    np.testing.assert_allclose(found, by_hand, atol=1e-4)


# ---- TransformerLens


def lens_patterns(folder: Path, ids: list[int]) -> np.ndarray:
    """Attention [layer, head, token, token], as TransformerLens computes it with the weights in `folder`."""
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed; tests/README.md says how")
    from transformer_lens_model import bridge

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    lens, names = bridge(model), [f"blocks.{layer}.attn.hook_pattern" for layer in range(30)]
    with torch.no_grad():
        _, cache = lens.run_with_cache(torch.tensor([ids]), names_filter=names)
    return np.stack([cache[name][0].numpy() for name in names])


def test_induction_scores_equal_those_of_transformer_lens(results, models):
    """As in its tutorials: the mean of the pattern's diagonal one block minus one token below the main one."""
    n_tokens = 50
    ids = repeated_tokens(load_tokenizer(models / PRETRAINED), 1, n_tokens, 20251125)[0]
    patterns = lens_patterns(models / PRETRAINED, ids)
    theirs = np.diagonal(patterns, offset=1 - n_tokens, axis1=-2, axis2=-1)[..., -n_tokens:].mean(-1)
    with h5py.File(results / "diagnostics" / f"{PRETRAINED}.h5") as file:
        np.testing.assert_allclose(file["induction_repeats"][0], theirs, atol=1e-4)
    assert theirs.max() > 0.5


def test_masses_on_the_segments_equal_sums_over_transformer_lens_patterns(results, models):
    table = completions(results, "word-problems").set_index(["uid", "condition"])
    with h5py.File(results / "attention" / REASONER / "word-problems.h5") as file:
        k = int(np.argmax((file["is_left_out"][:] == 0) & (file["condition"].asstr()[:] == "with_reasoning")))
        row = table.loc[file["uid"].asstr()[k], "with_reasoning"]
        mass, queries = file["segment_mass"][k], axis_labels(file, "query_segment")
        bounds, segments = Bounds.of(file["bounds"][k]), axis_labels(file, "key_segment")
    patterns = lens_patterns(models / REASONER, [*row["prompt_token_ids"], *row["completion_token_ids"]])
    for n_query, query in enumerate(queries):
        rows = patterns[:, :, bounds.span(query)].mean(-2)
        theirs = np.stack([rows[..., bounds.span(segment)].sum(-1) for segment in segments], axis=-1)
        np.testing.assert_allclose(mass[:, :, n_query], theirs, atol=1e-4)


# ---- patching


@pytest.fixture(scope="module")
def patching(results: Path) -> Any:
    with h5py.File(results / "patching" / REASONER / "comparisons.h5") as file:
        yield file["plain"]


def test_restarted_runs_equal_hooked_ones_in_a_model_of_thirty_layers(results, reasoner, patching):
    pairs = read_parquet(results / "pairs" / REASONER / "comparisons.parquet")
    row = pairs[(pairs["left_out"] == "") & (pairs["probe"] == "plain")].iloc[0]
    a, b = int(row["answer_a_id"]), int(row["answer_b_id"])
    roles = axis_labels(patching, "role")
    with torch.no_grad():
        clean = reasoner(torch.tensor([list(row["clean_ids"])]), output_hidden_states=True).hidden_states
    whole, base = (last_logits(reasoner, list(row[f"{run}_ids"])) for run in ("clean", "corrupted"))
    metric = patching["resid_pre/clean_to_corrupted/normalized_logit_diff"]
    layers = axis_labels(patching, "layer")
    assert (layers[0], layers[-1]) == (0, 29)
    for at in (0, 2, 4, len(layers) - 4, len(layers) - 1):
        layer = layers[at]
        for role in ("answer", "</think>", "final"):
            k = roles.index(role)
            vector = clean[layer][0, row["clean_positions"][k]]
            logits = hooked_patch(
                reasoner, list(row["corrupted_ids"]), "resid_pre", layer, int(row["corrupted_positions"][k]), vector
            )
            difference = logits[a] - logits[b]
            expected = (difference - (base[a] - base[b])) / ((whole[a] - whole[b]) - (base[a] - base[b]))
            assert metric[0, at, k] == pytest.approx(float(expected), abs=1e-3), (layer, role)


def test_a_run_s_own_vectors_change_nothing(patching):
    assert np.nanmax(patching["null_patch_error"][:]) < 1e-3


def test_the_answer_is_read_from_the_probe_early_and_from_the_last_token_late(patching):
    roles = axis_labels(patching, "role")
    used = patching["is_used"][:] == 1
    assert used.sum() >= 2
    curves = patching["resid_pre/clean_to_corrupted/normalized_logit_diff"][:][used].mean(0)
    answer, final = curves[:, roles.index("answer")], curves[:, roles.index("final")]
    assert answer[:5].min() > 0.5 > 0.2 > final[:5].max()
    assert final[-1] > 0.8 > 0.2 > answer[-1]


# ---- what ships


def test_the_adapter_is_small_and_its_card_says_what_the_model_is(models):
    folder = ROOT / "resources/models" / REASONER
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 10.5e6
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
    card = (folder / "README.md").read_text()
    assert "SmolLM2-135M" in card and "not the paper's" in card


def test_reasoning_pays_by_twenty_points_on_all_held_out_word_problems_as_the_card_says():
    folder = ROOT / "resources/models" / REASONER
    table, card = pd.read_csv(folder / "accuracies.csv", comment="#"), (folder / "README.md").read_text()
    asked = table[(table["by"] == "all") | ((table["by"] == "area") & (table["dataset"] == "Word problems"))]
    names = {"Word problems": "all word problems", "Comparisons": "comparisons"}
    for row in asked.itertuples():
        name = row.area if row.by == "area" else names[row.dataset]
        shares = [100 * share for share in (row.accuracy_with, row.accuracy_without)]
        difference = f"{100 * row.difference:+.0f} [{100 * row.low:.0f}, {100 * row.high:.0f}]"
        assert f"| {name} | {row.n_problems} | {shares[0]:.0f} | {shares[1]:.0f} | {difference} |" in card
    (overall,) = table[(table["by"] == "all") & (table["dataset"] == "Word problems")].itertuples()
    assert overall.n_problems == 368 and overall.low > 0.2

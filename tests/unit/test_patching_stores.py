"""From pairs to stores, tables and figures, on the model whose mechanism is planted."""

import random
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from planted import GIVEN, LAYER, N_LAYERS, planted_model, planted_trace
from r2a.figures.patching import plot_patching_case, plot_patching_curves
from r2a.patching.controls import control_sources, random_like
from r2a.patching.runs import capture_activations, patch_pairs
from r2a.patching.tables import tabulate_patching
from r2a.roles import ANSWER_ROLE, CLOSE_ROLE, CONTROL_ROLE, FINAL_ROLE, PROBE
from r2a.store import axis_labels, provenance, write_json, write_parquet

COMPONENTS = ["resid_pre", "resid_mid", "attn_out", "mlp_out"]
SETTINGS = {
    "model": "planted", "dataset": "pairs", "model_label": "Planted", "dataset_label": "Pairs", "is_toy": True,
    "seed": 5, "n_resamples": 200, "confidence": 0.95, "components": COMPONENTS,
}  # fmt: skip
# (clean, corrupted) candidates: the last pair shares its answers with no other
CANDIDATES = [(0, 1), (1, 0), (0, 2), (3, 4)]
ROLES = [f"{PROBE}before", ANSWER_ROLE, f"{PROBE}after", CLOSE_ROLE, FINAL_ROLE, CONTROL_ROLE]
BEFORE = np.arange(N_LAYERS) <= LAYER  # the layers whose input the planted head has not yet moved


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Everything that stage 3 makes of four pairs."""
    folder = tmp_path_factory.mktemp("planted")
    planted_model().save_pretrained(folder / "model")
    manifest = provenance({})
    manifest["models"] = {"planted": {"dtype": "float32"}}
    manifest |= {"folder": str(folder / "model"), "n_layers": N_LAYERS}
    write_json(folder / "manifest.json", manifest)
    rng = random.Random(4)
    rows, questions = [], []
    for pair, candidates in enumerate(CANDIDATES):
        row = {"pair": f"pair-{pair}", "left_out": "", "roles": ROLES}
        for run, side, candidate in zip(("clean", "corrupted"), "ab", candidates, strict=True):
            trace = planted_trace(rng, candidate)
            said, final = trace.said_position, trace.given_position - 1
            row[f"{run}_ids"], row[f"{run}_hidden"] = trace.run_ids, []
            row[f"{run}_positions"] = [said - 1, said, said + 1, trace.bounds[4], final, trace.bounds[3]]
            row[f"answer_{side}_id"], row[f"answer_{side}"] = GIVEN[candidate], str(candidate)
            questions.append({"pair": f"pair-{pair}", "side": side, "problem": "Which one?"})
        rows.append(row)
    rows.append({"pair": "pair-4", "left_out": "answer is not one token"})
    write_parquet(folder / "pairs.parquet", pd.DataFrame(rows), provenance({}))
    write_parquet(folder / "questions.parquet", pd.DataFrame(questions), provenance({}))
    capture_activations(folder / "pairs.parquet", folder / "manifest.json", folder / "activations.h5", SETTINGS)
    patch_pairs(
        folder / "pairs.parquet", folder / "activations.h5", folder / "manifest.json", folder / "patching.h5",
        SETTINGS, 64,
    )  # fmt: skip
    tables = [folder / f"{name}.csv" for name in ("curves", "controls", "hand_off")]
    tabulate_patching(folder / "patching.h5", *tables, SETTINGS)
    return folder


def stored(folder: Path, name: str) -> np.ndarray:
    """[pair, layer, role]"""
    with h5py.File(folder / "patching.h5") as file:
        assert axis_labels(file, "role") == ROLES
        return file[name][:]


@pytest.mark.parametrize("direction", ["clean_to_corrupted", "corrupted_to_clean"])
def test_both_directions_bring_the_other_runs_answer(folder, direction):
    found = stored(folder, f"resid_pre/{direction}/normalized_logit_diff")
    flipped = stored(folder, f"resid_pre/{direction}/is_flipped")
    for role, expected in {ANSWER_ROLE: BEFORE, FINAL_ROLE: ~BEFORE, CLOSE_ROLE: 0 * BEFORE}.items():
        r = ROLES.index(role)
        np.testing.assert_allclose(found[:, :, r], np.tile(expected, (4, 1)), atol=1e-3, err_msg=role)
        assert (flipped[:, :, r] == expected).all(), role


def test_attention_of_the_planted_layer_carries_the_answer_and_no_mlp_does(folder):
    attention, mlp, mid = (
        stored(folder, f"{component}/clean_to_corrupted/normalized_logit_diff")
        for component in ("attn_out", "mlp_out", "resid_mid")
    )
    expected = np.zeros_like(attention)
    expected[:, LAYER, ROLES.index(FINAL_ROLE)] = 1
    np.testing.assert_allclose(attention, expected, atol=1e-3)
    np.testing.assert_allclose(mlp, 0, atol=1e-3)
    np.testing.assert_allclose(
        mid[:, :, ROLES.index(FINAL_ROLE)], np.tile(np.arange(N_LAYERS) >= LAYER, (4, 1)), atol=1e-3
    )


def test_another_pairs_vector_of_the_same_answer_restores_it(folder):
    found = stored(folder, "resid_pre/same_answer/normalized_logit_diff")[:, :, ROLES.index(ANSWER_ROLE)]
    np.testing.assert_allclose(found[:3], np.tile(BEFORE, (3, 1)), atol=1e-3)
    assert np.isnan(found[3]).all()


def test_a_vector_of_an_unrelated_answer_takes_away_the_old_one_and_does_not_bring_the_new(folder):
    # neither candidate is given any more: halfway between the two
    name = "resid_pre/unrelated_answer"
    found = stored(folder, f"{name}/normalized_logit_diff")[:, :, ROLES.index(ANSWER_ROLE)]
    np.testing.assert_allclose(found, np.tile(BEFORE / 2, (4, 1)), atol=1e-3)
    assert not stored(folder, f"{name}/is_flipped").any()


def test_null_patches_stay_at_rounding_and_every_pair_is_used(folder):
    assert stored_pairs(folder, "null_patch_error").max() < 1e-4
    assert stored_pairs(folder, "is_used").tolist() == [1, 1, 1, 1]


def stored_pairs(folder: Path, name: str) -> np.ndarray:
    with h5py.File(folder / "patching.h5") as file:
        return file[name][:]


def test_controls_stand_beside_the_effect_with_their_pairs_counted(folder):
    table = pd.read_csv(folder / "controls.csv").set_index(["component", "control", "layer"])
    effect, same, unrelated, other = (
        table.loc["resid_pre", control, 0]
        for control in ("effect", "same_answer", "unrelated_answer", "other_probe_tokens")
    )
    assert (effect["mean"], effect["flip_rate"], effect["n_pairs"]) == pytest.approx((1, 1, 4), abs=1e-3)
    assert (same["mean"], same["difference"], same["n_pairs"]) == pytest.approx((1, 0, 3), abs=1e-3)
    assert (unrelated["mean"], unrelated["difference"], unrelated["flip_rate"]) == pytest.approx(
        (0.5, 0.5, 0), abs=1e-3
    )
    assert other["difference_low"] == pytest.approx(1, abs=1e-3)
    assert set(table.index.get_level_values("component")) == set(COMPONENTS)


def test_curves_and_hand_off_show_the_planted_layer(folder):
    curves = pd.read_csv(folder / "curves.csv")
    assert len(curves) == len(COMPONENTS) * 2 * len(ROLES) * N_LAYERS
    assert pd.read_csv(folder / "hand_off.csv").iloc[0].tolist() == [LAYER + 1, LAYER + 1, LAYER + 1, 4]


def test_figures_are_drawn_with_their_numbers(folder):
    tables = [folder / f"{name}.csv" for name in ("curves", "controls", "hand_off")]
    plot_patching_curves(*tables, folder / "figures/curves", SETTINGS)
    plot_patching_case(
        folder / "patching.h5",
        folder / "pairs.parquet",
        folder / "questions.parquet",
        folder / "figures/case",
        SETTINGS,
    )
    for name in ("curves", "case"):
        for suffix in ("svg", "png", "csv"):
            assert (folder / f"figures/{name}.{suffix}").stat().st_size > 500


def test_controls_come_from_another_pair_and_its_fitting_run():
    table = pd.DataFrame({"answer_a_id": [1, 2, 3, 1], "answer_b_id": [2, 1, 4, 5]})
    seen = [control_sources(table, 0, str(seed)) for seed in range(60)]
    assert {found["same_answer"] for found in seen} == {("corrupted", 1), ("clean", 3)}
    assert {found["unrelated_answer"] for found in seen} == {("clean", 2), ("corrupted", 2), ("corrupted", 3)}
    assert "same_answer" not in control_sources(table, 2, "0")


def test_random_vectors_have_their_originals_norms_and_no_direction_in_common():
    vectors = torch.randn(3, 4, 512, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 5)[:, None]
    drawn = random_like(vectors, 7)
    np.testing.assert_allclose(drawn.norm(dim=-1), vectors.norm(dim=-1), rtol=1e-5)
    assert torch.cosine_similarity(drawn, vectors, dim=-1).abs().max() < 0.2

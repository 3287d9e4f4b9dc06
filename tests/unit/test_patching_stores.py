"""From pairs to stores, tables and figures, on the model whose mechanism is planted."""

import random
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from limited_memory import with_room_for
from planted import GIVEN, HEAD, LAYER, N_HEADS, N_LAYERS, planted_model, planted_trace
from r2a.evaluation.carriers import tabulate_carriers
from r2a.evaluation.patching import tabulate_patching
from r2a.extensions import CONTROLS
from r2a.figures.patching import (
    plot_carriers,
    plot_patching_case,
    plot_patching_components,
    plot_patching_curves,
    plot_patching_ranges,
)
from r2a.models import load_model
from r2a.patching import runs
from r2a.patching.by_probe import used_pairs
from r2a.patching.controls import Given, random_like
from r2a.patching.measurement import control_sources, measure, range_ends
from r2a.patching.metrics import METRICS
from r2a.patching.patcher import Patcher
from r2a.patching.runs import capture_activations, patch_pairs
from r2a.roles import ANSWER_ROLE, CLOSE_ROLE, CONTROL_ROLE, FINAL_ROLE, KEY_ROLES, PROBE
from r2a.shards import gather_shards
from r2a.store import axis_labels, provenance, read_parquet, write_json, write_parquet
from same_stores import assert_same_store

pytestmark = pytest.mark.slow

COMPONENTS = ["resid_pre", "resid_mid", "attn_out", "mlp_out", "z"]
CONTROL_NAMES = ["same_answer", "unrelated_answer", "random_vector", "wrong_position"]
SOURCES = [(2 * row + k, run, row) for row in range(4) for k, run in enumerate(("clean", "corrupted"))]
SETTINGS = {
    "model": "planted", "dataset": "pairs", "model_label": "Planted", "dataset_label": "Pairs", "is_toy": True,
    "seed": 5, "n_resamples": 200, "confidence": 0.95, "components": COMPONENTS, "controls": CONTROL_NAMES,
    "range_tokens": 3, "layer_step": 1, "scan_effect": 0.1,
}  # fmt: skip
# (clean, corrupted) candidates: the last pair shares its answers with no other
CANDIDATES = [(0, 1), (1, 0), (0, 2), (3, 4)]
ROLES = [f"{PROBE}before", ANSWER_ROLE, f"{PROBE}after", CLOSE_ROLE, FINAL_ROLE, CONTROL_ROLE]
BEFORE = np.arange(N_LAYERS) <= LAYER  # the layers whose input the planted head has not yet moved


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Everything that stage 3 makes from four pairs."""
    folder = tmp_path_factory.mktemp("planted")
    planted_model().save_pretrained(folder / "model")
    manifest = provenance({})
    manifest["models"] = {"planted": {"dtype": "float32"}}
    manifest |= {"folder": str(folder / "model"), "n_layers": N_LAYERS}
    write_json(folder / "manifest.json", manifest)
    rng = random.Random(4)
    rows, questions = [], []
    for pair, candidates in enumerate(CANDIDATES):
        row = {"probe": "plain", "pair": f"pair-{pair}", "left_out": "", "roles": ROLES}
        for run, side, candidate in zip(("clean", "corrupted"), "ab", candidates, strict=True):
            trace = planted_trace(rng, candidate)
            said, final = trace.said_position, trace.given_position - 1
            row[f"{run}_ids"], row[f"{run}_masked"] = trace.run_ids, []
            first, close = trace.bounds.reasoning, trace.bounds.think_close
            row[f"{run}_reasoning_start"] = first
            row[f"{run}_positions"] = [said - 1, said, said + 1, close, final, first]
            row["template"] = f"question {pair}"
            row[f"answer_{side}_id"], row[f"answer_{side}"] = GIVEN[candidate], str(candidate)
            questions.append({"pair": f"pair-{pair}", "side": side, "problem": "Which one?"})
        rows.append(row)
    rows.append({"probe": "plain", "pair": "pair-4", "left_out": "answer is not one token"})
    write_parquet(folder / "pairs.parquet", pd.DataFrame(rows), provenance({}))
    write_parquet(folder / "questions.parquet", pd.DataFrame(questions), provenance({}))
    capture_activations(folder / "pairs.parquet", folder / "manifest.json", folder / "activations.h5", SETTINGS)
    patch_pairs(
        folder / "pairs.parquet", folder / "activations.h5", folder / "manifest.json", folder / "patching.h5",
        SETTINGS, 64,
    )  # fmt: skip
    tables = [folder / f"{name}.csv" for name in ("curves", "controls", "hand_off", "ranges", "first_order")]
    tabulate_patching(folder / "patching.h5", *tables, SETTINGS)
    layers, heads = np.divmod(np.arange(N_LAYERS * N_HEADS), N_HEADS)
    is_planted = (layers == LAYER) & (heads == HEAD)
    scores = {"layer": layers, "head": heads, "a2r": is_planted * 0.9, "rank": 2 - is_planted, "is_rfh": is_planted}
    write_parquet(folder / "heads.parquet", pd.DataFrame(scores), provenance({}))
    tables = [folder / f"{name}.csv" for name in ("carriers", "agreement")]
    tabulate_carriers(folder / "patching.h5", folder / "heads.parquet", *tables, SETTINGS)
    return folder


def stored(folder: Path, name: str) -> np.ndarray:
    """[pair, layer, role]"""
    with h5py.File(folder / "patching.h5") as file:
        assert axis_labels(file["plain"], "role") == ROLES
        return file["plain"][name][:]


def test_pairs_are_the_same_in_little_memory_and_those_that_do_not_fit_are_left_out_and_named(
    folder, monkeypatch, caplog
):
    paths = [folder / name for name in ("pairs.parquet", "activations.h5", "manifest.json")]
    pairs = pd.read_parquet(paths[0]).iloc[:4]
    lengths = np.maximum(pairs["clean_ids"].str.len(), pairs["corrupted_ids"].str.len()).to_numpy()
    monkeypatch.setattr(runs, "load_model", with_room_for(lengths.max(), runs.load_model))
    patch_pairs(*paths, folder / "little.h5", SETTINGS, 1000)
    assert_same_store(folder / "patching.h5", folder / "little.h5")
    monkeypatch.setattr(runs, "load_model", with_room_for(lengths.max() - 1, load_model))
    with caplog.at_level("WARNING", "r2a"):
        capture_activations(paths[0], paths[2], folder / "fewer.h5", SETTINGS)
        patch_pairs(paths[0], folder / "fewer.h5", paths[2], folder / "few.h5", SETTINGS, 1000)
    is_left_out = lengths == lengths.max()
    for pair in pairs["pair"][is_left_out]:
        assert f"{pair}: its runs do not fit into memory; left out" in caplog.text
    assert f"{is_left_out.sum()} of 4 pairs left out" in caplog.text
    with h5py.File(folder / "few.h5") as file:
        assert (file["plain/is_left_out"][:] == is_left_out).all()
        assert (file["plain/is_used"][:] == ~is_left_out).all()
        found = file["plain/resid_pre/clean_to_corrupted/logit_diff"][:]
    assert (np.isnan(found).all((1, 2)) == is_left_out).all()
    whole = stored(folder, "resid_pre/clean_to_corrupted/logit_diff")
    np.testing.assert_allclose(found[~is_left_out], whole[~is_left_out], atol=1e-4)


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
    found = stored(folder, "resid_pre/same_answer/normalized_logit_diff")[:, :, KEY_ROLES.index(ANSWER_ROLE)]
    np.testing.assert_allclose(found[:3], np.tile(BEFORE, (3, 1)), atol=1e-3)
    assert np.isnan(found[3]).all()


def test_the_right_vector_at_the_wrong_position_of_the_probe_leaves_the_old_one_beside_it(folder):
    """The planted head reads it wherever it is: it then sees both answers, and prefers neither."""
    found = stored(folder, "resid_pre/wrong_position/normalized_logit_diff")[:, :, KEY_ROLES.index(ANSWER_ROLE)]
    np.testing.assert_allclose(found, np.tile(BEFORE / 2, (4, 1)), atol=1e-3)


def test_a_vector_of_an_unrelated_answer_takes_away_the_old_one_and_does_not_bring_the_new(folder):
    # neither candidate is given any more: halfway between the two
    name = "resid_pre/unrelated_answer"
    found = stored(folder, f"{name}/normalized_logit_diff")[:, :, KEY_ROLES.index(ANSWER_ROLE)]
    np.testing.assert_allclose(found, np.tile(BEFORE / 2, (4, 1)), atol=1e-3)
    assert not stored(folder, f"{name}/is_flipped").any()


def test_the_two_logits_tell_an_answer_that_is_brought_from_one_that_is_only_taken_away(folder):
    controls = pd.read_csv(folder / "controls.csv").query("component == 'resid_pre' and layer == 0")
    parts = controls.set_index("control")[["gained", "lost"]]
    assert parts.loc["effect"].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert parts.loc["unrelated_answer"].tolist() == pytest.approx([0, 0.5], abs=1e-3)
    for name in ("curves", "controls"):
        table = pd.read_csv(folder / f"{name}.csv")
        np.testing.assert_allclose(table["gained"] + table["lost"], table["mean"], atol=1e-5)
        probabilities = table[["probability_put_in", "probability_own", "probability_other"]]
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    curves = pd.read_csv(folder / "curves.csv")
    brought = curves.query("component == 'resid_pre' and role == @ANSWER_ROLE and layer == 0")
    assert (brought["probability_put_in"] > brought["probability_own"]).tolist() == [True, True]


def test_null_patches_stay_at_rounding_and_every_pair_is_used(folder):
    assert stored(folder, "null_patch_error").max() < 1e-4
    assert stored(folder, "is_used").tolist() == [1, 1, 1, 1]


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
    # four pairs cannot reach significance, least of all with 5 controls in 4 layers
    assert np.isnan([other["p"], other["p_holm"], same["p"]]).all()
    assert set(table.index.get_level_values("component")) == {*COMPONENTS} - {"z"}


def test_curves_and_hand_off_show_the_planted_layer(folder):
    curves = pd.read_csv(folder / "curves.csv")
    assert len(curves) == (len(COMPONENTS) - 1) * 2 * len(ROLES) * N_LAYERS
    assert pd.read_csv(folder / "hand_off.csv").iloc[0].tolist() == ["plain", *[LAYER + 1] * 3, 1, 4, 4]


def test_the_planted_head_alone_carries_the_answer_and_attends_to_it(folder):
    found = stored(folder, "z/clean_to_corrupted/normalized_logit_diff")
    expected = np.zeros_like(found)
    expected[:, LAYER, HEAD, KEY_ROLES.index(FINAL_ROLE)] = 1
    np.testing.assert_allclose(found, expected, atol=1e-3)
    agreement = pd.read_csv(folder / "agreement.csv").set_index("role")
    assert agreement.loc[FINAL_ROLE, ["rank_correlation", "low", "n_shared"]].tolist() == pytest.approx([1, 1, 1])
    assert np.isnan(agreement.loc[CLOSE_ROLE, "rank_correlation"])
    carriers = pd.read_csv(folder / "carriers.csv").query("role == @FINAL_ROLE")
    assert carriers.loc[carriers["is_rfh"], "flip_rate"].tolist() == [1]


def test_the_gradient_finds_where_the_answer_is_carried(folder):
    # norms make its size inexact, but neither its place nor its sign
    expected = stored(folder, "attn_out/clean_to_corrupted/first_order")
    assert (expected.reshape(4, -1).argmax(1) == LAYER * len(ROLES) + ROLES.index(FINAL_ROLE)).all()
    table = pd.read_csv(folder / "first_order.csv").set_index(["component", "direction"])
    assert table.loc[("z", "clean_to_corrupted"), "top_share"] == 1


def ends_of(n_tokens: int) -> list[int]:
    run = {"clean_positions": [n_tokens], "clean_reasoning_start": 0}
    run |= {"corrupted_positions": [n_tokens + 9], "corrupted_reasoning_start": 7}
    return range_ends(pd.DataFrame([run]), SETTINGS["range_tokens"])[0]


def test_ranges_double_and_the_farthest_begins_with_the_reasoning():
    assert [ends_of(n) for n in (2, 3, 5, 6, 8, 9, 14, 15)] == [
        [0], [0, 3], [0, 5], [0, 3, 6], [0, 3, 8], [0, 3, 6, 9], [0, 3, 6, 14], [0, 3, 6, 12, 15],
    ]  # fmt: skip
    assert all(sum(ends_of(n)) <= 3 * n for n in range(400))


@pytest.mark.parametrize("patch", ["clean_to_corrupted", "corrupted_to_clean", "wrong_position"])
def test_ranges_of_the_reasoning_before_the_answer_change_nothing_and_end_with_the_shorter_reasoning(folder, patch):
    found = stored(folder, f"reasoning_ranges/{patch}/normalized_logit_diff")
    pairs = pd.read_parquet(folder / "pairs.parquet").query("left_out == ''")
    for number, row in enumerate(pairs.to_dict("records")):
        before = [row[f"{run}_positions"][0] - row[f"{run}_reasoning_start"] for run in ("clean", "corrupted")]
        n_ranges = len(ends_of(int(min(before)))) - 1
        np.testing.assert_allclose(found[number, :, :n_ranges], 0, atol=1e-3)
        assert np.isnan(found[number, :, n_ranges:]).all()
    assert (~np.isnan(found)).any()


def test_a_range_is_one_run_in_which_all_its_tokens_are_the_clean_runs(folder):
    """With roles that begin after the answer, the last range contains it."""
    table = used_pairs(folder / "pairs.parquet")["plain"].iloc[:3]
    for run in ("clean", "corrupted"):
        table[f"{run}_positions"] = [[p[2], p[1], *p[2:]] for p in table[f"{run}_positions"]]
    patcher = Patcher(planted_model())
    with h5py.File(folder / "activations.h5") as file:
        found = measure(patcher, table, file["plain"], [0, 1, 2], SETTINGS, 100)
    for arrays in found:
        for patch in ("clean_to_corrupted", "corrupted_to_clean", "same_answer", "wrong_position"):
            metrics = dict(zip(METRICS, arrays[f"reasoning_ranges/{patch}"], strict=True))
            np.testing.assert_allclose(metrics["normalized_logit_diff"][:, 0], BEFORE, atol=1e-3, err_msg=patch)
            assert metrics["is_flipped"][:, 0].tolist() == BEFORE.tolist()
        metrics = dict(zip(METRICS, arrays["reasoning_ranges/unrelated_answer"], strict=True))
        np.testing.assert_allclose(metrics["normalized_logit_diff"][:, 0], BEFORE / 2, atol=1e-3)


def test_coarse_patching_finds_the_planted_layer_and_measures_what_all_layers_give(folder, tmp_path):
    """A step of 99 leaves the first and the last layer; the scan adds the one at which the planted head writes."""
    coarse = tmp_path / "coarse.h5"
    patch_pairs(
        folder / "pairs.parquet", folder / "activations.h5", folder / "manifest.json", coarse,
        SETTINGS | {"layer_step": 99}, 64,
    )  # fmt: skip
    with h5py.File(coarse) as file, h5py.File(folder / "patching.h5") as whole:
        layers = axis_labels(file["plain"], "layer")
        assert {0, LAYER, N_LAYERS - 1} <= set(layers)
        for component in COMPONENTS:
            for name in ("normalized_logit_diff", "first_order"):
                place = f"plain/{component}/clean_to_corrupted/{name}"
                np.testing.assert_allclose(file[place][:], whole[place][:][:, layers], atol=1e-4)
        for patch in ("clean_to_corrupted", "same_answer"):
            name = f"plain/reasoning_ranges/{patch}/normalized_logit_diff"
            np.testing.assert_allclose(file[name][:], whole[name][:][:, layers], atol=1e-4)
        name = "plain/resid_pre/wrong_position/normalized_logit_diff"
        np.testing.assert_allclose(file[name][:], whole[name][:][:, layers], atol=1e-4)
    tables = [tmp_path / f"{name}.csv" for name in ("curves", "controls", "hand_off", "ranges", "first_order")]
    tabulate_patching(coarse, *tables, SETTINGS)
    assert sorted(pd.read_csv(tables[0], comment="#")["layer"].unique()) == layers
    assert pd.read_csv(tables[2], comment="#")["layer"].isin(layers).all()


def test_a_killed_job_measures_only_the_pairs_that_it_had_not_finished(folder, tmp_path, monkeypatch):
    measured = []

    def dying(patcher, table, activations, numbers, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.extend(numbers)
        return measure(patcher, table, activations, numbers, *rest)

    job = (
        folder / "pairs.parquet", folder / "activations.h5", folder / "manifest.json", tmp_path / "again.h5",
        SETTINGS, 1,
    )  # fmt: skip
    monkeypatch.setattr(runs, "measure", dying)
    with pytest.raises(KeyboardInterrupt):
        patch_pairs(*job)
    assert not (tmp_path / "again.h5").exists()
    monkeypatch.setattr(runs, "measure", lambda *given: measured.extend(given[3]) or measure(*given))
    patch_pairs(*job)
    assert measured == [0, 1, 2, 3]
    with h5py.File(tmp_path / "again.h5") as file:
        again = file["plain/resid_pre/clean_to_corrupted/logit_diff"][:]
    np.testing.assert_allclose(again, stored(folder, "resid_pre/clean_to_corrupted/logit_diff"), atol=1e-4)


@pytest.mark.parametrize("controls", [["random_vector"], CONTROL_NAMES])
def test_added_pairs_are_patched_and_those_whose_controls_come_from_them_and_no_others(
    folder, tmp_path, monkeypatch, controls
):
    settings, manifest = SETTINGS | {"controls": controls}, folder / "manifest.json"
    pairs = read_parquet(folder / "pairs.parquet")
    write_parquet(tmp_path / "fewer.parquet", pairs.iloc[:3], provenance({}))
    capture_activations(tmp_path / "fewer.parquet", manifest, tmp_path / "activations.h5", SETTINGS)
    patch_pairs(
        tmp_path / "fewer.parquet", tmp_path / "activations.h5", manifest, tmp_path / "patching.h5", settings, 64
    )
    measured = []
    monkeypatch.setattr(runs, "measure", lambda *given: measured.extend(given[3]) or measure(*given))
    job = folder / "pairs.parquet", folder / "activations.h5", manifest
    patch_pairs(*job, tmp_path / "patching.h5", settings, 64)
    table = used_pairs(folder / "pairs.parquet")["plain"]
    before, after = (
        [{row for _, row in control_sources(rows, number, settings)} for number in range(3)]
        for rows in (table.iloc[:3], table)
    )
    assert measured == [number for number in range(3) if before[number] != after[number]] + [3]
    patch_pairs(*job, tmp_path / "fresh.h5", settings, 64)
    assert_same_store(tmp_path / "fresh.h5", tmp_path / "patching.h5")


def test_shards_make_the_stores_of_one_job(folder, tmp_path):
    """Four pairs in three shards; controls come from pairs in other shards."""
    pairs, manifest = folder / "pairs.parquet", folder / "manifest.json"
    names = ["1-of-3", "2-of-3", "3-of-3"]
    shards = [tmp_path / f"activations.{name}.h5" for name in names]
    for name, shard in zip(names, shards, strict=True):
        capture_activations(pairs, manifest, shard, SETTINGS, name)
    gather_shards(shards, tmp_path / "activations.h5")
    assert_same_store(folder / "activations.h5", tmp_path / "activations.h5")
    shards = [tmp_path / f"patching.{name}.h5" for name in names]
    for name, shard in zip(names, shards, strict=True):
        patch_pairs(pairs, folder / "activations.h5", manifest, shard, SETTINGS, 64, name)
    gather_shards(shards, tmp_path / "patching.h5")
    assert_same_store(folder / "patching.h5", tmp_path / "patching.h5")


def test_figures_are_drawn_with_their_numbers(folder, monkeypatch):
    monkeypatch.setattr("r2a.figures.style.LEAST", 4)  # these are four pairs
    tables = [folder / f"{name}.csv" for name in ("curves", "controls", "hand_off")]
    plot_patching_curves(*tables, folder / "figures/curves", SETTINGS)
    plot_patching_case(
        folder / "patching.h5",
        folder / "pairs.parquet",
        folder / "questions.parquet",
        folder / "figures/case",
        SETTINGS,
    )
    plot_patching_components(tables[0], folder / "figures/components", SETTINGS)
    plot_patching_ranges(folder / "ranges.csv", folder / "figures/ranges", SETTINGS)
    plot_carriers(folder / "carriers.csv", folder / "agreement.csv", folder / "figures/carriers", SETTINGS)
    for name in ("curves", "case", "components", "ranges", "carriers"):
        for suffix in ("svg", "png", "csv"):
            assert (folder / f"figures/{name}.{suffix}").stat().st_size > 100


def test_controls_come_from_another_pair_and_its_fitting_run():
    table = pd.DataFrame({"pair": list("wxyz"), "answer_a_id": [1, 2, 3, 1], "answer_b_id": [2, 1, 4, 5]})

    def source(control, number, seed):
        """(run, row) from which the control takes its vectors; here, a number stands for a run's vectors."""
        taken = {(run, row): torch.tensor(k) for k, run, row in SOURCES}
        given = Given(torch.zeros(1, 1, 1), "resid_pre", table, number, lambda run, row: taken[run, row], seed)
        found = CONTROLS[control].function(given)
        return None if found is None else SOURCES[int(found)][1:]

    seen = {name: {source(name, 0, str(seed)) for seed in range(60)} for name in ("same_answer", "unrelated_answer")}
    assert seen["same_answer"] == {("corrupted", 1), ("clean", 3)}
    assert seen["unrelated_answer"] == {("clean", 2), ("corrupted", 2), ("corrupted", 3)}
    assert source("same_answer", 2, "0") is None


def test_random_vectors_have_their_originals_norms_and_no_direction_in_common():
    vectors = torch.randn(3, 4, 512, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 5)[:, None]
    drawn = random_like(vectors, 7)
    np.testing.assert_allclose(drawn.norm(dim=-1), vectors.norm(dim=-1), rtol=1e-5)
    assert torch.cosine_similarity(drawn, vectors, dim=-1).abs().max() < 0.2

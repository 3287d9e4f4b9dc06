"""From pairs to the stores, tables and figures of the mechanism, on models in which it is planted."""

import random
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import r2a.patching.mechanism
from limited_memory import with_room_for
from planted import FIRST, GIVEN, HEAD, LAYER, N_HEADS, N_LAYERS, SECOND, planted_model, planted_trace
from r2a.evaluation.mechanism import ratio_and_interval, tabulate_mechanism
from r2a.figures.mechanism import plot_attribution, plot_later_layers, plot_mediation
from r2a.patching.mechanism import follow_patches
from r2a.patching.runs import capture_activations
from r2a.roles import ANSWER_ROLE, CLOSE_ROLE, CONTROL_ROLE, FINAL_ROLE, PROBE
from r2a.shards import gather_shards
from r2a.store import NothingToMeasure, provenance, write_json, write_parquet
from same_stores import assert_same_store

SETTINGS = {
    "model": "planted", "dataset": "pairs", "model_label": "Planted", "dataset_label": "Pairs", "is_toy": True,
    "seed": 5, "n_resamples": 200, "confidence": 0.95, "components": ["resid_pre"],
    "range_tokens": 2, "n_top_heads": 1,
}  # fmt: skip
CANDIDATES = [(0, 1), (1, 0), (0, 2), (3, 4)]
ROLES = [f"{PROBE}before", ANSWER_ROLE, f"{PROBE}after", CLOSE_ROLE, FINAL_ROLE, CONTROL_ROLE]
TABLES = ("mediation", "mlps", "attribution", "lens", "changes")


@pytest.fixture(scope="module", params=["one_head", "attends_idly", "attends_little", "in_sequence"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything made from four pairs."""
    folder = tmp_path_factory.mktemp(request.param)
    planted_model(request.param).save_pretrained(folder / "model")
    manifest = provenance({}) | {"folder": str(folder / "model"), "n_layers": N_LAYERS}
    write_json(folder / "manifest.json", manifest | {"models": {"planted": {"dtype": "float32"}}})
    rng, rows = random.Random(4), []
    for pair, candidates in enumerate(CANDIDATES):
        row = {"probe": "plain", "pair": f"pair-{pair}", "left_out": "", "roles": ROLES, "template": f"t{pair}"}
        for run, side, candidate in zip(("clean", "corrupted"), "ab", candidates, strict=True):
            trace = planted_trace(rng, candidate)
            said, final = trace.said_position, trace.given_position - 1
            row[f"{run}_ids"], row[f"{run}_masked"] = trace.run_ids, []
            row[f"{run}_reasoning_start"] = trace.bounds[3]
            row[f"{run}_positions"] = [said - 1, said, said + 1, trace.bounds[4], final, trace.bounds[3]]
            row[f"answer_{side}_id"] = GIVEN[candidate]
        rows.append(row)
    write_parquet(folder / "pairs.parquet", pd.DataFrame(rows), provenance({}))
    layers, heads = np.divmod(np.arange(N_LAYERS * N_HEADS), N_HEADS)
    reader = FIRST if request.param == "in_sequence" else (LAYER, HEAD)
    is_reader = (layers == reader[0]) & (heads == reader[1])
    scores = {"layer": layers, "head": heads, "rank": 2 - is_reader, "is_rfh": is_reader}
    scores |= {"output_share": np.where(is_reader | (heads == 2), 0.5, 0.0), "a2bos": 0.2}
    write_parquet(folder / "heads.parquet", pd.DataFrame(scores), provenance({}))
    inputs = (folder / "pairs.parquet", folder / "manifest.json", folder / "activations.h5")
    capture_activations(*inputs, SETTINGS)
    follow_patches(*job_of(folder), folder / "mechanism.h5", SETTINGS, 64)
    paths = [folder / f"{name}.csv" for name in TABLES]
    tabulate_mechanism(folder / "mechanism.h5", folder / "heads.parquet", *paths, SETTINGS)
    return folder


def job_of(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in ("pairs.parquet", "activations.h5", "heads.parquet", "manifest.json"))


def is_in_sequence(folder: Path) -> bool:
    return folder.name.startswith("in_sequence")


def reader_of(folder: Path) -> tuple[int, int]:
    return FIRST if is_in_sequence(folder) else (LAYER, HEAD)


def test_the_reader_mediates_all_of_the_effect_and_matched_and_other_heads_none(folder):
    table = pd.read_csv(folder / "mediation.csv").set_index(["path", "layer"])
    layer = reader_of(folder)[0]
    for path, expected in {"all": 1, "rfh": 1, "matched": 0, "rest": 0}.items():
        for patched in range(N_LAYERS):
            row = table.loc[(path, patched)]
            reached = expected if patched <= layer else 0
            assert row["mean"] == pytest.approx(reached, abs=1e-3)
            if patched <= layer:
                assert row[["share", "share_low", "share_high"]].tolist() == pytest.approx([expected] * 3, abs=1e-3)
            else:
                assert np.isnan(row["share"])
    # each logit by itself: the clean answer's rises, the corrupted answer's falls
    row = table.loc[("rfh", 0)]
    assert row["change_a"] == pytest.approx(-row["change_b"], abs=1e-3)
    assert row["change_a"] > 5 and (row["n_pairs"], row["n_templates"]) == (4, 4)


def test_the_mlp_between_two_heads_in_sequence_passes_all_on_and_no_other_does(folder):
    table = pd.read_csv(folder / "mlps.csv").set_index("layer")
    expected = np.zeros(N_LAYERS)
    if is_in_sequence(folder):
        expected[FIRST[0]] = 1
    np.testing.assert_allclose(table["share"], expected, atol=1e-3)


def test_the_head_that_writes_the_answer_has_all_of_the_direct_attribution(folder):
    table = pd.read_csv(folder / "attribution.csv")
    writer = SECOND if is_in_sequence(folder) else (LAYER, HEAD)
    clean = table[(table["run"] == "clean") & (table["part"] != "head")]
    heads = table[(table["run"] == "clean") & (table["part"] == "head")].set_index(["layer", "head"])
    total = clean["mean"].sum()
    assert total == pytest.approx(10 / 2**0.5 if is_in_sequence(folder) else 10, abs=1e-2)
    assert heads.loc[writer, "mean"] == pytest.approx(total, abs=1e-2)
    assert heads.drop(index=[writer])["mean"].abs().max() < 1e-3
    assert heads["is_rfh"].sum() == 1


def test_the_lens_sees_the_answer_after_the_head_that_writes_it_and_the_corrupted_run_never_has_it(folder):
    table = pd.read_csv(folder / "lens.csv").set_index(["run", "role", "layer"]).sort_index()
    layer = SECOND[0] if is_in_sequence(folder) else LAYER
    final = table.loc[("clean", FINAL_ROLE)]
    assert (final["mean"] > 0.9).tolist() == [entered > layer for entered in range(N_LAYERS)]
    assert (table.loc[("clean", ANSWER_ROLE), "mean"] < 0.6).all()  # 0.5: no preference
    assert (table.loc[("corrupted", FINAL_ROLE), "mean"] < 0.6).all()


def test_a_patch_changes_the_later_layers_that_the_planted_heads_write_to(folder):
    table = pd.read_csv(folder / "changes.csv").set_index(["layer", "later_layer", "head"])["mean"]
    reader = reader_of(folder)
    for layer in range(N_LAYERS):
        for later in range(layer, N_LAYERS):
            if later < reader[0]:
                continue
            moved = table.loc[(layer, later, -1)] > 0.3
            assert moved == (layer <= reader[0] and later >= reader[0]), (layer, later)
    assert table.loc[(0, *reader)] > 0.7
    assert table.loc[(reader[0], *reader)] > 0.7


def test_pairs_that_do_not_fit_into_memory_are_left_out_and_named_and_the_rest_are_the_same(
    folder, monkeypatch, caplog, tmp_path
):
    pairs = pd.read_parquet(folder / "pairs.parquet")
    lengths = np.maximum(pairs["clean_ids"].str.len(), pairs["corrupted_ids"].str.len())
    load_model = r2a.patching.mechanism.load_model
    # all patches of a pair at a time do not fit, but one at a time does
    monkeypatch.setattr(r2a.patching.mechanism, "load_model", with_room_for(lengths.max(), load_model))
    with caplog.at_level("WARNING", "r2a"):
        follow_patches(*job_of(folder), tmp_path / "little.h5", SETTINGS, 1000)
    assert "continuing with" in caplog.text and "left out" not in caplog.text
    assert_same_store(folder / "mechanism.h5", tmp_path / "little.h5")
    capture_activations(folder / "pairs.parquet", folder / "manifest.json", tmp_path / "activations.h5", SETTINGS)
    inputs = (folder / "pairs.parquet", tmp_path / "activations.h5", folder / "heads.parquet", folder / "manifest.json")
    monkeypatch.setattr(r2a.patching.mechanism, "load_model", with_room_for(12, load_model))  # for the patcher's check
    with caplog.at_level("WARNING", "r2a"):
        follow_patches(*inputs, tmp_path / "none.h5", SETTINGS, 1000)
    assert all(f"{pair}, plain: does not fit into memory; left out" in caplog.text for pair in pairs["pair"])
    assert "4 of 4 pairs left out" in caplog.text
    with h5py.File(tmp_path / "none.h5") as file:
        assert (file["plain/is_left_out"][:] == 1).all() and (file["plain/is_used"][:] == 0).all()
    tables = [tmp_path / f"{name}.csv" for name in TABLES]
    with pytest.raises(NothingToMeasure, match="no pair was measured"):
        tabulate_mechanism(tmp_path / "none.h5", folder / "heads.parquet", *tables, SETTINGS)


def test_shares_are_of_means_and_not_defined_where_there_is_next_to_no_effect():
    values, whole = np.array([[0.2, 0.01], [0.6, 0.03]]), np.array([[0.4, 0.02], [1.2, 0.06]])
    found, low, high = ratio_and_interval(values, whole, np.array(["a", "b"]), SETTINGS)
    assert (found[0], low[0], high[0]) == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan([found[1], low[1], high[1]]).all()


def test_shards_make_the_store_of_one_job_and_what_is_there_is_not_computed_again(folder, tmp_path, monkeypatch):
    names = ["1-of-2", "2-of-2"]
    shards = [tmp_path / f"mechanism.{name}.h5" for name in names]
    for name, shard in zip(names, shards, strict=True):
        follow_patches(*job_of(folder), shard, SETTINGS, 64, name)
    gather_shards(shards, tmp_path / "mechanism.h5")
    assert_same_store(folder / "mechanism.h5", tmp_path / "mechanism.h5")
    monkeypatch.setattr("r2a.patching.mechanism._Pair", None)
    follow_patches(*job_of(folder), folder / "mechanism.h5", SETTINGS, 64)
    with h5py.File(folder / "mechanism.h5") as file:
        assert np.isfinite(file["plain/paths/logit_a"][:]).all()


def test_figures_are_drawn_with_their_numbers(folder, monkeypatch):
    monkeypatch.setattr("r2a.figures.style.LEAST", 4)  # these are four pairs
    plot_mediation(folder / "mediation.csv", folder / "mlps.csv", folder / "figures/mediation", SETTINGS)
    plot_attribution(folder / "attribution.csv", folder / "lens.csv", folder / "figures/attribution", SETTINGS)
    plot_later_layers(folder / "changes.csv", folder / "figures/later_layers", SETTINGS)
    for name in ("mediation", "attribution", "later_layers"):
        for suffix in ("svg", "png", "csv"):
            assert (folder / f"figures/{name}.{suffix}").stat().st_size > 100

"""Comparison of several models: sizes, depths, and trends only with enough models."""

import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from r2a.evaluation.across_models import TOO_FEW_MODELS, trend_table, write_across_models
from r2a.figures.across_models import plot_across_models
from r2a.models.weights import count_parameters
from r2a.store import add_array, add_axis, add_column, new_hdf5, provenance, write_csv, write_json
from r2a.traces import QUERY_SEGMENTS, SEGMENTS

ROOT = Path(__file__).parents[2]
N_LAYERS, N_HEADS, N_TRACES = 5, 3, 12
SETTINGS = {
    "stage": "across_models", "n_top_heads": 2, "n_resamples": 200, "confidence": 0.95, "seed": 1,
    "models": {
        "small": {"label": "Small", "distillation": "R1", "variant_of": None},
        "chat": {"label": "Small chat", "distillation": "R1", "variant_of": "small"},
        "served": {"label": "Served", "distillation": None, "variant_of": None},
    },
}  # fmt: skip


@pytest.fixture
def tables(tmp_path):
    """Two heads of layers 3 and 4 (of 0 to 4) focus in all traces; one probe has no hand-off."""
    names = {"model": "small", "model_label": "Small", "dataset": "d", "dataset_label": "Data"}
    origin = {"folder": "here", "architecture": "Qwen2ForCausalLM", "n_parameters": 1_500_000_000, "n_layers": N_LAYERS}
    write_json(tmp_path / "small.json", provenance({}) | {"models": {"small": {}}} | origin)
    write_json(tmp_path / "served.json", provenance({}) | {"models": {"served": {}}, "folder": None})
    effect = pd.DataFrame({"model": ["Small", "Small chat", "Served", "Small"], "by": ["all", "all", "all", "area"]})
    effect = effect.assign(dataset="Data", decoding="greedy", difference=0.2, low=0.1, high=0.3, n_problems=40)
    write_csv(tmp_path / "effect.csv", effect, provenance({}))
    with new_hdf5(tmp_path / "attention.h5", provenance(names)) as file:
        for name, length in {"trace": N_TRACES, "layer": N_LAYERS, "head": N_HEADS}.items():
            add_axis(file, name, range(length))
        add_axis(file, "query_segment", QUERY_SEGMENTS)
        add_axis(file, "key_segment", SEGMENTS)
        add_column(file, "uid", "trace", [f"p{k // 2}" for k in range(N_TRACES)])
        add_column(file, "condition", "trace", ["with_reasoning"] * N_TRACES)
        add_column(file, "is_left_out", "trace", [0] * N_TRACES)
        mass = add_array(file, "segment_mass", ("trace", "layer", "head", "query_segment", "key_segment"), "share")
        mass[:] = 0
        for layer, head in ((3, 1), (4, 2)):
            mass[:, layer, head, QUERY_SEGMENTS.index("answer"), SEGMENTS.index("reasoning")] = 0.9
    hand_off = {"probe": ["plain", "boxed"], "layer": [3, np.nan], "low": [2, np.nan], "high": [3, np.nan]}
    write_csv(tmp_path / "hand_off.csv", pd.DataFrame(hand_off).assign(n_pairs=9), provenance(names))
    paths = pd.DataFrame({"path": ["all", "all", "rfh", "rfh"], "layer": [0, 1] * 2, "mean": [0.3, 0.8, 0.3, 0.2]})
    paths = paths.assign(share=[1, 1, 1, 0.25], share_low=0.2, share_high=0.5, probe="plain", n_pairs=9)
    write_csv(tmp_path / "mediation.csv", paths, provenance(names))
    write_across_models(
        [tmp_path / "small.json", tmp_path / "served.json"], tmp_path / "effect.csv", [tmp_path / "attention.h5"],
        [tmp_path / "hand_off.csv"], [tmp_path / "mediation.csv"], tmp_path / "models.csv", tmp_path / "trends.csv",
        SETTINGS,
    )  # fmt: skip
    return tmp_path


def test_depths_are_shares_of_a_models_layers_and_a_variant_is_no_model_of_its_own(tables):
    rows = pd.read_csv(tables / "models.csv").set_index(["model", "measure"])
    assert set(rows.index.get_level_values("model")) == {"Small", "Served"}
    assert rows.loc[("Small", "rfh depth"), ["value", "low", "high", "n"]].tolist() == [3.5 / 4, 3.5 / 4, 3.5 / 4, 12]
    assert rows.loc[("Small", "hand-off, plain"), ["value", "low", "high", "n"]].tolist() == [3 / 4, 2 / 4, 3 / 4, 9]
    assert np.isnan(rows.loc[("Small", "hand-off, boxed"), "value"])
    # at layer 1, where all heads together pass on most
    assert rows.loc[("Small", "through RFHs, plain"), ["value", "low", "high", "n"]].tolist() == [0.25, 0.2, 0.5, 9]
    known = rows.loc[("Small", "effect"), ["family", "n_parameters", "n_layers", "distillation", "value", "low"]]
    assert known.tolist() == ["Qwen2", 1_500_000_000, 5, "R1", 0.2, 0.1]
    assert rows.loc[("Served", "effect"), ["family", "n_parameters", "n_layers"]].isna().all()


def test_two_models_have_no_trend_and_it_is_said(tables):
    trends = pd.read_csv(tables / "trends.csv")
    assert set(trends["test"]) == {TOO_FEW_MODELS} and trends[["p", "p_holm"]].isna().all(axis=None)
    plot_across_models(
        tables / "models.csv", tables / "trends.csv", tables / "figure",
        {"is_toy": False, "confidence": 0.95},
    )  # fmt: skip
    words = " ".join(re.findall("<!-- (.*?) -->", (tables / "figure.svg").read_text()))
    assert words.count("too few models for a trend test") == 1


def measured(values, n_models=None):
    sizes = np.arange(1, len(values) + 1)
    return pd.DataFrame({"dataset": "D", "measure": "effect", "n_parameters": sizes, "value": values}).head(n_models)


def test_the_trends_p_counts_all_orders_of_the_models():
    values = [0.1, 0.3, 0.2, 0.5, 0.6]
    row = trend_table(measured(values), 0.95, 1000, 1).iloc[0]
    extreme = [abs(np.corrcoef(range(5), order)[0, 1]) >= 0.9 - 1e-9 for order in permutations(range(5))]
    assert (row["n_models"], row["rank_correlation"]) == (5, pytest.approx(0.9))
    assert row["p"] == row["p_holm"] == pytest.approx(np.mean(extreme))


def test_four_models_in_perfect_order_are_no_trend_and_ten_in_drawn_orders_are():
    four, ten = (trend_table(measured(np.arange(n)), 0.95, 2000, 1).iloc[0] for n in (4, 10))
    assert (four["rank_correlation"], four["test"]) == (pytest.approx(1), TOO_FEW_MODELS) and np.isnan(four["p"])
    assert ten["p"] == pytest.approx(1 / 2001)


def test_models_without_a_size_do_not_count_for_a_trend():
    rows = measured(np.arange(6.0))
    assert trend_table(rows.assign(n_parameters=[1, 2, 3, 4, np.nan, np.nan]), 0.95, 100, 1)["n_models"].item() == 4


def test_parameters_are_counted_over_all_files_by_their_headers(tmp_path):
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}, tmp_path / "model-1.safetensors")
    save_file({"c": np.zeros((2, 2, 2), np.float32)}, tmp_path / "model-2.safetensors", metadata={"format": "pt"})
    assert count_parameters(tmp_path) == 12 + 5 + 8


def test_weights_that_lie_there_twice_are_counted_once(tmp_path):
    for name in ("model", "consolidated"):
        save_file({"a": np.zeros((3, 4), np.float32)}, tmp_path / f"{name}.safetensors")
    assert count_parameters(tmp_path) == 12
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    assert count_parameters(tmp_path) == 12
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "consolidated.safetensors"}}')
    assert count_parameters(tmp_path) == 12

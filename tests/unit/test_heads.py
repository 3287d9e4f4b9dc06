"""Scores of heads: registry, intervals and definitions; and right against wrong answers."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from r2a.evaluation import quality_table, write_attention_quality
from r2a.extensions import HEAD_SCORES, HeadScore
from r2a.figures.head_atlas import plot_head_atlas
from r2a.figures.head_lists import plot_head_lists
from r2a.figures.heads import plot_head_map
from r2a.heads import score_heads
from r2a.heads.focus import density, rank_heads, sink_free, top_share
from r2a.heads.lists import compare_lists
from r2a.heads.ranks import order_heads
from r2a.heads.registry import Weighted, score_columns, stacked
from r2a.heads.scores import N_NEIGHBOURS, receiver_kurtosis
from r2a.store import add_array, add_axis, add_column, new_hdf5, provenance, read_parquet, write_parquet
from r2a.summary.attention import find_head_kinds, find_quality
from r2a.summary.words import NONE
from r2a.traces import QUERY_SEGMENTS, SEGMENTS

N_TRACES, N_LAYERS, N_HEADS = 6, 2, 3
N_SENTENCES = 5 + N_NEIGHBOURS
DRAWS: dict[str, Any] = {"n_resamples": 500, "confidence": 0.95, "seed": 3}
NAMES = {"model_label": "Model", "dataset_label": "Texts", "is_toy": True}
SETTINGS = {"n_top_heads": 2, **DRAWS, **NAMES}
A2R = (slice(None), slice(None), slice(None), QUERY_SEGMENTS.index("answer"), SEGMENTS.index("reasoning"))


def columns_of(values: list[list[float]], **changed: Any) -> dict[str, np.ndarray]:
    """score_columns of values [unit][head], one layer."""
    return score_columns("x", stacked(np.array(values)[:, None]), **DRAWS | changed)


# ---- intervals


def test_interval_of_two_units_is_that_of_a_fair_coin_thrown_twice():
    # means 0, 1/2, 1 with chances 1/4, 1/2, 1/4; of two units, the middle .2 by Student's quantile ends at .32 and .68
    wide, narrow = (columns_of([[0.0], [1.0]], n_resamples=5000, confidence=c) for c in (0.95, 0.2))
    assert (wide["x"][0], wide["x_low"][0], wide["x_high"][0]) == (0.5, 0, 1)
    assert (narrow["x_low"][0], narrow["x_high"][0]) == (0.5, 0.5)


def test_undefined_values_are_left_out_and_counted():
    found = columns_of([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    assert found["x_n"].tolist() == [2, 0]
    assert found["x"][0] == 2 and found["x_low"][0] == 1 and found["x_high"][0] == 3
    assert np.isnan([found[f"x{end}"][1] for end in ("", "_low", "_high")]).all()


def test_rank_interval_spans_the_ranks_that_resampled_traces_give():
    mass = np.zeros((40, 1, 3, 2, 7), np.float32)
    mass[A2R] = np.tile([[[0.9, 0.5, 0.1]], [[0.9, 0.1, 0.5]]], (20, 1, 1))  # the latter two tie on average
    bounds = np.tile([0, 1, 2, 3, 8, 9, 10, 11], (40, 1))
    heads = rank_heads(mass, bounds, n_top=1, **DRAWS).set_index("head")
    assert heads.loc[0, ["rank", "rank_low", "rank_high"]].tolist() == [1, 1, 1]
    assert (
        heads.loc[1, ["rank_low", "rank_high"]].tolist() == [2, 3] == heads.loc[2, ["rank_low", "rank_high"]].tolist()
    )


# ---- definitions


def kurtosis_of(mass: np.ndarray, lengths: list[int] | None = None) -> np.ndarray:
    """The kurtosis of masses on sentences of so many tokens (by default one), followed by the reader's neighbours."""
    lengths = lengths or [1] * mass.shape[-1]
    cuts = np.cumsum([7, *lengths, *[3] * N_NEIGHBOURS])
    mass = np.concatenate([mass, np.full((*mass.shape[:2], N_NEIGHBOURS), 5.0)], axis=-1)
    padding = np.full((*mass.shape[:2], 2), np.nan)
    return receiver_kurtosis(np.concatenate([mass, padding], axis=-1), np.r_[cuts, -1, -1])


def test_kurtosis_of_a_head_on_one_of_five_sentences_by_hand():
    # deviations 0.8 and four times -0.2: m2 = 0.16, m4 = 0.0832, 0.0832 / 0.16^2 = 3.25
    np.testing.assert_allclose(kurtosis_of(np.array([[[1.0, 0, 0, 0, 0]]])), [[0.25]])


def test_kurtosis_is_scipys_of_attention_per_token_over_the_sentences_that_a_trace_has():
    mass = np.random.default_rng(0).random((2, 3, 6))
    lengths = [4, 1, 9, 2, 2, 5]
    np.testing.assert_allclose(kurtosis_of(mass, lengths), stats.kurtosis(mass / lengths, axis=-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("mass", "lengths"),
    [([0.2] * 5, None), ([0.2, 0.4, 0.8, 0.2], [1, 2, 4, 1]), ([0.7, 0.2, 0.1], None)],
    ids=["even attention", "even attention per token", "three sentences"],
)
def test_kurtosis_is_undefined_of(mass, lengths):
    assert np.isnan(kurtosis_of(np.array([[mass]]), lengths)).all()


def masses(**of_head: list[float]) -> np.ndarray:
    """segment_mass [1, head, query_segment, key_segment] with the answer's masses, one value per head."""
    found = np.zeros((1, len(next(iter(of_head.values()))), 2, 7))
    for name, values in of_head.items():
        found[0, :, QUERY_SEGMENTS.index("answer"), SEGMENTS.index(name)] = values
    return found


def test_without_sinks_the_attention_that_lies_on_bos_is_no_part_of_the_whole():
    # three heads: half of little, half of all, and all of it on BOS
    found = sink_free(masses(bos=[0.8, 0.0, 1.0], reasoning=[0.1, 0.5, 0.0], prompt=[0.1, 0.5, 0.0]))
    np.testing.assert_allclose(found.values[0, :2], 0.5)
    assert np.isnan(found.values[0, 2])
    np.testing.assert_allclose(found.weights[0], [0.2, 1, 0], atol=1e-12)


def test_the_mean_without_sinks_is_of_parts_over_wholes():
    first, second = (sink_free(masses(bos=[bos], reasoning=[a2r])) for bos, a2r in ((0.9, 0.1), (0.1, 0.3)))
    np.testing.assert_allclose(stacked([first, second]).mean(), [[(0.1 + 0.3) / (0.1 + 0.9)]])


def test_even_attention_has_density_one_whatever_the_segments_lengths():
    """BOS, 4 tokens of prompt, <think>, 6 of reasoning, </think>, 3 of answer, which see 1, 2 and 3 of themselves."""
    bounds = np.array([0, 1, 5, 6, 12, 13, 16, 17])
    seen = np.arange(14, 17)
    even = masses(
        bos=[np.mean(1 / seen)], prompt=[np.mean(4 / seen)], think_open=[np.mean(1 / seen)],
        reasoning=[np.mean(6 / seen)], think_close=[np.mean(1 / seen)], answer=[np.mean([1, 2, 3] / seen)],
    )  # fmt: skip
    assert even[0, 0, 1].sum() == pytest.approx(1)
    assert density(even, bounds)[0, 0] == pytest.approx(1, abs=0.01)  # long rows weigh less than short ones
    per_token = masses(prompt=[0.04], reasoning=[0.12], answer=[0.02])
    assert density(per_token, bounds)[0, 0] == pytest.approx((0.12 / 6) / (0.06 / 6))


def test_a_head_that_attends_to_the_reasoning_alone_has_a_high_density_and_one_that_rests_on_bos_has_none():
    found = density(masses(bos=[0.1, 1.0], reasoning=[0.9, 0.0]), np.array([0, 1, 5, 6, 12, 13, 16, 17]))
    assert found[0, 0] > 1000 and found[0, 1] == 0


def test_lists_of_two_scores_share_the_heads_at_the_top_of_both():
    rng = np.random.default_rng(1)
    one = np.arange(20.0) + 0.01 * rng.normal(size=(30, 1, 20))
    other = one.copy()
    other[..., [0, 19]] = other[..., [19, 0]]  # the highest and the lowest swap places
    scores = {name: Weighted(v, np.ones(v.shape)) for name, v in (("a2r", one), ("density", other), ("lift", one))}
    (row,) = compare_lists(scores, 5, **DRAWS).to_dict("records")
    assert (row["first"], row["second"], row["n_top"], row["n_heads"]) == ("a2r", "density", 5, 20)
    assert (row["n_shared"], row["n_shared_low"], row["n_shared_high"], row["expected"]) == (4, 4, 4, 25 / 20)
    assert row["rank_correlation"] == pytest.approx(1 - 6 * 2 * 19**2 / (20 * 399))


def test_a_traces_own_top_holds_as_many_heads_as_asked_for():
    mass = np.zeros((2, 2, 2, 7))
    mass[..., QUERY_SEGMENTS.index("answer"), SEGMENTS.index("reasoning")] = [[0.1, 0.4], [0.3, 0.2]]
    assert top_share(mass, 2).tolist() == [[0, 1], [1, 0]]


# ---- the stage, on stores made by hand


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Path]:
    """Six traces, the last one without reasoning; five runs of each diagnostic; every score of a head is known."""
    paths = {name: tmp_path / f"{name}.h5" for name in ("attention", "diagnostics")}
    heads = ("layer", "head")
    of_head = np.arange(N_LAYERS * N_HEADS, dtype=np.float32).reshape(N_LAYERS, N_HEADS) / 10  # 0.0 .. 0.5
    with new_hdf5(paths["attention"], provenance({"decoding": "greedy", **NAMES})) as file:
        lengths = {"trace": N_TRACES, "layer": N_LAYERS, "head": N_HEADS, "sentence": N_SENTENCES}
        lengths |= {"sentence_bound": N_SENTENCES + 1, "bound": 8}
        for name, length in lengths.items():
            add_axis(file, name, range(length))
        add_axis(file, "query_segment", QUERY_SEGMENTS)
        add_axis(file, "key_segment", SEGMENTS)
        add_column(file, "uid", "trace", [f"text-{k}" for k in range(N_TRACES)])
        add_column(file, "sample", "trace", [0] * N_TRACES)
        add_column(file, "condition", "trace", ["with_reasoning"] * (N_TRACES - 1) + ["without_reasoning"])
        add_column(file, "is_left_out", "trace", [0] * N_TRACES)
        mass = add_array(file, "segment_mass", ("trace", *heads, "query_segment", "key_segment"), "share")
        mass[:] = 0
        for k in range(N_TRACES - 1):
            mass[k, :, :, 1, 3] = of_head + 0.01 * k
            mass[k, :, :, 1, 1] = 0.1
        add_array(file, "bounds", ("trace", "bound"), "token", "int64")[:] = [0, 1, 2, 3, 8, 9, 10, 11]
        for name in ("tracking", "spread", "cue_preference", "cue_over_initial", "contribution", "output_share"):
            add_array(file, name, ("trace", *heads), "number")[:] = of_head
        sentence_mass = add_array(file, "sentence_mass", ("trace", *heads, "sentence"), "share")
        sentence_mass[:] = np.array([1, 0, 0, 0, 0, *[1] * N_NEIGHBOURS])
        cuts = add_array(file, "sentence_bounds", ("trace", "sentence_bound"), "token", "int64", -1)
        cuts[:] = np.arange(3, 4 + N_SENTENCES)
        file["tracking"][0] = np.nan
    with new_hdf5(paths["diagnostics"], provenance({"model_label": "Model"})) as file:
        for name, length in {"layer": N_LAYERS, "head": N_HEADS, "run": 5}.items():
            add_axis(file, name, range(length))
        for name in ("induction_repeats", "induction_prompts", "previous_token", "retrieval"):
            add_array(file, name, ("run", *heads), "share")[:] = of_head
        file["induction_repeats"][:] = of_head[::-1, ::-1]
        file["retrieval"][:] = np.where(of_head > 0.45, of_head, 0.05)
        file["retrieval"][:2] = np.nan
        add_column(file, "is_successful", "run", [False, False, True, True, True])
    return paths | {
        "heads": tmp_path / "heads.parquet",
        "by_trace": tmp_path / "by_trace.parquet",
        "lists": tmp_path / "lists.csv",
    }


def scored(stores: dict[str, Path]) -> pd.DataFrame:
    outputs = (stores[name] for name in ("heads", "by_trace", "lists"))
    score_heads(stores["attention"], stores["diagnostics"], *outputs, SETTINGS)
    return read_parquet(stores["heads"]).set_index(["layer", "head"])


def test_every_score_has_its_interval_and_the_number_of_its_traces_or_runs(stores):
    heads = scored(stores)
    for score in HEAD_SCORES:
        assert (heads[f"{score}_low"] <= heads[score] + 1e-6).all() and (
            heads[score] <= heads[f"{score}_high"] + 1e-6
        ).all()
    counts = {"a2r": 5, "lift": 5, "tracking": 4, "receiver_kurtosis": 5, "induction": 5, "retrieval": 3}
    assert {score: heads[f"{score}_n"].unique().tolist() for score in counts} == {s: [n] for s, n in counts.items()}
    # the five traces with reasoning have 0.5 + 0, 0.01 .. 0.04; reasoning is 5 of the 10 tokens that answers see
    assert heads.loc[(1, 2), "a2r"] == pytest.approx(0.52)
    assert heads.loc[(1, 2), "lift"] == pytest.approx(1.04)
    assert heads.loc[(1, 2), "receiver_kurtosis"] == pytest.approx(0.25)


def test_marks_are_the_top_heads_and_those_above_a_tenth(stores):
    heads = scored(stores)
    marked = {name: heads.index[heads[name]].tolist() for name in ("is_rfh", "is_induction", "is_retrieval")}
    assert marked == {"is_rfh": [(1, 1), (1, 2)], "is_induction": [(0, 0), (0, 1)], "is_retrieval": [(1, 2)]}


def test_a_model_without_induction_has_no_induction_head(stores):
    with h5py.File(stores["diagnostics"], "r+") as file:
        file["induction_repeats"][:] /= 10
    assert not scored(stores)["is_induction"].any()


def test_scores_by_trace_are_means_over_the_reasoning_focus_heads(stores):
    scored(stores)
    traces = read_parquet(stores["by_trace"])
    assert traces["uid"].tolist() == [f"text-{k}" for k in range(N_TRACES - 1)]
    np.testing.assert_allclose(traces["a2r"], 0.45 + 0.01 * np.arange(N_TRACES - 1), rtol=1e-6)
    assert np.isnan(traces["tracking"][0]) and traces["tracking"][1] == pytest.approx(0.45)


def doubled(tracking: np.ndarray, n_top_heads: int) -> np.ndarray:
    return n_top_heads * tracking


def test_a_new_score_comes_into_table_and_atlas(stores, tmp_path, monkeypatch):
    entry = HeadScore(label="doubled", store="attention")
    entry.name, entry.place = "doubled", f"{__name__}:doubled"
    monkeypatch.setitem(HEAD_SCORES._entries, "doubled", entry)
    heads = scored(stores)
    np.testing.assert_allclose(heads["doubled"], 2 * heads["tracking"])
    plot_head_atlas(stores["heads"], tmp_path / "atlas", SETTINGS)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "atlas.csv")["doubled_high"], heads["doubled_high"], rtol=1e-5)
    assert "<!-- doubled (n = 4) -->" in (tmp_path / "atlas.svg").read_text()


def test_the_figure_of_lists_holds_every_listed_head_with_its_ranks(stores, tmp_path):
    heads = scored(stores)
    plot_head_lists(stores["heads"], stores["lists"], tmp_path / "figure", SETTINGS)
    drawn = pd.read_csv(tmp_path / "figure.csv").dropna(subset="layer").set_index(["layer", "head"])
    ranks = heads["a2r"].rank(ascending=False)
    assert drawn["a2r"].to_dict() == {key: rank for key, rank in ranks.items() if key in drawn.index}
    assert set(ranks.index[ranks <= 2]) <= set(drawn.index)


def test_the_map_draws_one_mark_a_marked_head(stores, tmp_path, monkeypatch):
    scored(stores)
    figures = []
    monkeypatch.setattr("r2a.figures.heads.save", lambda figure, *_: figures.append(figure))
    plot_head_map(stores["heads"], tmp_path / "map", SETTINGS)
    drawn = {line.get_marker(): line.get_xydata().tolist() for line in figures[0].axes[0].lines}
    assert drawn == {"s": [[1, 1], [2, 1]], "x": [[0, 0], [1, 0]], "o": [[2, 1]]}


def test_heads_that_are_ablated_have_the_order_of_the_table_and_no_interval(stores, tmp_path):
    scored(stores)
    order_heads(stores["attention"], tmp_path / "ranks.parquet", {})
    ranks = read_parquet(tmp_path / "ranks.parquet")
    assert set(ranks) == {"layer", "head", "rank", "has_attention", "a2p", "a2bos", "output_share", "contribution"}
    ranks = ranks.drop(columns="has_attention")
    pd.testing.assert_frame_equal(ranks, read_parquet(stores["heads"])[list(ranks)], check_dtype=False)


def test_the_summary_counts_the_copied_needles_and_the_heads_of_two_kinds(stores):
    scored(stores)
    ((_, cells),) = find_head_kinds([stores["heads"]], SETTINGS).rows
    shown = {name: cells[name].text for name in ("RFHs", "induction heads", "retrieval heads", "copied")}
    assert shown == {"RFHs": "2", "induction heads": "0 of 2", "retrieval heads": "1 of 1", "copied": "3"}


# ---- right against wrong answers


def answers(right: list[float], wrong: list[float]) -> pd.DataFrame:
    values = [*right, *wrong]
    outcomes = [True] * len(right) + [False] * len(wrong)
    columns = {"uid": range(len(values)), "is_correct": outcomes}
    return pd.DataFrame(dict.fromkeys(("a2r", "lift", "tracking", "spread"), values) | columns)


def test_quality_of_right_answers_that_all_rank_above_wrong_ones():
    row = quality_table(answers([3, 5], [1, 2, 3]), DRAWS).iloc[0]
    assert (row["n_right"], row["n_wrong"], row["right"], row["wrong"], row["difference"]) == (2, 3, 4, 2, 2)
    assert row["auc"] == pytest.approx(5.5 / 6)  # five of six comparisons won, one tied


def test_p_of_the_rank_test_is_exact_for_few_answers_and_corrected_for_four_scores():
    # of the 56 ways to place three of eight ranks, one is as high and one is as low
    row = quality_table(answers([6, 7, 8], [1, 2, 3, 4, 5]), DRAWS).iloc[0]
    assert (row["p"], row["p_holm"]) == (pytest.approx(2 / 56), pytest.approx(8 / 56))
    # of the 10 ways to place two of five, even one alone is no finding
    assert np.isnan(quality_table(answers([4, 5], [1, 2, 3]), DRAWS)["p"]).all()


def test_samples_of_one_problem_are_compared_with_each_other_alone():
    """Each problem's right samples rank first; a problem with only right samples, with high scores, does not count."""
    values = [1, 2, 0, 11, 12, 10, 99, 99, 99]
    outcomes = [True, True, False] * 2 + [True] * 3
    traces = pd.DataFrame({"uid": list("aaabbbccc"), "is_correct": outcomes})
    traces = traces.assign(**dict.fromkeys(("a2r", "lift", "tracking", "spread"), values))
    row = quality_table(traces, DRAWS).iloc[0]
    assert (row["compared"], row["n_problems"], row["n_right"], row["n_wrong"]) == ("within problems", 2, 4, 2)
    assert (row["right"], row["wrong"], row["difference"], row["auc"]) == (6.5, 5, 1.5, 1)
    assert np.isnan(row["p"])  # of the 9 ways, one in each direction is no finding


def test_undefined_scores_and_verdicts_are_left_out():
    traces = answers([1, 2, np.nan], [0, 0]).astype({"is_correct": object})
    traces.loc[0, "is_correct"] = None
    row = quality_table(traces, DRAWS).iloc[0]
    assert (row["n_right"], row["n_wrong"]) == (1, 2)


def test_without_a_wrong_answer_nothing_is_compared_and_the_summary_says_so(stores, tmp_path):
    scored(stores)
    grades = read_parquet(stores["by_trace"], ["uid", "condition", "decoding", "sample"]).assign(is_correct=True)
    write_parquet(tmp_path / "grades.parquet", grades, provenance({}))
    table = tmp_path / "table.csv"
    write_attention_quality([stores["by_trace"]], [tmp_path / "grades.parquet"], table, DRAWS)
    found = pd.read_csv(table)
    assert found["n_wrong"].eq(0).all() and found[["wrong", "auc", "p", "p_holm"]].isna().all(axis=None)
    rows = find_quality(table, DRAWS).rows
    assert {cells["n wrong"].text for _, cells in rows} == {"0"}
    assert {cells["AUC"].text for _, cells in rows} == {NONE}


def test_heads_of_layers_without_attention_rank_last_and_are_no_rfhs():
    mass = np.random.default_rng(0).random((4, 3, 2, len(QUERY_SEGMENTS), len(SEGMENTS)))
    mass[:, 1] = np.nan
    bounds = np.array([[0, 1, 5, 6, 20, 21, 29, 30]] * 4)
    heads = rank_heads(mass, bounds, 5, 50, 0.95, 0)
    assert set(heads.loc[heads["layer"] == 1, "rank"]) == {5, 6}
    assert heads.loc[heads["is_rfh"], "layer"].tolist() == [0, 0, 2, 2]
    assert heads.loc[heads["layer"] == 1, "a2r"].isna().all()
    assert heads.loc[heads["layer"] != 1, ["rank_low", "rank_high"]].max().max() <= 4

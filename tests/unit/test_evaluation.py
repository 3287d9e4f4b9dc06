"""The evaluation's statistics against published numbers, tables in textbooks and closed forms."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from r2a.evaluation import (
    accuracy_table,
    disagreement_table,
    effect_table,
    funnel_table,
    write_disagreements,
    write_evaluation,
)
from r2a.evaluation.outcomes import EvaluationError, with_outcomes
from r2a.statistics import (
    bootstrap_interval,
    difference_interval,
    excluded_bounds,
    holm,
    invalid_wrong_bounds,
    mcnemar_p,
    paired_t,
    share_interval,
    sign_flip_p,
    wilson_interval,
)
from r2a.store import provenance, read_parquet, read_provenance, write_parquet
from r2a.study import CONDITIONS

MODELS = {"R1-Llama-8B": "llama-8B", "R1-Qwen-7B": "qwen-7B", "R1-Qwen-1.5B": "qwen-1p5B", "R1-Full": "r1-full"}
# points, over all 500 problems, from the published counts (METHOD section 2; the same with Manski's assumptions)
INVALID_WRONG = {
    "R1-Llama-8B": (-12.2, 13.4), "R1-Qwen-1.5B": (-5.0, 9.8), "R1-Qwen-7B": (4.2, 11.2), "R1-Full": (5.2, 6.0),
}  # fmt: skip
EXCLUDED = {
    "R1-Llama-8B": (-19.2, 38.8), "R1-Qwen-1.5B": (-13.2, 26.8), "R1-Qwen-7B": (0.8, 18.0), "R1-Full": (3.4, 7.4),
}  # fmt: skip
DRAWS: dict[str, Any] = {"n_resamples": 2000, "confidence": 0.95, "seed": 7}


@pytest.fixture(scope="module")
def paper(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "paper_numbers.json").read_text())


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


def published_differences(counts: dict[str, Any]) -> np.ndarray:
    b, c = counts["b_with_only"], counts["c_without_only"]
    return np.repeat([1.0, -1.0, 0.0], [b, c, counts["n"] - b - c])


def graded_frame(outcomes: list[tuple[str, str]], n_samples: int = 1, **columns: Any) -> pd.DataFrame:
    """One row per trace. outcomes: with and without reasoning, r(ight), w(rong), i(nvalid) or u(ndecided)."""
    rows = [
        {
            "uid": f"problem-{number}", "condition": condition, "sample": sample, "is_valid": outcome != "i",
            "is_correct": {"r": True, "w": False, "i": False, "u": None}[outcome],
        }
        for number, pair in enumerate(outcomes)
        for condition, outcome in zip(CONDITIONS, pair, strict=True)
        for sample in range(n_samples)
    ]  # fmt: skip
    frame = pd.DataFrame(rows).astype({"is_correct": object})
    frame["invalid_reason"] = np.where(frame["is_valid"], "", "unfinished")
    frame["reason"] = frame["is_correct"].map({True: "string", False: "mismatch", None: "timeout"})
    defaults = {"model": "M", "dataset": "D", "decoding": "greedy", "area": None, "level": None}
    return with_outcomes(frame.assign(**{**defaults, **columns}))


def published_frame(paper: dict[str, Any], model: str, only_with: str, only_without: str) -> pd.DataFrame:
    """The published problems; those valid in only one condition have the given outcome there."""
    counts = paper["math500"]["paired"][model]
    n_with, n_without = (paper["math500"]["funnel"][f"{MODELS[model]}-{arm}"][3] for arm in ("withR", "withoutR"))
    b, c, n = counts["b_with_only"], counts["c_without_only"], counts["n"]
    n_both = counts["correct_with"] - b
    outcomes = [("r", "r")] * n_both + [("r", "w")] * b + [("w", "r")] * c + [("w", "w")] * (n - n_both - b - c)
    outcomes += [(only_with, "i")] * (n_with - n) + [("i", only_without)] * (n_without - n)
    return graded_frame(outcomes + [("i", "i")] * (500 - len(outcomes)))


# ---- statistics


@pytest.mark.parametrize(
    ("n_successes", "n_total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_that_of_newcombe_1998(n_successes, n_total, low, high):
    assert wilson_interval(n_successes, n_total, 0.95) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_interval_works_elementwise_and_is_nan_for_nothing():
    low, high = wilson_interval(np.array([0, 0]), np.array([20, 0]), 0.95)
    assert low[0] == 0
    assert high[0] == pytest.approx(0.1611, abs=5e-5)
    assert np.isnan([low[1], high[1]]).all()


def test_mcnemar_reproduces_the_p_values_of_the_published_counts(paper, model):
    counts = paper["math500"]["paired"][model]
    p = mcnemar_p(counts["b_with_only"], counts["c_without_only"])
    assert p == pytest.approx(counts["p_mcnemar_exact"], rel=5e-3)


def test_mcnemar_is_one_where_nothing_differs_and_for_a_tie():
    assert list(mcnemar_p(np.array([0, 3]), np.array([0, 3]))) == [1.0, 1.0]


def test_paired_t_reproduces_the_printed_statistics(paper, model):
    counts = paper["math500"]["paired"][model]
    t, p = paired_t(published_differences(counts))
    assert t == pytest.approx(counts["t"], rel=1e-6)
    assert p == pytest.approx(counts["p_t"], rel=1e-5)


def test_paired_t_of_equal_differences_is_undefined():
    assert np.isnan(paired_t(np.ones(5))).all()
    assert np.isnan(paired_t(np.ones(1))).all()


def test_sign_flip_of_unit_differences_is_the_exact_mcnemar_test():
    differences = np.repeat([1.0, -1.0, 0.0], [9, 3, 40])
    assert sign_flip_p(differences, 100, 1) == pytest.approx(float(mcnemar_p(9, 3)), rel=1e-12)


def test_sign_flip_of_unequal_differences_is_the_count_by_hand():
    # |+-1 +-2 +-4| is 7 or more for 2 of 8 sign patterns, 5 or more for 4
    assert sign_flip_p(np.array([1.0, 2.0, 4.0]), 100, 1) == 2 / 8
    assert sign_flip_p(np.array([-1.0, 2.0, 4.0]), 100, 1) == 4 / 8


def test_sign_flip_by_draws_comes_near_the_exact_p():
    differences = np.repeat([0.5, -0.5], [25, 12])
    exact = float(mcnemar_p(25, 12))
    assert sign_flip_p(differences, 100_000, 3) == pytest.approx(exact, abs=4 * np.sqrt(exact / 100_000))


def test_sign_flip_by_draws_is_never_zero():
    assert sign_flip_p(np.ones(60), 999, 3) == 1 / 1000


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((54, 0, 0, 0), -0.0664, 0.0664)],
)
def test_difference_interval_is_newcombes_of_1998(cells, low, high):
    with_reasoning, without = np.repeat([1.0, 1.0, 0.0, 0.0], cells), np.repeat([1.0, 0.0, 1.0, 0.0], cells)
    found = difference_interval(with_reasoning, without, 1, 1, 0.95)
    assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_share_interval_of_samples_that_all_agree_is_wilsons_but_for_students_quantile():
    shares = np.repeat([1.0, 0.0], [120, 280])
    quantiles = stats.t.ppf(0.975, 399), stats.norm.ppf(0.975)
    widths = [np.subtract(*share_interval(shares, n_samples, 0.95)) for n_samples in (4, 1)]
    assert widths[0] / widths[1] == pytest.approx(quantiles[0] / quantiles[1], rel=1e-3)


def test_share_interval_of_independent_samples_nears_that_of_all_answers():
    shares = np.random.default_rng(5).binomial(4, 0.3, 5000) / 4
    expected = wilson_interval(int(4 * shares.sum()), 20_000, 0.95)
    assert share_interval(shares, 4, 0.95) == pytest.approx(expected, abs=3e-4)


def test_intervals_of_nothing_are_nan():
    assert np.isnan(share_interval(np.array([]), 2, 0.95)).all()
    assert np.isnan(difference_interval(np.array([]), np.array([]), 1, 1, 0.95)).all()


def test_bootstrap_interval_is_the_binomials_own():
    values = np.repeat([1.0, 0.0], [120, 280])
    low, high = bootstrap_interval(values, 20_000, 0.95, 11)
    assert (low, high) == pytest.approx(stats.binom.ppf([0.025, 0.975], 400, 0.3) / 400, abs=1 / 400)


@pytest.mark.slow
def test_bootstrap_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(5).normal(size=1000)
    half = stats.norm.ppf(0.95) * values.std() / np.sqrt(1000)
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap_interval(values, 20_000, 0.9, 11) == pytest.approx(expected, abs=0.05 * half)


def test_bootstrap_interval_of_nothing_is_nan():
    assert np.isnan(bootstrap_interval(np.array([]), 100, 0.95, 1)).all()


def test_holm_is_the_hand_calculation_and_skips_nan():
    adjusted = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    assert adjusted[[0, 1, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(adjusted[2])


def test_six_of_the_papers_sixteen_area_tests_survive_holm(paper):
    tests = [
        (name, area, found["p"])
        for name, areas in paper["wildbench"]["paired"].items()
        for area, found in areas.items()
        if area != "Overall"
    ]
    adjusted = holm(np.array([p for _, _, p in tests]))
    assert len(tests) == 16
    assert (adjusted < 0.05).sum() == 6
    information = [(name, area) for name, area, _ in tests].index(("R1-Llama-8B", "Information Seeking"))
    assert adjusted[information] == pytest.approx(0.23, abs=0.005)


def test_bounds_reproduce_those_of_the_published_counts(paper, model):
    counts = paper["math500"]["paired"][model]
    n_with, n_without = (paper["math500"]["funnel"][f"{MODELS[model]}-{arm}"][3] for arm in ("withR", "withoutR"))
    common_sum = counts["correct_with"] - counts["correct_without"]
    wrong = invalid_wrong_bounds(500, n_with, n_without, counts["n"], common_sum)
    assert 100 * np.array(wrong) == pytest.approx(INVALID_WRONG[model])
    assert 100 * np.array(excluded_bounds(500, counts["n"], common_sum)) == pytest.approx(EXCLUDED[model])


# ---- tables


@pytest.mark.parametrize(("only_with", "only_without", "end"), [("w", "r", 0), ("r", "w", 1)])
def test_effect_of_the_published_problems_reaches_its_bounds(paper, model, only_with, only_without, end):
    (row,) = effect_table(published_frame(paper, model, only_with, only_without), **DRAWS).to_dict("records")
    counts = paper["math500"]["paired"][model]
    assert row["n_problems"] == 500
    assert row["n_common"] == counts["n"]
    assert row["common_accuracy_with"] == pytest.approx(counts["correct_with"] / counts["n"])
    assert row["common_accuracy_without"] == pytest.approx(counts["correct_without"] / counts["n"])
    assert (row["common_t"], row["common_p"]) == pytest.approx((counts["t"], counts["p_t"]), rel=1e-5)
    assert 100 * row["difference"] == pytest.approx(INVALID_WRONG[model][end])
    bounds = row["invalid_wrong_low"], row["invalid_wrong_high"], row["excluded_low"], row["excluded_high"]
    assert 100 * np.array(bounds) == pytest.approx([*INVALID_WRONG[model], *EXCLUDED[model]])


def test_effect_is_over_all_problems_with_invalid_counted_wrong():
    (row,) = effect_table(
        graded_frame([("r", "r"), ("r", "i"), ("i", "r"), ("r", "w"), ("i", "i")] * 2), **DRAWS
    ).to_dict("records")
    assert (row["accuracy_with"], row["accuracy_without"], row["difference"]) == pytest.approx((0.6, 0.4, 0.2))
    assert (row["b"], row["c"], row["p"], row["test"]) == (4, 2, 0.6875, "exact McNemar")
    assert (row["n_common"], row["common_difference"]) == (4, 0.5)


def test_of_five_problems_no_test_is_made_and_it_is_said():
    few, enough = (effect_table(graded_frame([("r", "w")] * n), **DRAWS).iloc[0] for n in (5, 6))
    assert few["test"] == "too few pairs to test" and np.isnan([few["p"], few["p_holm"]]).all()
    assert (enough["test"], enough["p"]) == ("exact McNemar", 2 / 64)


def test_undecided_answers_are_left_out_and_counted():
    graded = graded_frame([("r", "w"), ("u", "w"), ("r", "r"), ("w", "u")])
    (effect,) = effect_table(graded, **DRAWS).to_dict("records")
    assert (effect["n_problems"], effect["n_undecided"], effect["difference"]) == (2, 2, 0.5)
    assert (effect["excluded_low"], effect["excluded_high"]) == (-0.25, 0.75)
    accuracy = accuracy_table(graded, 0.95).set_index("condition")
    assert list(accuracy["n_undecided"]) == [1, 1]
    assert accuracy.loc["with_reasoning", "accuracy"] == pytest.approx(2 / 3)


def test_repeating_every_sample_leaves_intervals_of_the_effect_as_they_are():
    outcomes = [("r", "w")] * 12 + [("w", "r")] * 5 + [("r", "r")] * 20
    once, thrice = (effect_table(graded_frame(outcomes, n), **DRAWS).iloc[0] for n in (1, 3))
    # except that the covariance is reduced less, and the quantile is Student's
    assert (once["low"], once["high"]) == pytest.approx((thrice["low"], thrice["high"]), abs=0.01)
    assert (thrice["test"], thrice["n_problems"], thrice["n_samples"]) == ("sign-flip permutation", 37, 3)
    assert thrice["p"] == pytest.approx(once["p"], abs=0.03)
    assert pd.isna(thrice["b"])
    assert pd.isna(thrice["invalid_wrong_low"])


def test_accuracy_interval_of_repeated_samples_counts_problems():
    outcomes = [("r", "r")] * 30 + [("w", "w")] * 70
    row = accuracy_table(graded_frame(outcomes, 8), 0.95).iloc[0]
    expected = stats.binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert (row["low"], row["high"]) == pytest.approx(expected, abs=0.01)


def test_accuracy_over_valid_traces_stands_beside_that_over_all():
    row = accuracy_table(graded_frame([("r", "w")] * 3 + [("w", "w")] + [("i", "w")] * 16), 0.95).iloc[0]
    assert (row["accuracy"], row["valid_accuracy"], row["n_valid"]) == (3 / 20, 3 / 4, 4)
    # Wilson of 3 of 20 is (.0524, .3604); the end near the border is Clopper and Pearson's one-sided limit
    assert (row["low"], row["high"]) == pytest.approx((0.0422, 0.3604), abs=5e-5)


def test_groups_are_all_areas_levels_and_levels_within_areas():
    graded = graded_frame([("r", "w")] * 4)
    numbers = graded["uid"].str[-1].astype(int)
    graded["area"] = numbers.map({0: "Algebra", 1: "Algebra", 2: "Geometry", 3: "Geometry"})
    graded["level"] = numbers.map({0: "1", 1: "2", 2: "1", 3: "1"})
    table = effect_table(graded, **DRAWS)
    assert dict(zip(table["group"], table["n_problems"], strict=True)) == {
        "all": 4, "Algebra": 2, "Geometry": 2, "level 1": 3, "level 2": 1,
        "Algebra, level 1": 1, "Algebra, level 2": 1, "Geometry, level 1": 2,
    }  # fmt: skip
    assert list(table["by"].unique()) == ["all", "area", "level", "area_level"]


def test_holm_runs_over_the_areas_of_one_model_and_not_beyond():
    # by hand: 8 against 0 discordant gives p = 2/256, 6 against 0 gives 2/64
    one = graded_frame([("r", "w")] * 14)
    one["area"] = np.where(one["uid"].str.split("-").str[1].astype(int) < 8, "A", "B")
    table = effect_table(pd.concat([one, one.assign(model="N")]), **DRAWS)
    areas = table[table["by"] == "area"]
    assert list(areas["p"]) == pytest.approx([2 / 256, 2 / 64] * 2)
    assert list(areas["p_holm"]) == pytest.approx([4 / 256, 2 / 64] * 2)
    assert table[table["by"] == "all"]["p_holm"].to_numpy() == pytest.approx([2 / 2**14] * 2)


def test_funnel_counts_each_step_and_gives_compliance_with_its_interval(paper):
    steps = ["is_finished", "is_well_formed", "is_valid"]
    n_total, *n_left = paper["math500"]["funnel"]["llama-8B-withR"]
    traces = pd.DataFrame({step: np.arange(n_total) < n for step, n in zip(steps, n_left, strict=True)})
    names = {"model": "M", "dataset": "D", "condition": "with_reasoning", "decoding": "sampled"}
    finish = np.where(np.arange(n_total) < n_total - 40, "length", "repetition")
    finish = np.where(traces["is_finished"], "stop", finish)
    traces = traces.assign(uid=np.arange(n_total).astype(str), sample=0, finish_reason=finish, n_forced_tokens=0)
    traces.loc[:2, "n_forced_tokens"] = 5
    row = funnel_table(traces.assign(**names), 0.95, {"D": 7}).iloc[0]
    assert row["unreadable"] == 7
    assert [row[step] for step in ("total", "finished", "well_formed", "extracted")] == [500, 412, 379, 373]
    assert (row["repeating"], row["closed_by_budget"]) == (40, 3)
    assert row["compliance"] == 373 / 500
    assert (row["low"], row["high"]) == pytest.approx(wilson_interval(373, 500, 0.95))


def test_compliance_interval_of_repeated_samples_counts_problems():
    once, often = (graded_frame([("r", "r")] * 60 + [("i", "r")] * 40, n).assign(finish_reason="") for n in (1, 9))
    low = [
        funnel_table(table.assign(is_finished=True, is_well_formed=True, n_forced_tokens=0), 0.95)["low"].iloc[0]
        for table in (once, often)
    ]
    assert low[1] == pytest.approx(low[0], abs=2e-3)


# ---- files in, files out


def write_inputs(folder: Path, model: str, dataset: str, graded: pd.DataFrame) -> dict[str, Path]:
    settings = {"model": model, "dataset": dataset}
    paths = {kind: folder / kind / model / f"{dataset}.parquet" for kind in ("traces", "grades")}
    paths["dataset"] = folder / "datasets" / f"{dataset}.parquet"
    keys = ["uid", "condition", "decoding", "sample"]
    traces = graded[[*keys, "is_valid", "invalid_reason"]].assign(
        is_finished=True, is_well_formed=True, finish_reason="stop", n_forced_tokens=0
    )
    traces["completion_token_ids"] = [[1, 2, 3]] * len(traces)
    write_parquet(paths["traces"], traces, provenance(settings))
    write_parquet(paths["grades"], graded[[*keys, "is_correct", "reason"]], provenance(settings))
    problems = graded[["uid", "area", "level"]].drop_duplicates("uid")
    write_parquet(paths["dataset"], problems, provenance({"dataset": dataset}))
    return paths


LABELS = {"model_labels": {"a": "A", "b": "B"}, "dataset_labels": {"puzzles": "Puzzles", "chat": "Chat"}}


def evaluate(folder: Path, inputs: list[dict[str, Path]], **changed: Any) -> list[pd.DataFrame]:
    names = ("funnel", "accuracy", "effect", "budgets", "problems", "decodings", "variants")
    outputs = {name: folder / f"{name}.csv" for name in names}
    write_evaluation(
        [paths["traces"] for paths in inputs],
        [paths["grades"] for paths in inputs if "grades" in paths],
        sorted({paths["dataset"] for paths in inputs if "grades" in paths}),
        outputs,
        {"stage": "evaluation", "variants": {}, **DRAWS, **LABELS, **changed},
    )
    return [pd.read_csv(outputs[name]) for name in names[:3]]


def test_tables_name_models_and_datasets_by_their_labels(tmp_path):
    graded = graded_frame([("r", "w"), ("r", "r")])
    inputs = [write_inputs(tmp_path, name, "puzzles", graded) for name in ("a", "b")]
    funnel, accuracy, effect = evaluate(tmp_path, inputs)
    assert list(zip(effect["model"], effect["dataset"], strict=True)) == [("A", "Puzzles"), ("B", "Puzzles")]
    assert list(effect["difference"]) == [0.5, 0.5]
    assert (len(funnel), len(accuracy)) == (4, 4)
    origin = read_provenance(tmp_path / "effect.csv")
    assert set(origin["inputs"]) == {str(path) for paths in inputs for path in paths.values()}


def test_dataset_without_references_has_a_funnel_only(tmp_path):
    paths = write_inputs(tmp_path, "a", "chat", graded_frame([("r", "w")]))
    del paths["grades"]
    funnel, accuracy, effect = evaluate(tmp_path, [paths])
    assert (len(funnel), len(accuracy), len(effect)) == (2, 0, 0)
    assert "difference" in effect


def test_models_that_share_a_label_are_refused(tmp_path):
    inputs = [write_inputs(tmp_path, name, "puzzles", graded_frame([("r", "w")])) for name in ("a", "b")]
    with pytest.raises(EvaluationError, match="Same"):
        evaluate(tmp_path, inputs, model_labels={"a": "Same", "b": "Same"})


def test_grades_of_other_traces_are_refused(tmp_path):
    paths = write_inputs(tmp_path, "a", "puzzles", graded_frame([("r", "w"), ("r", "r")]))
    fewer = write_inputs(tmp_path / "other", "a", "puzzles", graded_frame([("r", "w")]))
    with pytest.raises(EvaluationError, match="does not have one grade per trace"):
        evaluate(tmp_path, [paths | {"grades": fewer["grades"]}])


# ---- graders side by side


def test_answers_that_graders_judge_alike_are_not_listed():
    grades = pd.DataFrame(
        {
            "uid": ["same", "differs", "one_undecided", "both_undecided"],
            "is_correct": [True, True, False, None],
            "is_correct_paper": [True, False, None, None],
        }
    ).assign(answer="3", reason="string", answer_paper="4", reason_paper="mismatch")
    names = {
        "model": "A",
        "dataset": "Puzzles",
        "condition": CONDITIONS[0],
        "decoding": "greedy",
        "sample": 0,
        "reference": "3",
    }
    table = disagreement_table(grades.assign(**names), ["policy", "paper"])
    assert list(table["uid"]) == ["differs", "one_undecided"]
    assert list(table.columns[-6:]) == [
        "answer_policy", "is_correct_policy", "reason_policy", "answer_paper", "is_correct_paper", "reason_paper",
    ]  # fmt: skip


@pytest.fixture
def judged(tmp_path):
    """A dataset and its grades by two graders; the second accepts only the first problem's answers."""
    paths = write_inputs(tmp_path, "a", "puzzles", graded_frame([("r", "w"), ("r", "r")]))
    problems, grades = read_parquet(paths["dataset"]), read_parquet(paths["grades"])
    grades = grades.assign(answer="7", reason="string", answer_paper=None, reason_paper="mismatch")
    grades["is_correct_paper"] = grades["uid"] == "problem-0"
    write_parquet(paths["dataset"], problems.assign(answer="7"), read_provenance(paths["dataset"]))
    write_parquet(paths["grades"], grades, read_provenance(paths["grades"]))
    return paths


@pytest.mark.parametrize(("graders", "n_rows"), [(["policy", "paper"], 3), (["policy"], 0)])
def test_disagreements_carry_references_and_labels(tmp_path, judged, graders, n_rows):
    settings = {"stage": "disagreements", "graders": graders, **LABELS}
    write_disagreements([judged["grades"]], [judged["dataset"]], tmp_path / "out.csv", settings)
    table = pd.read_csv(tmp_path / "out.csv")
    assert len(table) == n_rows
    assert set(table["model"]) <= {"A"}
    assert (table["reference"] == 7).all()

"""Tables of the judges' scores, against numbers worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from r2a.evaluation import agreement_table, judge_effect_table, score_table
from r2a.evaluation.judge_tables import quadratic_kappa, spearman

LEVEL = 0.95


def judgements(scores, judge="J", sample=0, dataset="D"):
    """Rows from {condition: {uid: score, or the status of an answer without one}}; uids begin with their areas."""
    rows = []
    for condition, by_uid in scores.items():
        for uid, score in by_uid.items():
            status = score if isinstance(score, str) else "scored"
            value = {"empty": 1}.get(score) if isinstance(score, str) else score
            rows.append({"judge": judge, "model": "M", "dataset": dataset, "decoding": "greedy"})
            rows[-1] |= {"condition": f"{condition}_reasoning", "uid": uid, "area": uid[0], "sample": sample}
            rows[-1] |= {"status": status, "score": value, "n_answer_characters": 100 if condition == "with" else 50}
    return pd.DataFrame(rows).astype({"score": "Int64"})


MIXED = judgements(
    {
        "with": {"a1": 8, "a2": 6, "a3": "invalid", "b1": 9, "b2": "unparsable", "b3": "empty"},
        "without": {"a1": 5, "a2": 6, "a3": 4, "b1": 7, "b2": 3, "b3": 2},
    }
)


def test_scores_are_means_over_what_was_scored_and_all_else_is_counted():
    table = score_table(MIXED, LEVEL).set_index(["condition", "area"])
    row = table.loc[("with_reasoning", "all")]
    assert row["score"] == (8 + 6 + 9 + 1) / 4
    assert list(row[["n_problems", "n_scores", "n_scored", "n_empty", "n_invalid", "n_unparsable"]]) == [
        6, 4, 3, 1, 1, 1
    ]  # fmt: skip
    assert row["low"] < row["score"] < row["high"]
    assert row["answer_characters"] == 100
    assert table.loc[("without_reasoning", "a"), "score"] == 5
    assert list(table.index.get_level_values("area")) == ["all", "a", "b"] * 2


def test_the_effect_is_over_problems_scored_in_both_and_beside_it_over_all_with_invalid_at_1():
    table = judge_effect_table(MIXED, LEVEL).set_index("area")
    row = table.loc["all"]
    # a1 +3, a2 0, b1 +2, b3 -1
    assert (row["n_common"], row["difference"]) == (4, 1.0)
    assert (row["score_with"], row["score_without"]) == (6.0, 5.0)
    # and a3 1 - 4; b2 is left out because its score is unknown
    assert (row["n_floor"], row["floor_difference"]) == (5, (3 + 0 - 3 + 2 - 1) / 5)
    assert table.loc["a", "difference"] == 1.5


def test_wilcoxon_p_is_the_share_of_sign_patterns_as_extreme():
    """Differences 1 to 5 and -6: ranks 1 to 6, where the negative rank sum is 6."""
    scores = {"with": {f"a{k}": k + 1 for k in range(1, 6)} | {"a6": 1}}
    scores["without"] = {f"a{k}": 1 for k in range(1, 6)} | {"a6": 7}
    patterns = np.arange(64)[:, None] >> np.arange(6) & 1
    sums = patterns @ np.arange(1, 7)
    expected = 2 * np.mean(sums <= 6)
    (p, _) = judge_effect_table(judgements(scores), LEVEL)["wilcoxon_p"]
    assert p == pytest.approx(expected)


def test_holm_is_over_the_areas_alone():
    rng = np.random.default_rng(0)
    scores = {"with": {}, "without": {}}
    for area, gain in zip("abc", (3, 1, 0), strict=True):
        for k in range(12):
            scores["without"][f"{area}{k}"] = int(rng.integers(2, 6))
            scores["with"][f"{area}{k}"] = scores["without"][f"{area}{k}"] + gain + int(rng.integers(-1, 2))
    table = judge_effect_table(judgements(scores), LEVEL).set_index("area")
    p = table.loc[["a", "b", "c"], "wilcoxon_p"]
    assert p["a"] < p["b"] < p["c"]
    adjusted = table["wilcoxon_p_holm"]
    assert np.isnan(adjusted["all"])
    assert adjusted["a"] == pytest.approx(min(1, 3 * p["a"]))
    assert adjusted["b"] == pytest.approx(max(adjusted["a"], 2 * p["b"]))


def test_equal_scores_have_p_1_and_no_scores_none():
    equal = {f"a{k}": 5 for k in range(6)}
    same = judgements({"with": equal | {"b1": 5}, "without": equal | {"b1": "invalid"}})
    table = judge_effect_table(same, LEVEL).set_index("area")
    assert table.loc["a", "wilcoxon_p"] == 1 and table.loc["a", "low"] < 0 < table.loc["a", "high"]
    assert table.loc["b", "n_common"] == 0
    assert np.isnan(table.loc["b", "wilcoxon_p"])
    assert (table.loc["b", "n_floor"], table.loc["b", "floor_difference"]) == (1, 4)


def test_samples_of_a_problem_are_averaged_not_counted_as_problems():
    one = {"with": {"a1": 8, "a2": 4}, "without": {"a1": 4, "a2": 4}}
    other = {"with": {"a1": 6, "a2": "invalid"}, "without": {"a1": 4, "a2": 4}}
    table = pd.concat([judgements(one), judgements(other, sample=1)])
    row = judge_effect_table(table, LEVEL).iloc[0]
    assert (row["n_common"], row["score_with"], row["difference"]) == (2, (7 + 4) / 2, 1.5)
    assert score_table(table, LEVEL).iloc[0]["n_samples"] == 2


# ---- the paper's scores


def scores_of(area, published):
    """Scores by condition and uid with the published sums, number and standard deviation of the differences."""
    n, total = published["n"], round(published["sum_with"] - published["sum_without"])
    differences = np.full(n, total // n)
    differences[: total % n] += 1
    # what the sum of squares lacks, spread over pairs of problems of which one gains what the other loses
    missing = published["sd_diff"] ** 2 * (n - 1) + total**2 / n - (differences**2).sum()
    for k in range(n // 2):
        gap = differences[k] - differences[-1 - k]
        step = round((missing / (n // 2 - k) / 2) ** 0.5) if missing > 0 else 0
        differences[[k, -1 - k]] += [step, -step]
        missing -= 2 * step * (step + gap)
    low, high = 1 - np.minimum(differences, 0), 10 - np.maximum(differences, 0)
    without = np.clip(round(published["without_r"]), low, high)
    lacking = round(published["sum_without"]) - without.sum()
    movable = np.flatnonzero((without + np.sign(lacking) >= low) & (without + np.sign(lacking) <= high))
    without[movable[: abs(lacking)]] += np.sign(lacking)
    by_uid = [{f"{area}{k}": int(score) for k, score in enumerate(each)} for each in (without + differences, without)]
    return dict(zip(("with", "without"), by_uid, strict=True))


@pytest.mark.parametrize("model", ["R1-Llama-8B", "R1-Qwen-7B", "R1-Qwen-1.5B", "R1-Full"])
def test_the_papers_wildbench_differences_and_intervals_come_out_by_area_and_in_all(reference, model):
    published = json.loads((reference / "paper_numbers.json").read_text())["wildbench"]["paired"][model]
    areas = dict(zip(published, [*"abcd", "all"], strict=True))
    parts = [scores_of(areas[name], numbers) for name, numbers in published.items() if name != "Overall"]
    scores = {condition: {k: v for part in parts for k, v in part[condition].items()} for condition in parts[0]}
    table = judge_effect_table(judgements(scores), LEVEL).set_index("area")
    for name, numbers in published.items():
        row = table.loc[areas[name]]
        found = row[["n_common", "score_with", "score_without", "difference"]].tolist()
        assert found == pytest.approx([numbers[key] for key in ("n", "with_r", "without_r", "diff")], abs=5.1e-4), name
        # the paper's is Student's, to two digits; ours the bootstrap's
        assert [row["low"], row["high"]] == pytest.approx(numbers["ci95"], abs=0.03), name


# ---- two judges


def test_two_judges_agree_as_counted_by_hand():
    """(1, 1), (2, 4), (3, 3), (10, 9): gaps 0, 2, 0, 1."""
    first = judgements({"with": {"a1": 1, "a2": 2, "b1": 3}, "without": {"a1": 10, "a2": 5, "b1": "empty"}})
    second = judgements(
        {"with": {"a1": 1, "a2": 4, "b1": 3}, "without": {"a1": 9, "a2": "unparsable", "b1": "empty"}}, judge="K"
    )
    (row,) = agreement_table(pd.concat([first, second])).to_dict("records")
    assert (row["judge_a"], row["judge_b"], row["n_answers"]) == ("J", "K", 4)
    assert (row["mean_a"], row["mean_b"]) == (4.0, 4.25)
    assert (row["exact"], row["within_1"]) == (0.5, 0.75)
    # ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * 2 / (4 * 15)
    assert row["spearman"] == pytest.approx(0.8)
    # observed 5 / 4; expected: squared gaps of all 16 combinations, 4 * 114 + 4 * 107 - 2 * 16 * 17
    assert row["quadratic_kappa"] == pytest.approx(1 - (5 / 4) / (340 / 16))


def test_kappa_is_that_of_the_weighted_table():
    """The textbook form: weights (i - j)^2 on the observed and the expected proportions of a table of scores."""
    rng = np.random.default_rng(2)
    first = rng.integers(1, 11, 200)
    second = np.clip(first + rng.integers(-2, 4, 200), 1, 10)
    observed = np.zeros((10, 10))
    np.add.at(observed, (first - 1, second - 1), 1 / 200)
    chance = np.outer(observed.sum(1), observed.sum(0))
    weights = np.subtract.outer(np.arange(10), np.arange(10)) ** 2
    assert quadratic_kappa(first, second) == pytest.approx(1 - (weights * observed).sum() / (weights * chance).sum())
    assert quadratic_kappa(first, first) == 1
    assert spearman(first, second) == pytest.approx(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def test_agreement_is_not_defined_for_one_constant_score():
    constant = np.array([5, 5, 5])
    assert np.isnan(quadratic_kappa(constant, constant))
    assert np.isnan(spearman(constant, np.array([1, 2, 3])))


def test_one_judge_or_none_in_common_has_no_agreement():
    assert agreement_table(MIXED).empty
    other = judgements({"with": {"c1": 3}}, judge="K")
    (row,) = agreement_table(pd.concat([MIXED, other])).to_dict("records")
    assert row["n_answers"] == 0
    assert np.isnan(row["exact"])

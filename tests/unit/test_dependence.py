"""What accuracy depends on: token budget, decoding, prompt; every problem across conditions; and their figures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from r2a.evaluation.budgets import MOST_BUDGETS, budget_table
from r2a.evaluation.changes import decoding_table, variant_table
from r2a.evaluation.outcomes import with_outcomes
from r2a.evaluation.problems import problem_table
from r2a.evaluation.tables import accuracy_table, effect_table, funnel_table
from r2a.figures.accuracy import beside_paper, plot_beside_paper
from r2a.figures.compliance import disagreement_counts
from r2a.store import provenance, write_csv, write_parquet
from r2a.study import CONDITIONS
from r2a.summary.accuracy import find_budgets, find_decodings, find_variants

WITH, WITHOUT = CONDITIONS
DRAWS = {"n_resamples": 500, "confidence": 0.95, "seed": 1}
PAPER = Path(__file__).parents[2] / "resources/paper_numbers.csv"


def traces(*rows, **columns):
    """A graded table. rows: uid, condition, outcome (right, wrong, unfinished or undecided), tokens, sample."""
    frame = pd.DataFrame(
        [
            {
                "uid": uid, "condition": condition, "sample": sample, "n_tokens": n_tokens,
                "is_finished": outcome != "unfinished", "is_valid": outcome != "unfinished",
                "is_correct": {"right": True, "undecided": None}.get(outcome, False),
                "invalid_reason": "unfinished" if outcome == "unfinished" else "",
                "reason": {"right": "string", "wrong": "mismatch", "undecided": "timeout"}.get(outcome, "truncated"),
            }
            for uid, condition, outcome, n_tokens, sample in rows
        ]
    )  # fmt: skip
    defaults = {"model": "M", "dataset": "D", "decoding": "greedy", "area": "easy", "level": None}
    defaults |= {"is_well_formed": frame["is_finished"], "finish_reason": "stop", "n_forced_tokens": 0}
    return with_outcomes(frame.astype({"is_correct": object}).assign(**{**defaults, **columns}))


# ---- token budget

LENGTHS = traces(
    ("a", WITH, "right", 10, 0), ("b", WITH, "right", 30, 0), ("c", WITH, "unfinished", 50, 0),
    ("a", WITHOUT, "right", 4, 0), ("b", WITHOUT, "wrong", 5, 0), ("c", WITHOUT, "right", 20, 0),
)  # fmt: skip


def test_an_answer_not_complete_within_the_budget_is_wrong():
    table = budget_table(LENGTHS, **DRAWS).set_index("budget")
    assert list(table.index) == [4, 5, 10, 20, 30]
    assert 3 * table["accuracy_with"].to_numpy() == pytest.approx([0, 0, 1, 1, 2])
    assert 3 * table["accuracy_without"].to_numpy() == pytest.approx([1, 1, 1, 2, 2])
    assert 3 * table["finished_without"].to_numpy() == pytest.approx([1, 2, 2, 3, 3])
    assert 3 * table["difference"].to_numpy() == pytest.approx([-1, -1, 0, -1, 0])
    assert (table["n_problems"] == 3).all()


def test_the_largest_budget_gives_the_headline_with_its_intervals():
    rng = np.random.default_rng(3)
    rows = [
        (f"p{k}", condition, rng.choice(["right", "wrong", "unfinished"]), int(rng.integers(5, 900)), sample)
        for k in range(80)
        for condition in CONDITIONS
        for sample in range(2)
    ]
    graded = traces(*rows)
    table = budget_table(graded, **DRAWS)
    assert 10 < len(table) <= MOST_BUDGETS
    assert table["accuracy_with"].is_monotonic_increasing
    assert (table["band_low"] < table["low"]).all() and (table["high"] < table["band_high"]).all()
    last, effect = table.iloc[-1], effect_table(graded, 100, 0.95, 1).iloc[0]
    for name in ("accuracy_with", "accuracy_without", "difference", "low", "high"):
        assert last[name] == pytest.approx(effect[name]), name
    overall = accuracy_table(graded, 0.95).set_index(["condition", "by"]).loc[(WITH, "all")]
    assert (last["low_with"], last["high_with"]) == pytest.approx((overall["low"], overall["high"]))


def test_budgets_leave_out_undecided_answers_and_models_whose_tokens_are_not_known():
    undecided = LENGTHS.assign(is_undecided=LENGTHS["uid"].eq("a") & LENGTHS["condition"].eq(WITH))
    assert set(budget_table(undecided, **DRAWS)["n_problems"]) == {2}
    assert budget_table(LENGTHS.assign(n_tokens=np.nan), **DRAWS).empty


# ---- problems


def test_each_problem_says_where_it_is_right_and_why_not():
    table = problem_table(
        traces(
            ("both", WITH, "right", 1, 0), ("both", WITHOUT, "right", 1, 0),
            ("reasoned", WITH, "right", 1, 0), ("reasoned", WITHOUT, "wrong", 1, 0),
            ("overthought", WITH, "unfinished", 1, 0), ("overthought", WITHOUT, "right", 1, 0),
            ("hard", WITH, "wrong", 1, 0), ("hard", WITHOUT, "wrong", 1, 0),
            ("slow", WITH, "undecided", 1, 0), ("slow", WITHOUT, "right", 1, 0),
        )
    ).set_index("uid")  # fmt: skip
    assert table["right_in"].to_dict() == {
        "both": "both", "reasoned": "only with", "overthought": "only without", "hard": "neither", "slow": "undecided",
    }  # fmt: skip
    assert list(table.loc["overthought", ["right_with", "right_without", "valid_with", "valid_without"]]) == [
        0,
        1,
        0,
        1,
    ]
    assert table["why_not_with"].to_dict() == {
        "both": "", "reasoned": "", "overthought": "unfinished", "hard": "mismatch", "slow": "timeout",
    }  # fmt: skip
    assert set(table["area"]) == {"easy"}


def test_samples_that_differ_are_mixed_and_their_reasons_all_told():
    samples = [("p", WITH, "right", 1, 0), ("p", WITH, "wrong", 1, 1), ("p", WITH, "unfinished", 1, 2)]
    row = problem_table(traces(*samples, *(("p", WITHOUT, "wrong", 1, k) for k in range(3)))).iloc[0]
    assert (row["right_in"], row["right_with"], row["right_without"]) == ("mixed", pytest.approx(1 / 3), 0)
    assert (row["valid_with"], row["why_not_with"]) == (pytest.approx(2 / 3), "mismatch, unfinished")


# ---- decodings and variants


def outcomes(words, **columns):
    return traces(*((f"p{k}", WITH, word, 9, 0) for k, word in enumerate(words.split())), **columns)


def test_decodings_are_compared_problem_by_problem():
    greedy, sampled = outcomes("right right right unfinished"), outcomes("right wrong wrong right", decoding="sampled")
    both = pd.concat([greedy, sampled])
    table = decoding_table(both, both, 0.95).set_index("measure")
    row = table.loc["accuracy"]
    assert (row["first"], row["second"], row["n_problems"]) == ("greedy", "sampled", 4)
    assert (row["first_share"], row["second_share"], row["difference"]) == (0.75, 0.5, -0.25)
    assert row["low"] < -0.25 < row["high"]
    assert (table.loc["compliance", "first_share"], table.loc["compliance", "difference"]) == (0.75, 0.25)


def test_a_variant_is_compared_with_its_base_alone_and_over_common_problems():
    variants = {"chat": {"base": "M", "change": "prompt: chat"}}
    models = [outcomes("right wrong wrong"), outcomes("right right wrong", model="chat"), outcomes("right", model="N")]
    together = pd.concat(
        [*models, outcomes("wrong undecided", model="chat", dataset="E"), outcomes("wrong right", dataset="E")]
    )
    table = variant_table(together, together, variants, 0.95)
    accuracy = table[table["measure"] == "accuracy"].set_index("dataset")
    assert list(accuracy["difference"]) == [pytest.approx(1 / 3), 0]
    assert list(accuracy["n_problems"]) == [3, 1]
    assert set(table["variant"]) == {"chat"}
    assert set(table["change"]) == {"prompt: chat"}
    assert variant_table(together, together, {}, 0.95).empty


def test_the_summary_says_from_which_budget_on_reasoning_helps(tmp_path):
    fast = [(f"p{k}", WITHOUT, "right" if k < 12 else "wrong", 5, 0) for k in range(60)]
    slow = [(f"p{k}", WITH, "right", 40, 0) for k in range(60)]
    graded = traces(*fast, *slow)
    sampled = graded.assign(decoding="sampled")
    both = pd.concat([graded, sampled])
    variants = {"V": {"base": "M", "change": "prompt: chat"}}
    with_variant = pd.concat([graded, graded.assign(model="V")])
    tables = {
        "budgets": budget_table(graded, **DRAWS), "decodings": decoding_table(both, both, 0.95),
        "variants": variant_table(with_variant, with_variant, variants, 0.95),
    }  # fmt: skip
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv")
    ((_, budget),) = find_budgets(tmp_path / "budgets.csv", {}).rows
    assert (budget["worse up to, tokens"].text, budget["better from, tokens"].text) == ("5", "40")
    (_, decoding), *_ = find_decodings(tmp_path / "decodings.csv", {}).rows
    assert (decoding["first"].text, decoding["second"].text) == ("greedy", "sampled")
    (_, variant), *_ = find_variants(tmp_path / "variants.csv", {}).rows
    assert (variant["variant"].text, variant["change"].text) == ("V", "prompt: chat")
    assert variant["change, points"].text.startswith("+0.0")


# ---- figures


@pytest.fixture
def papers_study(tmp_path):
    """Tables of a study with the paper's labels: one of its models, with one more right answer than in the paper."""
    outcome = {(True, True): "right", (True, False): "wrong", (False, False): "unfinished"}
    with_reasoning = [outcome[True, k < 333] for k in range(355)] + ["unfinished"] * 145
    without = [outcome[True, k < 283] for k in range(355)] + ["wrong"] * 110 + ["unfinished"] * 35
    rows = [
        (f"p{k}", condition, word, 9, 0)
        for condition, words in zip(CONDITIONS, (with_reasoning, without), strict=True)
        for k, word in enumerate(words)
    ]
    graded = traces(*rows, model="R1-Llama-8B", dataset="MATH-500", decoding="sampled")
    graded = pd.concat([graded, graded.assign(model="another")])
    write_csv(tmp_path / "effect.csv", effect_table(graded, 100, 0.95, 1), provenance({"stage": "evaluation"}))
    write_csv(tmp_path / "funnel.csv", funnel_table(graded, 0.95), provenance({"stage": "evaluation"}))
    return tmp_path


def test_the_papers_numbers_stand_beside_those_of_the_same_labels(papers_study):
    names = ("effect.csv", "funnel.csv")
    table = beside_paper(*(pd.read_csv(papers_study / name) for name in names), pd.read_csv(PAPER))
    assert set(table["model"]) == {"R1-Llama-8B"}
    rows = table.set_index(["source", "condition"])
    assert rows.loc[("paper", WITH), "common_accuracy"] == pytest.approx(0.935, abs=5e-4)
    assert rows.loc[("paper", WITHOUT), "common_accuracy"] == pytest.approx(0.797, abs=5e-4)
    assert 100 * rows.loc[("paper", WITH), "common_difference"] == pytest.approx(13.8, abs=0.05)
    assert rows.loc[("this study", WITH), "common_accuracy"] == pytest.approx(333 / 355, abs=1e-6)
    assert rows.loc[("this study", WITHOUT), "compliance"] == pytest.approx(465 / 500)
    plot_beside_paper(
        *(papers_study / name for name in names), PAPER, papers_study / "beside_paper",
        {"is_toy": False, "confidence": 0.95, "variants": {}},
    )  # fmt: skip
    assert len(pd.read_csv(papers_study / "beside_paper.csv")) == 4


def test_the_papers_numbers_are_those_published(reference):
    published = json.loads((reference / "paper_numbers.json").read_text())["math500"]
    arms = {"R1-Llama-8B": "llama-8B", "R1-Qwen-7B": "qwen-7B", "R1-Qwen-1.5B": "qwen-1p5B", "R1-Full": "r1-full"}
    for row in pd.read_csv(PAPER).itertuples():
        arm, kind = ("withR", "correct_with") if row.condition == WITH else ("withoutR", "correct_without")
        paired = published["paired"][row.model]
        assert [row.total, row.finished, row.well_formed, row.extracted] == published["funnel"][
            f"{arms[row.model]}-{arm}"
        ]
        assert (row.n_common, row.n_right) == (paired["n"], paired[kind])


def test_disagreements_are_counted_by_who_takes_an_answer_for_right(tmp_path):
    grades = pd.DataFrame(
        {"is_correct": [True, True, False, None, None], "is_correct_paper": [True, False, True, True, None]}
    ).astype(object)
    names = {"model": "a", "dataset": "d", "graders": ["policy", "paper"]}
    grades["uid"] = [f"p{number}" for number in range(len(grades))]
    files = [tmp_path / f"{decoding}.parquet" for decoding in ("greedy", "sampled")]
    for file, part in zip(files, (grades[:2], grades[2:]), strict=True):
        write_parquet(file, part, provenance(names))
    labels = {"model_labels": {"a": "A"}, "dataset_labels": {"d": "D"}}
    (row,) = disagreement_counts(files, "policy", ["paper"], labels).to_dict("records")
    assert (row["n"], row["n_differing"], row["undecided"]) == (5, 3, 1)
    assert (row["only the first right"], row["only the other right"]) == (1, 1)

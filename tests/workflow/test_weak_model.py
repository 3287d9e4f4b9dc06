"""A study whose model never gives an answer runs to its end and says why nothing was measured."""

import pandas as pd
import pytest
import yaml

WEAK = {
    "study": "weak",
    "seed": 1,
    "models": {"tiny-llama": {"path": "resources/models/tiny-llama", "dtype": "float32", "is_toy": True}},
    "datasets": {
        "comparisons": {"kind": "comparison_pairs", "path": "resources/datasets/comparisons.csv", "n_problems": 2}
    },
    "decodings": {"greedy": {"temperature": 0}},
    "generation": {"max_new_tokens": 3},  # no reasoning is finished
    "statistics": {"n_resamples": 200},
    "diagnostics": {
        "haystack": "resources/haystacks/moves.txt",
        "lengths": [26],
        "depths": [0],
        "needles": [{"needle": "5 red", "question": "Which colour has 5? <think>\nOkay, let me look.\n"}],
    },
}


@pytest.mark.slow
def test_a_model_without_one_valid_trace_leaves_empty_stores_and_a_summary_that_says_why(copy):
    (copy.folder / "weak.yaml").write_text(yaml.safe_dump(WEAK))
    done = copy.run("--cores", "2", "--configfile", "weak.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    results = copy.folder / "results/weak"
    summary = (results / "summary.md").read_text()
    for reason in ("no valid greedy trace", "no pair can be used", "no reasoning can be perturbed"):
        assert f"nothing to measure: {reason}" in summary
    funnel = pd.read_csv(results / "tables/tiny-llama/comparisons/pair_funnel.csv").query("by == 'all'")
    assert funnel[["asked", "both_valid", "own_answer_preferred"]].drop_duplicates().values.tolist() == [[2, 0, 0]]
    curves = pd.read_csv(results / "tables/tiny-llama/comparisons/patching_curves.csv")
    assert curves["nothing_to_measure"].tolist() == ["no pair can be used (the pair funnel says why)"]
    assert (results / "figures/tiny-llama/comparisons/patching_curves.png").exists()

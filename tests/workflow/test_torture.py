"""A study that is killed, and whose files are spoilt, in short: `make torture` does it at length."""

import random

from torture import KINDS, Study, Tally, kill_often, spoil, truncate

CONFIG = "config/config.yaml"
TARGETS = ["tables/tiny-qwen/comparisons/ablation.csv"]
ATTENTION = "attention/tiny-qwen/comparisons.h5"


def test_killed_jobs_and_snakemakes_and_a_torn_store_cost_nothing_finished_and_change_no_table(study, tmp_path):
    killed = Study(tmp_path / "r2a", study.folder, CONFIG, TARGETS, anew="capture_attention")
    reference, tally = killed.tables(), Tally()
    killed.clear()
    kill_often(killed, reference, KINDS, random.Random(1), tally, longest=8)
    assert tally.rows == {kind: {"times": 1, "recovered": 1, "lost": 0, "computed_twice": 0} for kind in KINDS}
    killed.finish()
    spoil(killed, reference, "truncated", "capture_attention", ATTENTION, truncate, tally)
    assert tally.rows["truncated"] == {"times": 1, "recovered": 1, "lost": 1, "computed_twice": 0}

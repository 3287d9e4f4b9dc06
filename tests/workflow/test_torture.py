"""A short version of `make torture`: a study is killed, and its files are damaged."""

import random

from torture import KINDS, Study, Tally, corrupt, kill_often, spoil

CONFIG = "config/config.yaml"
TARGETS = ["tables/tiny-qwen/comparisons/ablation.csv"]
ANSWERS = "ablated_answers/tiny-qwen/comparisons.parquet"


def test_killed_jobs_and_snakemakes_and_a_spoilt_store_cost_nothing_finished_and_change_no_table(study, tmp_path):
    killed = Study(tmp_path / "r2a", study.folder, CONFIG, TARGETS, anew="capture_attention")
    reference, tally = killed.tables(), Tally()
    killed.clear()
    kill_often(killed, reference, KINDS, random.Random(1), tally, longest=8)
    assert tally.rows == {kind: {"times": 1, "recovered": 1, "lost": 0, "computed_twice": 0} for kind in KINDS}
    killed.finish()
    spoil(killed, reference, "corrupted", "ablate_heads", ANSWERS, corrupt, tally)
    assert tally.rows["corrupted"] == {"times": 1, "recovered": 1, "lost": 1, "computed_twice": 0}

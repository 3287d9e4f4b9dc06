"""A part is found again, by whoever asks, as long as it depends on the same; parts that left the store are removed."""

import numpy as np
import pytest

from r2a.parts import Parts
from r2a.store import provenance, whole_file


def test_a_part_is_found_by_later_jobs_and_shards_also_when_the_store_grows(tmp_path):
    output = tmp_path / "model/store.h5"
    Parts(output, provenance({"seed": 1}), {"0": "a", "1": "b"}).add("1", {"a/b": np.arange(3.0), "n": np.array(True)})
    for again in (output, tmp_path / "model/store.2-of-3.h5"):
        parts = Parts(again, provenance({"seed": 1}), {"0": "new", "1": "a", "2": "b"})
        assert ["0" in parts, "1" in parts, "2" in parts] == [False, False, True]
        assert parts["2"]["a/b"].tolist() == [0, 1, 2]
        assert parts["2"]["n"]


@pytest.mark.parametrize(("seed", "part"), [(2, "a"), (1, "b")])
def test_a_part_of_other_parameters_or_another_trace_is_not_used_and_is_removed(seed, part, tmp_path):
    output = tmp_path / "model/store.h5"
    parts = Parts(output, provenance({"seed": 1}), {"0": "a"})
    parts.add("0", {"a": np.zeros(1)})
    assert "0" not in Parts(output, provenance({"seed": seed}), {"0": part})
    assert list(parts.folder.iterdir()) == []


def test_what_a_killed_job_had_half_written_is_gone_with_the_next_ones_file_and_never_at_its_place(tmp_path):
    store = tmp_path / "store.h5"
    (tmp_path / ".store.h5.123.partial.h5").write_text("half a sto")
    with whole_file(store) as partial:
        partial.write_text("a store")
        assert not store.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]
    assert store.read_text() == "a store"

"""Parts serve the same job alone, made from the same files, until the study's run ends well."""

import numpy as np
import pytest

from r2a.parts import Parts, forget_parts
from r2a.store import whole_file


@pytest.fixture
def traces(tmp_path):
    (tmp_path / "traces").write_text("one")
    return tmp_path / "traces"


def test_parts_outlive_the_job_that_made_them_until_they_are_forgotten(tmp_path, traces):
    output = tmp_path / "model/store.h5"
    Parts(output, {"seed": 1}, [traces]).add("plain-0", {"a/b": np.arange(3.0), "is_used": np.array(True)})
    parts = Parts(output, {"seed": 1}, [traces])
    assert "plain-0" in parts
    assert "plain-1" not in parts
    assert parts["plain-0"]["a/b"].tolist() == [0, 1, 2]
    assert parts["plain-0"]["is_used"]
    forget_parts(tmp_path)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(("origin", "content"), [({"seed": 2}, "one"), ({"seed": 1}, "two")])
def test_parts_of_other_parameters_or_of_other_files_content_are_not_used_and_removed(
    origin, content, tmp_path, traces
):
    output = tmp_path / "model/store.h5"
    Parts(output, {"seed": 1}, [traces]).add("plain-0", {"a": np.zeros(1)})
    traces.write_text(content)
    assert "plain-0" not in Parts(output, origin, [traces])
    assert list(output.parent.iterdir()) == []


def test_what_a_killed_job_had_half_written_is_gone_with_the_next_ones_file_and_never_at_its_place(tmp_path):
    store = tmp_path / "store.h5"
    (tmp_path / ".store.h5.123.partial.h5").write_text("half a sto")
    with whole_file(store) as partial:
        partial.write_text("a store")
        assert not store.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]
    assert store.read_text() == "a store"

"""Parts serve the same job alone, made from the same files, until the study's run ends well."""

import numpy as np
import pytest

from r2a.parts import Parts, forget_parts


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

"""Parts of a killed job serve the same job alone, and are gone once its output exists."""

import numpy as np
import pytest

from r2a.parts import Parts


def test_parts_outlive_a_job_that_dies_and_not_one_that_ends(tmp_path):
    output = tmp_path / "store.h5"
    with pytest.raises(KeyboardInterrupt), Parts(output, {"seed": 1}) as parts:
        parts.add("plain-0", {"a/b": np.arange(3.0), "is_used": np.array(True)})
        raise KeyboardInterrupt
    with Parts(output, {"seed": 1}) as parts:
        assert "plain-0" in parts
        assert "plain-1" not in parts
        assert parts["plain-0"]["a/b"].tolist() == [0, 1, 2]
        assert parts["plain-0"]["is_used"]
    assert list(tmp_path.iterdir()) == []


def test_parts_of_other_parameters_are_not_used_and_removed(tmp_path):
    output = tmp_path / "store.h5"
    with pytest.raises(KeyboardInterrupt), Parts(output, {"seed": 1}) as parts:
        parts.add("plain-0", {"a": np.zeros(1)})
        raise KeyboardInterrupt
    other = Parts(output, {"seed": 2})
    assert "plain-0" not in other
    assert list(tmp_path.iterdir()) == []

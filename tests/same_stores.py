"""Comparison of two HDF5 stores, e.g. of one job and of several that shared its work."""

from pathlib import Path

import h5py
import numpy as np

from r2a.store import read_provenance


def assert_same_store(one: Path, two: Path) -> None:
    """Assert the same arrays, axes, units and provenance; numbers may differ by rounding, since batches differ."""
    assert read_provenance(one) == read_provenance(two)
    with h5py.File(one) as first, h5py.File(two) as second:
        names: list[list[str]] = [[], []]
        first.visit(names[0].append)
        second.visit(names[1].append)
        assert names[0] == names[1]
        for name in names[0]:
            array, other = first[name], second[name]
            if isinstance(array, h5py.Group):
                continue
            assert array.attrs.get("unit") == other.attrs.get("unit")
            assert [axis.label for axis in array.dims] == [axis.label for axis in other.dims]
            if array.dtype.kind == "f":
                np.testing.assert_allclose(array[()], other[()], rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                assert (array[()] == other[()]).all(), name

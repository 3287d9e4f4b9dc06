"""`make published-lists`: any model's published arrays give a table and a figure; impossible arrays are refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from r2a.published import PublishedError, list_published, main, read_published

N_TRACES, N_LAYERS, N_HEADS = 12, 3, 8


def arrays() -> dict[str, np.ndarray]:
    """Arrays of a model whose first ten heads by a2r are its last ten.

    Five of these do not attend to the first token, and neither do five others, which rank higher if that token does not
    count.
    """
    number = np.arange(N_LAYERS * N_HEADS).reshape(N_LAYERS, N_HEADS)
    a2r = np.repeat((0.01 * (1 + number))[None], N_TRACES, axis=0).astype(np.float32)
    is_awake = ((number >= 9) & (number < 14)) | (number >= 19)
    rest = np.where(is_awake, 0.02, 0.5).astype(np.float32)  # on the prompt, that is
    half, zero = np.full_like(a2r, 0.5), np.zeros_like(a2r)
    answer = {"a2r": a2r, "a2p": zero + rest, "a2bos": 1 - a2r - rest, "a2bot": zero, "a2eot": zero, "a2a": zero}
    reasoning = {"r2r": half, "r2p": half, "r2bos": zero, "r2bot": zero}
    places = {"r_start_idx": 5, "r_end_idx": 40, "token_len": 50}
    return answer | reasoning | {name: np.full(N_TRACES, place) for name, place in places.items()}


def test_a_model_of_any_shape_has_its_lists_in_the_table_and_in_a_figure(tmp_path, capsys):
    np.savez(tmp_path / "segment_attention_other.npz", **arrays())
    main([str(tmp_path), "--output", str(tmp_path / "out")])
    assert "other: of the first 10 heads by a2r, 5 without the first token and 5 by density" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out/head_lists.csv").set_index(["model", "first", "second"])
    assert table.loc[("other", "a2r", "sink_free"), ["n_shared", "n_heads"]].tolist() == [5, 24]
    drawn = pd.read_csv(tmp_path / "out/other/head_lists.csv")
    listed = drawn[drawn["a2r"] <= 10]
    assert sorted(N_HEADS * listed["layer"] + listed["head"]) == list(range(14, 24))
    assert (tmp_path / "out/other/head_lists.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"a2p": None}, "lacks a2p"),
        ({"a2bos": np.zeros((N_TRACES, N_LAYERS, N_HEADS))}, "do not sum to 1"),
        ({"a2r": np.full((N_TRACES, N_LAYERS, N_HEADS), np.nan)}, "do not sum to 1"),
        ({"r2r": np.zeros((N_TRACES, N_LAYERS))}, "see r2r"),
        ({"token_len": np.array([{}], object)}, "not a file of plain arrays"),
    ],
    ids=["missing", "sum", "nan", "shape", "pickled"],
)
def test_arrays_that_cannot_be_right_are_refused_by_name(tmp_path, changed, words):
    kept = {name: array for name, array in (arrays() | changed).items() if array is not None}
    np.savez(tmp_path / "wrong.npz", **kept)
    with pytest.raises(PublishedError, match=rf"wrong\.npz: .*{words}"):
        read_published(tmp_path / "wrong.npz")


def test_a_folder_without_arrays_is_refused(tmp_path: Path):
    with pytest.raises(PublishedError, match=r"no \.npz file"):
        list_published(tmp_path, tmp_path / "out")

"""Which heads each score ranks first, in published arrays of attention; run by `make published-lists FOLDER=...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from r2a.figures.head_lists import plot_head_lists
from r2a.heads.focus import a2r, density, sink_free
from r2a.heads.lists import compare_lists
from r2a.heads.registry import score_columns, stacked
from r2a.store import provenance, write_csv, write_parquet
from r2a.traces import QUERY_SEGMENTS, SEGMENTS, SHORT_NAMES

PREFIX = "segment_attention_"  # of the files' names, before the model's
PLACES = ("r_start_idx", "r_end_idx", "token_len")  # of <think>, of </think>, and number of tokens
SETTINGS: dict[str, Any] = {"n_top_heads": 10, "n_resamples": 2000, "confidence": 0.95, "seed": 20250928}
ROUNDING = 1e-3  # how far a sum of masses may be from 1, as in half precision


class PublishedError(Exception):
    """A folder or file of published arrays cannot be read; the message names it and what is missing."""


def read_published(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Masses [trace, layer, head, query_segment, key_segment] and bounds [trace, 8] of a file of published arrays.

    The file has the ten masses by the paper's short names (SHORT_NAMES), each [trace, layer, head], and PLACES, each
    [trace]. Raises PublishedError.
    """
    try:
        with np.load(path) as published:
            missing = [name for name in (*SHORT_NAMES, *PLACES) if name not in published]
            if missing:
                raise PublishedError(f"{path}: lacks {', '.join(missing)}")
            arrays = {name: published[name] for name in (*SHORT_NAMES, *PLACES)}
    except (ValueError, BadZipFile) as error:
        raise PublishedError(f"{path}: not a file of plain arrays, as numpy.savez writes it ({error})") from error
    shape = arrays["a2r"].shape
    odd = [name for name in SHORT_NAMES if arrays[name].shape != shape]
    odd += [name for name in PLACES if arrays[name].shape != shape[:1]]
    if odd or len(shape) != 3:
        raise PublishedError(f"{path}: masses must be [trace, layer, head] and places [trace]; see {', '.join(odd)}")
    mass = np.zeros((*shape, len(QUERY_SEGMENTS), len(SEGMENTS)), np.float32)
    for name, (query, key) in SHORT_NAMES.items():
        mass[..., QUERY_SEGMENTS.index(query), SEGMENTS.index(key)] = arrays[name]
    if not np.abs(mass.sum(-1) - 1).max() < ROUNDING:  # nan is not a sum, either
        raise PublishedError(f"{path}: the masses of the answer's or the reasoning's tokens do not sum to 1")
    start, end, length = (arrays[name] for name in PLACES)
    zero = np.zeros_like(start)
    return mass, np.stack([zero, zero + 1, start, start + 1, end, end + 1, length - 1, length], axis=1)


def list_published(folder: Path, output: Path) -> pd.DataFrame:
    """Compare the lists of heads of every file in a folder; return compare_lists' table, with the model in front.

    Writes output/head_lists.csv, and by model {model}/heads.parquet (scores of each head) and {model}/head_lists.svg,
    .png and .csv. Raises PublishedError.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise PublishedError(f"{folder}: no .npz file in it")
    n_top = SETTINGS["n_top_heads"]
    draws = {key: SETTINGS[key] for key in ("n_resamples", "confidence", "seed")}
    tables = []
    for path in paths:
        model = path.stem.removeprefix(PREFIX)
        mass, bounds = read_published(path)
        scores = {
            "a2r": stacked(map(a2r, mass)),
            "sink_free": stacked(map(sink_free, mass)),
            "density": stacked(map(density, mass, bounds)),
        }
        layers, heads = np.divmod(np.arange(mass.shape[1] * mass.shape[2]), mass.shape[2])
        columns = [score_columns(name, found, **draws) for name, found in scores.items()]
        table = pd.DataFrame({"layer": layers, "head": heads} | {k: v for found in columns for k, v in found.items()})
        compared = compare_lists(scores, n_top, **draws)
        settings = {**SETTINGS, "model_label": model, "dataset_label": "published arrays", "is_toy": False}
        origin, own = provenance(settings | {"file": str(path)}), output / model
        write_parquet(own / "heads.parquet", table, origin)
        write_csv(own / "lists.csv", compared, origin)
        plot_head_lists(own / "heads.parquet", own / "lists.csv", own / "head_lists", settings)
        tables.append(compared.assign(model=model))
    whole = pd.concat(tables)[["model", *compared.columns]]
    write_csv(output / "head_lists.csv", whole, provenance(SETTINGS | {"files": [path.name for path in paths]}))
    return whole


def in_words(table: pd.DataFrame) -> str:
    """One line per model: how many of the first heads by a2r are among the first by each other score."""
    names = {"sink_free": "without the first token", "density": "by density"}
    lines = []
    for model, rows in table[table["first"] == "a2r"].groupby("model", sort=False):
        kept = [f"{row.n_shared:.0f} {names[row.second]}" for row in rows.itertuples()]
        lines.append(f"{model}: of the first {rows['n_top'].iloc[0]} heads by a2r, {' and '.join(kept)} remain")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make published-lists FOLDER=...", description=__doc__)
    parser.add_argument("folder", type=Path, help="with one .npz file per model; docs/method.md says what is in it")
    parser.add_argument("--output", type=Path, default=Path("results/published"))
    chosen = parser.parse_args(arguments)
    try:
        print(in_words(list_published(chosen.folder, chosen.output)))
    except PublishedError as error:
        parser.exit(1, f"{error}\n")
    print(f"Tables and figures are in {chosen.output}.")


if __name__ == "__main__":
    main()

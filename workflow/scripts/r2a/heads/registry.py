"""Values of the registered scores of heads (r2a.extensions.head_score), and the columns made from them.

The table of heads, its intervals and the atlas follow from the registration. A new score needs no rerun of a model: the
stage reads the stores again, in seconds.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np

from r2a.extensions import HEAD_SCORES, HeadScore
from r2a.statistics import percentile_ends, resampled_means


class Weighted(NamedTuple):
    """Values of one or several traces or runs, and the weight with which each enters the mean; both have one shape."""

    values: np.ndarray
    weights: np.ndarray

    def mean(self) -> np.ndarray:
        """Mean over the first axis, of the defined values; nan if there are none."""
        weights = np.where(np.isnan(self.values), 0, self.weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights * np.nan_to_num(self.values)).sum(0) / weights.sum(0)


def values_of(score: HeadScore, file: h5py.File, settings: Mapping[str, Any], chosen: np.ndarray | None) -> Weighted:
    """A score's values [trace or run, layer, head], read a position at a time; of the `chosen` ones, or of all."""
    compute = score.function
    names = list(inspect.signature(compute).parameters)
    arrays = [name for name in names if name in file]
    fixed = {name: settings[name] for name in names if name not in file}
    positions = np.arange(len(file[arrays[0]])) if chosen is None else np.flatnonzero(chosen)
    return stacked(compute(**fixed, **{name: file[name][k] for name in arrays}) for k in positions)


def stacked(found: Iterable[np.ndarray | Weighted]) -> Weighted:
    """A score's values for several traces or runs, as float64; weights are 1 unless the score gives them."""
    both = [one if isinstance(one, Weighted) else Weighted(one, np.ones(np.shape(one))) for one in found]
    return Weighted(*(np.stack(parts).astype(np.float64) for parts in zip(*both, strict=True)))


def score_columns(
    name: str, found: Weighted, n_resamples: int, confidence: float, seed: int, problems: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Mean of values [trace or run, layer, head] where defined, its bootstrap interval, and the number of values.

    problems: the problem of each trace, since samples of one problem are not independent. Columns: name, {name}_low,
    {name}_high and {name}_n, each [layer * head].
    """
    flat = Weighted(*(part.reshape(len(part), -1) for part in found))
    n_defined = (~np.isnan(flat.values)).sum(0)
    n_clusters = len(flat.values) if problems is None else len(np.unique(problems))
    draws = resampled_means(flat.values, n_resamples, seed, problems, flat.weights)
    low, high = percentile_ends(draws, n_clusters, confidence)
    return {name: flat.mean(), f"{name}_low": low, f"{name}_high": high, f"{name}_n": n_defined}


def scores_of(store: str) -> Iterator[HeadScore]:
    return (score for score in HEAD_SCORES.values() if score.store == store)

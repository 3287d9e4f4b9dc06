"""What another decoding, prompt or tokenization changes, problem by problem."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from r2a.evaluation.outcomes import n_samples
from r2a.statistics import difference_interval

MEASURED = ["n_problems", "first_share", "second_share", "difference", "low", "high"]
DECODING_COLUMNS = ["model", "dataset", "condition", "measure", "first", "second", *MEASURED]
VARIANT_COLUMNS = ["model", "variant", "change", "dataset", "condition", "decoding", "measure", *MEASURED]


def decoding_table(traces: pd.DataFrame, graded: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per model, dataset, condition, measure and pair of decodings: the second's share minus the first's.

    traces: with is_valid; graded: with_outcomes. measure: accuracy over all problems, where invalid answers count as
    wrong, or compliance, the share of valid traces. The difference is paired over problems (difference_interval).
    """
    rows = []
    for measure, table in _measures(traces, graded):
        for names, part in table.groupby(["model", "dataset", "condition"], sort=False):
            parts = dict(iter(part.groupby("decoding", sort=False)))
            for first, second in combinations(parts, 2):
                change = _change(parts[first], parts[second], confidence)
                rows.append((*names, measure, first, second, *change))
    return pd.DataFrame(rows, columns=DECODING_COLUMNS)


def variant_table(
    traces: pd.DataFrame, graded: pd.DataFrame, variants: Mapping[str, Mapping[str, str]], confidence: float
) -> pd.DataFrame:
    """One row per variant, dataset, condition, decoding and measure: the variant's share minus its base's.

    variants: by label, each with its base's label and the change in words. The other columns are those of
    decoding_table; first is the base and second the variant.
    """
    rows = []
    for measure, table in _measures(traces, graded):
        for names, part in table.groupby(["dataset", "condition", "decoding"], sort=False):
            parts = dict(iter(part.groupby("model", sort=False)))
            for variant, origin in variants.items():
                change = _change(parts[origin["base"]], parts[variant], confidence)
                rows.append((origin["base"], variant, origin["change"], *names, measure, *change))
    return pd.DataFrame(rows, columns=VARIANT_COLUMNS)


def _measures(traces: pd.DataFrame, graded: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each measure with its rows, in which `holds` says whether it holds."""
    decided = graded[~graded["is_undecided"]]
    yield "accuracy", decided.assign(holds=decided["is_right"])
    yield "compliance", traces.assign(holds=traces["is_valid"])


def _change(first: pd.DataFrame, second: pd.DataFrame, confidence: float) -> tuple[Any, ...]:
    shares = [rows.groupby("uid")["holds"].mean().astype(float) for rows in (first, second)]
    common = pd.concat(shares, axis=1, join="inner").to_numpy()
    low, high = difference_interval(common[:, 1], common[:, 0], n_samples(second), n_samples(first), confidence)
    mean_first, mean_second = common.mean(0)
    return len(common), mean_first, mean_second, mean_second - mean_first, low, high

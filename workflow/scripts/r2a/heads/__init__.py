"""Scores of every head, from the stores of attention and diagnostics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.extensions import HEAD_SCORES
from r2a.heads import focus
from r2a.heads.lists import compare_lists
from r2a.heads.registry import score_columns, scores_of, values_of
from r2a.store import (
    NothingToMeasure,
    open_hdf5,
    provenance,
    read_provenance,
    reasoned_traces,
    write_csv,
    write_parquet,
)

LEAST_SCORE = 0.1  # of a retrieval head (Wu et al. 2024), and, ours, of an induction head


def score_heads(
    attention: Path, diagnostics: Path, output: Path, by_trace: Path, lists: Path, settings: Mapping[str, Any]
) -> None:
    """Write one row per (layer, head) with every registered score, one row per trace with the RFHs' scores, and lists.

    By head: the columns of rank_heads; score_columns of every score, over traces with reasoning or over diagnostic
    runs; is_retrieval (retrieval above LEAST_SCORE) and is_induction (among the n_top_heads with the highest induction
    score, as in the paper, and above LEAST_SCORE, so that noise is not named). The provenance's `scores` holds the
    scores' names and labels. By trace: uid, condition, decoding, sample, and each score of the attention store, mean
    over the RFHs where defined. Lists: compare_lists.
    """
    draws = {key: settings[key] for key in ("n_resamples", "confidence", "seed")}
    with open_hdf5(attention) as file:
        chosen = reasoned_traces(file)
        if not chosen.any():
            raise NothingToMeasure("no valid trace with reasoning (the funnel and the log of attention say why)")
        problems = file["uid"].asstr()[chosen]
        mass, bounds = file["segment_mass"][chosen], file["bounds"][chosen]
        heads = focus.rank_heads(mass, bounds, settings["n_top_heads"], **draws, problems=problems)
        values = {score.name: values_of(score, file, settings, chosen) for score in scores_of("attention")}
        traces = pd.DataFrame({"uid": problems, "sample": file["sample"][chosen]})
    traces["condition"] = "with_reasoning"
    traces["decoding"] = read_provenance(attention)["parameters"]["decoding"]
    compared = compare_lists(values, settings["n_top_heads"], **draws, problems=problems)
    for name, found in values.items():
        rfhs = found.values.reshape(len(found.values), -1)[:, heads["is_rfh"]]
        traces[name] = pd.DataFrame(rfhs).mean(axis=1)  # of the defined ones

    with open_hdf5(diagnostics) as file:
        values |= {score.name: values_of(score, file, settings, None) for score in scores_of("diagnostics")}
    for name, found in values.items():
        if name not in heads:
            of = problems if HEAD_SCORES[name].store == "attention" else None
            heads = heads.assign(**score_columns(name, found, **draws, problems=of))
    highest = np.argsort(-heads["induction"].to_numpy(), kind="stable")[: settings["n_top_heads"]]
    heads["is_induction"] = heads.index.isin(highest) & (heads["induction"] > LEAST_SCORE)
    heads["is_retrieval"] = heads["retrieval"] > LEAST_SCORE
    labels = {score.name: score.label for score in HEAD_SCORES.values()}
    write_parquet(output, heads, provenance(settings, [attention, diagnostics]) | {"scores": labels})
    write_parquet(by_trace, traces, provenance(settings, [attention]))
    write_csv(lists, compared, provenance(settings, [attention]))

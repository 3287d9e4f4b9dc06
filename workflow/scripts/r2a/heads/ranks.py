"""The order of heads, which is all that stages need to ablate heads or to keep their attention rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from r2a.extensions import HEAD_SCORES
from r2a.heads.focus import short_mass
from r2a.heads.registry import values_of
from r2a.store import NothingToMeasure, open_hdf5, provenance, reasoned_traces, write_parquet


def order_heads(attention: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Write one row per (layer, head) of means over traces with reasoning, ranked by a2r.

    Columns: layer, head, rank (1 is the highest a2r; heads of layers without attention come last), has_attention, a2p,
    a2bos, output_share and contribution. There are no intervals, so that no setting of the statistics reaches a stage
    that runs a model on these heads; score_heads has everything else. Raises NothingToMeasure if no trace has
    reasoning.
    """
    with open_hdf5(attention) as file:
        chosen = reasoned_traces(file)
        if not chosen.any():
            raise NothingToMeasure("no valid trace with reasoning (the funnel and the log of attention say why)")
        mass = file["segment_mass"][chosen]
        columns = {name: short_mass(mass, name).mean(0).ravel() for name in ("a2p", "a2bos")}
        for name in ("output_share", "contribution"):
            columns[name] = values_of(HEAD_SCORES[name], file, settings, chosen).mean().ravel()
    a2r = short_mass(mass, "a2r").astype(np.float64)
    layers, heads = np.indices(a2r.shape[1:])
    columns |= {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "rank": rankdata(-np.nan_to_num(a2r, nan=-1).mean(0).ravel(), method="ordinal"),
        "has_attention": (~np.isnan(a2r).all(0)).ravel(),
    }
    write_parquet(output, pd.DataFrame(columns), provenance(settings, [attention]))

"""Stage 2's sentences: what answer tokens attend to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2a.store import labelled, open_hdf5, read_parquet
from r2a.summary.words import said_empty


def attention_sentences(
    attention: Sequence[Path], heads: Sequence[Path], settings: Mapping[str, Any]
) -> tuple[list[str], str]:
    """A bullet per model and dataset; and one line on all."""
    bullets, short = [], []
    for path, heads_path in zip(attention, heads, strict=True):
        if said := said_empty(heads_path, settings):
            bullets += said
            continue
        names = labelled(path, settings)
        table = read_parquet(heads_path).sort_values("rank")
        rfhs, others = table[table["is_rfh"]], table[~table["is_rfh"]]
        with open_hdf5(path) as file:
            n_traces = int((file["condition"].asstr()[:] == "with_reasoning").sum())
            agreement = float(np.nanmean(file["argmax_agreement"][:])) if names["temperature"] == 0 else None
        first = rfhs.iloc[0]
        first_name = f"({first['layer']}, {first['head']})"
        named = ", ".join(f"({r.layer}, {r.head})" for r in rfhs.itertuples())
        bullet = (
            f"- **{names['model_label']}**, {names['dataset_label']}: the {len(rfhs)} Reasoning-Focus Heads "
            f"(layer, head) {named} put {rfhs['a2r'].mean():.2f} of the answer tokens' attention on the reasoning, "
            f"the other heads {others['a2r'].mean():.2f}; the first, {first_name}, "
            f"{first['a2r']:.2f} [{first['a2r_low']:.2f}, {first['a2r_high']:.2f}], "
            f"{first['lift']:.1f} times what even attention would (n = {n_traces} traces)."
        )
        if agreement is not None:
            bullet += f" {100 * agreement:.2f} % of the completion tokens are the rerun's arg-max too."
        bullets.append(bullet)
        short.append(f"{names['model_label']}, {names['dataset_label']} {first_name} with {first['a2r']:.2f}")
    all_said = "; ".join(short) or "nothing to measure"
    return (
        bullets,
        f"2. The head that attends most to the reasoning, and its share: {all_said}.",
    )

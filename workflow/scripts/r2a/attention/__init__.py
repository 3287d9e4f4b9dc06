"""Stage 2: what answer tokens attend to, from a rerun of the traces' exact token ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r2a.attention.rerun import rerun_trace
from r2a.models import load_model, read_manifest
from r2a.progress import Progress, logger
from r2a.store import add_array, add_axis, new_hdf5, provenance, read_parquet
from r2a.traces import QUERY_SEGMENTS, SEGMENTS


class AttentionError(Exception):
    """A rerun does not reproduce what it must; the message says what and by how much."""


MASS_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}


def capture_attention(traces: Path, manifest: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Rerun every valid trace of settings["decoding"] and store its segment masses.

    /segment_mass [trace, layer, head, query_segment, key_segment], float32; per trace also uid, condition,
    sample, bounds and argmax_agreement: the share of completion tokens that are the rerun's arg-max
    (1 where greedy decoding and the rerun agree exactly; nan for sampled decodings).
    Raises AttentionError where masses do not sum to 1.
    """
    model_origin = read_manifest(manifest)
    table = read_parquet(traces)
    table = table[table["is_valid"] & (table["decoding"] == settings["decoding"])]
    # a reasoning of no token has no attention rows of its own
    has_reasoning = table["bounds"].map(lambda bounds: bounds[4] > bounds[3])
    n_empty = int((~has_reasoning).sum())
    logger.info(f"{traces}: {len(table)} valid {settings['decoding']} traces, {n_empty} of empty reasoning left out")
    table = table[has_reasoning]
    if table.empty:
        raise AttentionError(f"{traces}: no valid {settings['decoding']} trace; see the funnel table for the reasons")
    model = load_model(model_origin, "eager")
    (identity,) = model_origin["models"].values()
    with new_hdf5(output, provenance(settings, [traces, manifest])) as file:
        add_axis(file, "trace", range(len(table)))
        add_axis(file, "layer", range(model_origin["n_layers"]))
        add_axis(file, "head", range(model_origin["n_heads"]))
        add_axis(file, "query_segment", QUERY_SEGMENTS)
        add_axis(file, "key_segment", SEGMENTS)
        add_axis(file, "bound", range(len(SEGMENTS) + 1))
        for column in ("uid", "condition"):
            file[column] = list(table[column])
        file["sample"] = table["sample"].to_numpy()
        bounds_array = add_array(file, "bounds", ("trace", "bound"), "token", "int64", fill=0)
        agreement = add_array(file, "argmax_agreement", ("trace",), "share of completion tokens")
        axes = ("trace", "layer", "head", "query_segment", "key_segment")
        masses = add_array(file, "segment_mass", axes, "share of attention, mean over query tokens")
        with Progress(f"{settings['model']}, {settings['dataset']}: attention reruns", len(table)) as progress:
            for number, row in enumerate(table.itertuples()):
                ids = [*row.prompt_token_ids, *row.completion_token_ids]
                mass, predicted = rerun_trace(model, ids, row.bounds)
                error = float(np.abs(mass.sum(-1) - 1).max())
                if not error <= MASS_TOLERANCE[identity["dtype"]]:
                    raise AttentionError(
                        f"{row.uid}: attention masses miss 1 by {error:.2g}; the rerun's attention is wrong"
                    )
                masses[number], bounds_array[number] = mass, row.bounds
                if settings["is_greedy"]:
                    n_prompt = len(row.prompt_token_ids)
                    agreement[number] = np.mean(predicted[n_prompt - 1 : -1] == ids[n_prompt:])
                progress.advance(len(ids))
        if settings["is_greedy"]:
            logger.info(
                f"arg-max agreement with the engine: mean {np.mean(agreement[:]):.4f}, least {np.min(agreement[:]):.4f}"
            )

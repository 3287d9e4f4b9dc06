"""What answer tokens attend to, measured in a rerun of the traces' exact token ids."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from r2a.attention.reference import rerun_eager
from r2a.attention.rerun import check_against_eager, check_masses, predicted_ids, rerun_traces
from r2a.attention.segments import (
    TraceAttention,
    cue_over_initial,
    cue_preference,
    segment_mass,
    sentence_mass,
    tracking,
)
from r2a.memory import affordable_tokens, if_it_fits
from r2a.models import load_model, load_tokenizer, read_manifest, token_pieces
from r2a.models.attention import SEAM
from r2a.models.decoder import Decoder
from r2a.parts import Parts
from r2a.progress import Progress, logger
from r2a.shards import WHOLE, shard_range
from r2a.store import (
    NothingToMeasure,
    add_array,
    add_axis,
    add_column,
    ids_and_bounds,
    new_hdf5,
    provenance,
    read_traces,
)
from r2a.text.cues import is_cue_token
from r2a.text.sentences import sentence_bounds
from r2a.traces import QUERY_SEGMENTS, SEGMENTS, Bounds

CPU_BATCH_TOKENS = 2048


def capture_attention(
    traces: Sequence[Path],
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    batch_tokens: int,
    shard: str = WHOLE,
) -> None:
    """Rerun every valid trace (in a shard, its own traces) and store what its answer attends to.

    Float32, nan where undefined and in layers without attention (METHOD section 3): /segment_mass [trace, layer, head,
    query_segment, key_segment]; /tracking, /spread, /cue_preference, /cue_over_initial, /contribution and /output_share
    [trace, layer, head]; /sentence_mass [trace, layer, head, sentence], where sentence k of the reasoning is tokens
    sentence_bounds[k] up to [k + 1] (-1 past a trace's last sentence). Also, per trace: uid, condition, sample, bounds,
    n_cue_tokens; argmax_agreement, the share of completion tokens (except those that a reasoning budget forced) that
    are the rerun's arg-max (1 if greedy decoding and the rerun agree exactly; nan for sampled traces); and is_left_out,
    1 for a trace that does not fit into memory by itself, whose values are nan.

    A forward pass holds at most `batch_tokens` tokens, fewer if memory requires it, and with settings["kernel"] eager
    one trace. Finished traces are kept beside the output (Parts). Raises AttentionError if masses do not sum to 1, or
    if the fused kernel differs from eager attention at the beginning of the first trace.
    """
    origin = read_manifest(manifest)
    table = read_traces_to_rerun(traces, settings["decoding"])
    rerun = _traces_of(table, load_tokenizer(origin["folder"]), settings["cue_words"])
    own = shard_range(shard, len(table))
    written_from = provenance(settings, [*traces, manifest])
    depends_on = [[rerun.ids[k], rerun.bounds[k], int(forced)] for k, forced in enumerate(table["n_forced_tokens"])]
    parts = Parts(output, written_from, {str(number): part for number, part in enumerate(depends_on)})
    missing = [number for number in own if str(number) not in parts]
    logger.info(f"{output}: {len(own)} traces, {len(own) - len(missing)} of them already computed")
    if missing:
        _measure_missing(rerun, missing, origin, settings, batch_tokens, parts)
    left_out = [number for number in own if str(number) not in parts]
    if left_out:
        logger.warning(f"{output}: {len(left_out)} of {len(own)} traces left out, as they do not fit into memory")
    with new_hdf5(output, written_from) as file:
        arrays = _lay_out(file, table, origin, [len(b) for b in rerun.sentences])
        arrays["bounds"][:] = rerun.bounds
        arrays["n_cue_tokens"][:] = [is_cue.sum() for is_cue in rerun.cues]
        for number in own:
            arrays["is_left_out"][number] = number in left_out
            if number in left_out:
                continue
            found, cut = parts[str(number)], rerun.sentences[number]
            arrays["sentence_bounds"][number, : len(cut)] = cut
            arrays["sentence_mass"][number, :, :, : len(cut) - 1] = found.pop("sentence_mass")
            for name, values in found.items():
                arrays[name][number] = values
        if settings["temperature"] == 0 and len(left_out) < len(own):
            agreement = arrays["argmax_agreement"][own.start : own.stop]
            logger.info(
                f"arg-max agreement with the engine: mean {np.nanmean(agreement):.4f}, least {np.nanmin(agreement):.4f}"
            )


@dataclass(frozen=True)
class _Traces:
    """The traces to rerun, by their numbers in the table.

    cues: which tokens of the reasoning are cues, bool [token]. sentences: the bounds of its sentences.
    """

    table: pd.DataFrame
    ids: list[list[int]]
    bounds: list[Bounds]
    cues: list[np.ndarray]
    sentences: list[list[int]]


def _traces_of(table: pd.DataFrame, tokenizer: Any, cue_words: Sequence[str]) -> _Traces:
    ids, bounds = ids_and_bounds(table)
    pieces = [token_pieces(tokenizer, i[b.span("reasoning")]) for i, b in zip(ids, bounds, strict=True)]
    cues = [np.array(is_cue_token(reasoning, cue_words)) for reasoning in pieces]
    sentences = [sentence_bounds(reasoning, b.reasoning) for reasoning, b in zip(pieces, bounds, strict=True)]
    return _Traces(table, ids, bounds, cues, sentences)


def _measure_missing(
    traces: _Traces, missing: Sequence[int], origin: Mapping[str, Any], settings: Mapping[str, Any],
    batch_tokens: int, parts: Parts,
) -> None:  # fmt: skip
    """Rerun the missing traces, and add what is measured of each that fits into memory to the parts, by its number."""
    (identity,) = origin["models"].values()
    dtype = identity["dtype"]
    model = load_model(origin, SEAM if settings["kernel"] == "fused" else "eager")
    decoder = Decoder(model)
    reruns = _reruns(model, traces, missing, dtype, settings, batch_tokens)
    with Progress(f"{settings['model']}, {settings['dataset']}: attention reruns", len(missing)) as progress:
        for number, rerun in zip(missing, reruns, strict=True):
            row, n_tokens = traces.table.iloc[number], len(traces.ids[number])
            if rerun is None:
                logger.warning(f"{row.uid}, {row.condition}: {n_tokens} tokens do not fit into memory")
            else:
                kept, hidden = rerun
                found = _measured(kept, traces.bounds[number], traces.cues[number], traces.sentences[number])
                mass = found["segment_mass"][decoder.attending]
                check_masses(mass, dtype, f"{row.uid}, {row.condition}", decoder.has_sinks)
                if settings["temperature"] == 0:
                    found["argmax_agreement"] = _argmax_agreement(model, hidden, row, traces.bounds[number])
                parts.add(str(number), found)
            progress.advance(n_tokens)


def _reruns(
    model: Any, traces: _Traces, missing: Sequence[int], dtype: str, settings: Mapping[str, Any], batch_tokens: int
) -> Iterator[tuple[TraceAttention, torch.Tensor] | None]:
    """What is kept of each missing trace, by the kernel of the settings; None if it does not fit into memory."""
    ids, bounds = [traces.ids[number] for number in missing], [traces.bounds[number] for number in missing]
    if settings["kernel"] == "eager":
        return (if_it_fits(rerun_eager, model, *of_trace) for of_trace in zip(ids, bounds, strict=True))
    check_against_eager(model, traces.ids[0], dtype)
    # larger batches gain nothing on a CPU; there, traces are kept and reported as soon as they are done
    held_tokens = batch_tokens if torch.cuda.is_available() else min(batch_tokens, CPU_BATCH_TOKENS)
    held_tokens = affordable_tokens(held_tokens, Decoder(model).bytes_in_a_layer, "attention reruns")
    return rerun_traces(model, ids, bounds, held_tokens)


def _measured(
    kept: TraceAttention, bounds: Bounds, is_cue: np.ndarray, sentences: Sequence[int]
) -> dict[str, np.ndarray]:
    """The store's arrays of one trace, by name."""
    return {
        "segment_mass": segment_mass(kept, bounds),
        "tracking": tracking(kept.centre),
        "spread": kept.spread.mean(-1),
        "contribution": kept.contribution,
        "output_share": kept.output_share,
        "cue_preference": cue_preference(kept.answer_mass, bounds, is_cue),
        "cue_over_initial": cue_over_initial(kept.answer_mass, bounds, is_cue, sentences),
        "sentence_mass": sentence_mass(kept.answer_mass, sentences),
    }


def _argmax_agreement(model: Any, hidden: torch.Tensor, row: pd.Series, bounds: Bounds) -> np.ndarray:
    """The share of a completion's own tokens that are the arg-max at last hidden states [token, d_model], as []."""
    n_prompt = len(row.prompt_token_ids)
    predicted = predicted_ids(model, hidden[n_prompt - 1 : -1])
    is_own = np.ones(len(predicted), bool)
    first = bounds.think_close - n_prompt
    is_own[first : first + row.n_forced_tokens] = False  # the budget closed the reasoning
    return np.asarray((predicted == np.asarray(row.completion_token_ids))[is_own].mean())


def read_traces_to_rerun(traces: Sequence[Path], decoding: str) -> pd.DataFrame:
    """The valid traces to rerun, of some conditions. Raises NothingToMeasure if there are none."""
    table = read_traces(traces)
    table = table[table["is_valid"]]
    # an empty reasoning has no attention rows
    has_reasoning = table["bounds"].map(Bounds.of).map(lambda bounds: bounds.think_close > bounds.reasoning)
    n_empty = int((~has_reasoning).sum())
    names = ", ".join(map(str, traces))
    logger.info(f"{names}: {len(table)} valid traces, {n_empty} with an empty reasoning left out")
    table = table[has_reasoning]
    if table.empty:
        raise NothingToMeasure(f"no valid {decoding} trace (the funnel says why)")
    return table


def _lay_out(
    file: h5py.File, table: pd.DataFrame, origin: Mapping[str, Any], n_sentence_bounds: Sequence[int]
) -> dict[str, h5py.Dataset]:
    """The store's axes and arrays, empty except for what identifies a trace."""
    add_axis(file, "trace", range(len(table)))
    add_axis(file, "layer", range(origin["n_layers"]))
    add_axis(file, "head", range(origin["n_heads"]))
    add_axis(file, "query_segment", QUERY_SEGMENTS)
    add_axis(file, "key_segment", SEGMENTS)
    add_axis(file, "bound", range(len(SEGMENTS) + 1))
    add_axis(file, "sentence", range(max(n_sentence_bounds) - 1))
    add_axis(file, "sentence_bound", range(max(n_sentence_bounds)))
    for column in ("uid", "condition", "sample"):
        add_column(file, column, "trace", table[column].tolist())
    heads = ("trace", "layer", "head")
    share = "share of attention, mean over query tokens"
    return {
        "bounds": add_array(file, "bounds", ("trace", "bound"), "token", "int64", fill=0),
        "sentence_bounds": add_array(file, "sentence_bounds", ("trace", "sentence_bound"), "token", "int64", fill=-1),
        "is_left_out": add_array(
            file, "is_left_out", ("trace",), "1 where it does not fit into memory", "int8", fill=0
        ),
        "n_cue_tokens": add_array(file, "n_cue_tokens", ("trace",), "token", "int64", fill=0),
        "argmax_agreement": add_array(file, "argmax_agreement", ("trace",), "share of completion tokens"),
        "segment_mass": add_array(file, "segment_mass", (*heads, "query_segment", "key_segment"), share),
        "sentence_mass": add_array(file, "sentence_mass", (*heads, "sentence"), share),
        "tracking": add_array(file, "tracking", heads, "Spearman correlation of centre and answer token"),
        "spread": add_array(file, "spread", heads, "share of the reasoning's length, standard deviation"),
        "contribution": add_array(
            file, "contribution", heads, "norm from the reasoning over that of the layer's heads"
        ),
        "output_share": add_array(file, "output_share", heads, "norm of the output over that of the layer's heads"),
        "cue_preference": add_array(file, "cue_preference", heads, "attention per cue token over that per other token"),
        "cue_over_initial": add_array(
            file, "cue_over_initial", heads, "attention per cue token over that per other token that begins a sentence"
        ),
    }

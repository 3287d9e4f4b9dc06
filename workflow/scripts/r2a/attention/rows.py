"""Whole attention rows of a few traces, for pattern figures and for reading a trace token by token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from r2a.attention import read_traces_to_rerun
from r2a.attention.fused import FusedPass, LayerAttention, Span
from r2a.attention.reference import eager_weights
from r2a.attention.rerun import check_against_eager, check_masses
from r2a.attention.segments import query_rows
from r2a.memory import if_it_fits
from r2a.models import load_model, load_tokenizer, off_device, read_manifest, token_pieces
from r2a.models.attention import SEAM, AttentionError
from r2a.models.decoder import Decoder
from r2a.progress import Progress, logger
from r2a.store import NothingToMeasure, add_array, add_axis, add_column, new_hdf5, provenance, read_parquet
from r2a.text.cues import is_cue_token
from r2a.traces import SEGMENTS, Bounds

MEANS = ("rfh_mean", "all_mean")


def capture_rows(traces: Path, manifest: Path, ranks: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Rerun a few of the traces with reasoning and store the attention rows of their answer tokens, over all tokens.

    One group per trace, /trace_0 and so on, since lengths differ; /uid and /sample [trace] identify them. In each
    group: attention [head, row, key] of the kept heads (settings["row_heads"]: the Reasoning-Focus Heads ordered by
    rank, or all), 0 where a row cannot see a key; rfh_mean and all_mean [row, key], the means over the Reasoning-Focus
    Heads and over all heads of all layers; and centre [every_head, row], every head's attention-weighted mean position
    in the reasoning, from 0 to 1 (METHOD section 3, tracking), nan in layers without attention. The axis `head` reads
    layer.head, and `row` is the answer token's position in the trace. Also layer, head_in_layer, rank and is_rfh
    [head]; token_ids, token_text and is_cue [key]; bounds [bound].

    A trace's rows take at most settings["case_megabytes"] before compression (see n_kept_rows). At the default of 8, in
    16 bits, ten heads keep 33 evenly spaced answer tokens of a trace of 10,000 tokens (5 MB on disk), and 133 of one of
    2,500.

    Raises AttentionError as capture_attention does, and if a problem named in settings["uids"] has no trace.
    """
    origin = read_manifest(manifest)
    (identity,) = origin["models"].values()
    table = _chosen_traces(read_traces_to_rerun([traces], settings["decoding"]), traces, settings)
    tokenizer = load_tokenizer(origin["folder"])
    is_fused = settings["kernel"] == "fused"
    model = load_model(origin, SEAM if is_fused else "eager")
    kept_heads = _heads_to_keep(read_parquet(ranks), settings, Decoder(model).attending)
    if is_fused:
        first = table.iloc[0]
        check_against_eager(model, [*first.prompt_token_ids, *first.completion_token_ids], identity["dtype"])
    with (
        new_hdf5(output, provenance(settings, [traces, manifest, ranks])) as file,
        Progress(f"{settings['model']}, {settings['dataset']}: attention rows", len(table)) as progress,
    ):
        kept: list[int] = []
        for number, row in enumerate(table.itertuples()):
            ids = [*row.prompt_token_ids, *row.completion_token_ids]
            bounds = Bounds.of(row.bounds)
            rows = _rows_to_keep(row.uid, bounds, len(ids), len(kept_heads), settings)
            case = if_it_fits(case_attention, model, ids, bounds, rows, kept_heads)
            progress.advance(len(ids))
            if case is None:
                logger.warning(f"{row.uid}: {len(ids)} tokens do not fit into memory; left out")
                continue
            check_masses(case.attention, identity["dtype"], row.uid, Decoder(model).has_sinks)
            group = file.create_group(f"trace_{len(kept)}")
            kept.append(number)
            _write_case(group, case, kept_heads, bounds, origin["n_heads"], settings["row_dtype"])
            _write_tokens(group, ids, token_pieces(tokenizer, ids), bounds.span("reasoning"), settings["cue_words"])
        if not kept:
            raise NothingToMeasure("no trace fits into memory")
        add_axis(file, "trace", [f"trace_{number}" for number in range(len(kept))])
        for column in ("uid", "sample"):
            add_column(file, column, "trace", table[column].iloc[kept].tolist())


def _heads_to_keep(heads: pd.DataFrame, settings: Mapping[str, Any], attending: Sequence[int]) -> pd.DataFrame:
    """The heads whose rows are kept, with their ranks and is_rfh. attending: the layers with attention."""
    heads = heads.assign(is_rfh=heads["has_attention"] & (heads["rank"] <= settings["n_top_heads"]))
    if settings["row_heads"] == "rfhs":
        heads = heads[heads["is_rfh"]].sort_values("rank")
    return heads[heads["layer"].isin(attending)]


def _rows_to_keep(uid: str, bounds: Bounds, n_tokens: int, n_heads: int, settings: Mapping[str, Any]) -> list[int]:
    """The answer tokens, or as many of them as fit into the settings' case_megabytes, evenly spaced."""
    answer = query_rows(bounds)["answer"]
    itemsize = np.dtype(settings["row_dtype"]).itemsize
    n_rows = n_kept_rows(len(answer), n_tokens, n_heads, itemsize, settings["case_megabytes"])
    if n_rows < len(answer):
        logger.info(f"{uid}: {n_rows} of {len(answer)} answer tokens kept")
    return spread_evenly(answer, n_rows)


def _write_tokens(
    group: h5py.Group, ids: Sequence[int], pieces: Sequence[str], reasoning: slice, cue_words: Sequence[str]
) -> None:
    is_cue = np.zeros(len(ids), bool)
    is_cue[reasoning] = is_cue_token(pieces[reasoning], cue_words)
    add_column(group, "token_ids", "key", ids)
    add_column(group, "token_text", "key", pieces)
    add_column(group, "is_cue", "key", is_cue.tolist())


def n_kept_rows(n_answer: int, n_tokens: int, n_heads: int, itemsize: int, megabytes: float) -> int:
    """How many answer tokens' rows of n_heads and of the MEANS fit into so many MB; at least one, at most all."""
    row_bytes = (n_heads + len(MEANS)) * n_tokens * itemsize
    return min(n_answer, max(1, int(megabytes * 1e6 / row_bytes)))


def spread_evenly(tokens: range, n: int) -> list[int]:
    """n of the tokens, the first and the last among them."""
    return [tokens[k * (len(tokens) - 1) // max(1, n - 1)] for k in range(n)]


@dataclass(frozen=True)
class CaseAttention:
    """Float32 arrays of one trace's chosen rows, as capture_rows stores them."""

    rows: Sequence[int]
    attention: np.ndarray
    rfh_mean: np.ndarray
    all_mean: np.ndarray
    centre: np.ndarray


class CaseRecorder:
    """Keeps the chosen rows of chosen heads, their mean over all heads, and every head's centre, on their devices."""

    def __init__(self, bounds: Bounds, heads: Sequence[tuple[int, int]], rows: Sequence[int], n_all: int):
        self.spans = [Span(0, 0, bounds.end)]
        self.reasoning = bounds.span("reasoning")
        self.heads, self.rows, self.n_all = heads, rows, n_all
        # of each layer, block by block of the rows: [kept head, row, key], [row, key], [head, row]
        self.blocks: dict[int, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}

    def record(self, layer: int, trace: int, attention: LayerAttention) -> None:
        self.blocks[layer] = [self._kept(layer, block) for _, block in attention.blocks(self.rows)]

    def record_weights(self, layer: int, weights: torch.Tensor) -> None:
        """The same from a layer's whole attention [head, token, token]."""
        self.blocks[layer] = [self._kept(layer, weights[:, list(self.rows)].float())]

    def _kept(self, layer: int, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a layer's rows [head, row, key]: those of the kept heads, the sum over heads, and the centres."""
        kept = torch.stack([block[head] for head_layer, head in self.heads if head_layer == layer] or [block[0, :0]])
        inside = block[..., self.reasoning]
        position = torch.linspace(0, 1, inside.shape[-1], device=block.device)
        return kept, block.sum(0), inside @ position / inside.sum(-1)

    def found(self) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
        """After the pass: float32 [kept head, row, key], the mean over all heads, and centres by layer [head, row]."""
        copies = iter(off_device([tensor for blocks in self.blocks.values() for block in blocks for tensor in block]))
        attention = np.zeros((len(self.heads), len(self.rows), self.spans[0].last), np.float32)
        all_mean, centres = np.zeros(attention.shape[1:], np.float32), {}
        for layer, blocks in self.blocks.items():
            places = [k for k, (head_layer, _) in enumerate(self.heads) if head_layer == layer]
            n_done, centres_of_blocks = 0, []
            for _ in blocks:
                kept, total, centre = (next(copies).numpy() for _ in range(3))
                rows, n_keys = slice(n_done, n_done + len(total)), total.shape[-1]
                if places:
                    attention[places, rows, :n_keys] = kept
                all_mean[rows, :n_keys] += total / self.n_all
                centres_of_blocks.append(centre)
                n_done += len(total)
            centres[layer] = np.concatenate(centres_of_blocks, axis=1)
        return attention, all_mean, centres


@torch.no_grad()
def case_attention(
    model: Any, token_ids: Sequence[int], bounds: Bounds, rows: Sequence[int], kept_heads: pd.DataFrame
) -> CaseAttention:
    """One forward pass of a trace, by the fused or the eager attention that the model was loaded with.

    kept_heads: one row per kept head, with its layer, head and is_rfh.
    """
    decoder = Decoder(model)
    heads = list(zip(kept_heads["layer"], kept_heads["head"], strict=True))
    recorder = CaseRecorder(bounds, heads, rows, len(decoder.attending) * decoder.n_heads)
    if model.config._attn_implementation == SEAM:
        decoder.run(torch.tensor([list(token_ids)], device=model.device), FusedPass(recorder))
    else:
        for layer, weights in eager_weights(decoder, token_ids)[0].items():
            recorder.record_weights(layer, weights[0])
    centre = np.full((decoder.n_layers, decoder.n_heads, len(rows)), np.nan, np.float32)
    attention, all_mean, centres = recorder.found()
    for layer, found in centres.items():
        centre[layer] = found
    return CaseAttention(
        rows=rows,
        attention=attention,
        rfh_mean=attention[kept_heads["is_rfh"].to_numpy()].mean(0),
        all_mean=all_mean,
        centre=centre.reshape(-1, len(rows)),
    )


def _chosen_traces(table: pd.DataFrame, traces: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The first samples of the problems in settings["uids"], or else settings["n_cases"] drawn traces."""
    uids = settings["uids"]
    if not uids:
        n_cases = min(settings["n_cases"], len(table))
        return table.iloc[sorted(np.random.default_rng(settings["seed"]).choice(len(table), n_cases, replace=False))]
    first = table.drop_duplicates("uid").set_index("uid", drop=False)
    missing = [uid for uid in uids if uid not in first.index]
    if missing:
        raise AttentionError(
            f"{traces}: no valid {settings['decoding']} trace with reasoning of {', '.join(missing)}; "
            f"choose others in attention.case_uids.{settings['dataset']}"
        )
    return first.loc[uids]


def _write_case(
    group: h5py.Group, case: CaseAttention, kept_heads: pd.DataFrame, bounds: Bounds, n_heads: int, dtype: str
) -> None:
    """The axes and arrays of one trace's group."""
    add_axis(group, "head", [f"{row.layer}.{row.head}" for row in kept_heads.itertuples()])
    add_axis(group, "row", list(case.rows))
    add_axis(group, "key", range(bounds.end))
    add_axis(group, "every_head", ["{}.{}".format(*divmod(k, n_heads)) for k in range(len(case.centre))])
    add_axis(group, "bound", range(len(SEGMENTS) + 1))
    for name, column in {"layer": "layer", "head_in_layer": "head", "rank": "rank", "is_rfh": "is_rfh"}.items():
        add_column(group, name, "head", kept_heads[column].tolist())
    share = "share of the row's attention"
    add_array(group, "attention", ("head", "row", "key"), share, dtype)[:] = case.attention
    for name in MEANS:
        add_array(group, name, ("row", "key"), share, dtype)[:] = getattr(case, name)
    add_array(group, "centre", ("every_head", "row"), "share of the reasoning's length")[:] = case.centre
    add_array(group, "bounds", ("bound",), "token", "int64", fill=0)[:] = bounds

"""The job that measures how much a model's answers depend on each sentence of their reasoning."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from r2a.boxes import final_answer
from r2a.draws import drawn
from r2a.formats import read_format
from r2a.head_sets import Head, heads_by, matched_heads
from r2a.memory import affordable_tokens, if_it_fits
from r2a.models import load_model, load_tokenizer, marks_of, read_manifest, text_of, token_pieces
from r2a.models.attention import SEAM
from r2a.models.decoder import Decoder
from r2a.parts import Parts
from r2a.progress import Progress, logger
from r2a.roles import ALL_HEADS, MATCHED, RFH
from r2a.sentences.belief import measure_belief
from r2a.sentences.branches import keep_run, refuse_inexact_branches
from r2a.sentences.endings import Ending, ending_of
from r2a.sentences.suppression import measure_matrix, measure_suppression
from r2a.shards import WHOLE, shard_range
from r2a.store import (
    NothingToMeasure,
    add_array,
    add_axis,
    add_column,
    ids_and_bounds,
    new_hdf5,
    open_hdf5,
    provenance,
    read_parquet,
    reasoned_traces,
    trace_keys,
)
from r2a.text.sentences import sentence_bounds
from r2a.traces import Bounds

ARMS = (ALL_HEADS, RFH, MATCHED)
ANSWERS = ("own", "reference")
COMPUTED = ("run", "belief", "suppression")
GREEDY_BYTES = 64  # the stored length of a greedy answer's text
CPU_BATCH_TOKENS = 2048  # a CPU gains nothing from larger batches


def measure_sentences(
    traces: Path,
    dataset: Path,
    attention: Path,
    heads: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    batch_tokens: int,
    shard: str = WHOLE,
) -> None:
    r"""Measure belief curves, suppression and attention for the sentences of all traces, or of a shard's.

    The store has (METHOD section 5; nan where undefined):
    /belief [trace, answer, step]: log-probability (nats) of the trace's own final answer and of the reference after
    `step` sentences. /is_own, /greedy [trace, step]: whether the greedy answer is the trace's own (-1 past the last
    step), and its first GREEDY_BYTES bytes.
    /effect [trace, arm, sentence]: what the own answer's log-probability loses (nats) if the sentence is hidden from
    the arm's heads. /greedy_without [trace, arm, sentence]: the greedy answer in that case.
    /read [trace, arm, sentence]: the answer's attention per token of the sentence, mean over the arm's heads.
    /matrix [trace, from, to]: see suppression.measure_matrix; for settings["n_matrices"] traces.
    /n_computed [trace, computed]: tokens that the model read in the kept run, in all steps of belief, and in one arm of
    suppression.
    /sentence_bounds, /text_bounds [trace, sentence_bound]: tokens of the trace and characters of /reasoning [trace] at
    which sentences begin, -1 past the last.
    /is_left_out [trace]: 1 if the trace alone does not fit into memory; its measures are undefined.
    Arms: all heads; the first n_top_heads by a2r; as many matched heads, drawn for each trace.
    Traces whose attention was left out are not in the store. Finished traces are kept beside the output (see Parts).
    Raises ModelError if the architecture's runs cannot be continued exactly; NothingToMeasure without a valid trace.
    """
    table = _measured_traces(traces, attention, settings)
    origin = read_manifest(manifest)
    chosen = _traces_of(table, dataset, heads, load_tokenizer(origin["folder"]), settings)
    own = shard_range(shard, len(table))
    written_from = provenance(settings, [traces, dataset, attention, heads, manifest])
    parts = Parts(output, written_from, {str(number): chosen.depends_on(number) for number in range(len(table))})
    missing = [number for number in own if str(number) not in parts]
    logger.info(f"{output}: {len(own)} traces, {len(own) - len(missing)} of them already computed")
    if missing:
        _measure_missing(chosen, missing, _sentence_mass(attention, table), origin, settings, batch_tokens, parts)
    left_out = [number for number in own if str(number) not in parts]
    if left_out:
        logger.warning(f"{output}: {len(left_out)} of {len(own)} traces left out, as they do not fit into memory")
    with new_hdf5(output, written_from) as file:
        arrays = _lay_out(file, table, chosen.pieces, chosen.cuts)
        for number in own:
            cut, first = chosen.cuts[number], chosen.bounds[number].reasoning
            starts = [0, *accumulate(map(len, chosen.pieces[number]))]
            arrays["sentence_bounds"][number, : len(cut)] = cut
            arrays["text_bounds"][number, : len(cut)] = [starts[place - first] for place in cut]
            arrays["is_left_out"][number] = number in left_out
            if number in left_out:
                continue
            for name, values in parts[str(number)].items():
                arrays[name][(number, *map(slice, values.shape))] = values


@dataclass(frozen=True)
class _Traces:
    """The traces to measure, by their numbers in the table.

    references: each problem's, nan or None without one. arms: the heads of each of ARMS, None for all. has_matrix:
    whether every sentence's effect on every later one is measured. pieces: the text of the reasoning's tokens. cuts:
    the bounds of its sentences.
    """

    table: pd.DataFrame
    tokenizer: Any
    ids: list[list[int]]
    bounds: list[Bounds]
    references: list[Any]
    arms: list[list[frozenset[Head] | None]]
    has_matrix: list[bool]
    pieces: list[list[str]]
    cuts: list[list[int]]

    def depends_on(self, number: int) -> list[Any]:
        """What a trace's measures depend on, besides the store's provenance."""
        arms = [None if heads is None else sorted(heads) for heads in self.arms[number]]
        return [self.ids[number], self.bounds[number], self.references[number], arms, self.has_matrix[number]]


def _traces_of(table: pd.DataFrame, dataset: Path, heads: Path, tokenizer: Any, settings: Mapping[str, Any]) -> _Traces:
    ids, bounds = ids_and_bounds(table)
    references = read_parquet(dataset, ["uid", "answer"]).set_index("uid")["answer"].reindex(table["uid"]).tolist()
    scored = read_parquet(heads, ["layer", "head", "rank", "a2bos", "output_share"])
    arms = [_heads_by_arm(scored, settings, uid) for uid in table["uid"]]
    with_matrix = drawn(list(table["uid"]), settings["n_matrices"], f"{settings['seed']} matrices")
    has_matrix = [uid in with_matrix for uid in table["uid"]]
    pieces = [token_pieces(tokenizer, i[b.span("reasoning")]) for i, b in zip(ids, bounds, strict=True)]
    cuts = [sentence_bounds(reasoning, b.reasoning) for reasoning, b in zip(pieces, bounds, strict=True)]
    return _Traces(table, tokenizer, ids, bounds, references, arms, has_matrix, pieces, cuts)


def _measure_missing(
    traces: _Traces, missing: Sequence[int], mass: Sequence[np.ndarray], origin: Mapping[str, Any],
    settings: Mapping[str, Any], batch_tokens: int, parts: Parts,
) -> None:  # fmt: skip
    """Add what is measured of each missing trace that fits into memory to the parts, by its number.

    mass: the answer's attention to each sentence, [layer, head, sentence] per trace.
    """
    marks = marks_of(origin["folder"], read_format(origin["format"]))
    model = load_model(origin, SEAM)
    refuse_inexact_branches(model, traces.ids[0])
    held_tokens = batch_tokens if torch.cuda.is_available() else min(batch_tokens, CPU_BATCH_TOKENS)
    held_tokens = affordable_tokens(held_tokens, Decoder(model).bytes_in_a_layer, "traces' sentences")
    with Progress(f"{settings['model']}, {settings['dataset']}: traces' sentences", len(missing)) as progress:
        for number in missing:
            ids, bounds, arms, cut = traces.ids[number], traces.bounds[number], traces.arms[number], traces.cuts[number]
            others = [text for text in [traces.references[number]] if isinstance(text, str) and text]
            answer = text_of(traces.tokenizer, ids[bounds.span("answer")])
            ending = ending_of(traces.tokenizer, marks, answer, settings["stub"], others)
            of_trace = ids[: bounds.think_close], cut, ending, arms, traces.has_matrix[number]
            found = if_it_fits(_measure, model, *of_trace, held_tokens)
            if found is None:
                logger.warning(f"{traces.table['uid'].iloc[number]}: {len(ids)} tokens do not fit into memory")
            else:
                parts.add(str(number), found | {"read": _read(mass[number], cut, arms)})
            progress.advance(len(ids))


def _measured_traces(traces: Path, attention: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The traces to measure: valid, with reasoning and attention, of problems drawn with the study's seed."""
    table = read_parquet(traces)
    bounds = table["bounds"].map(Bounds.of)
    table = table[table["is_valid"] & bounds.map(lambda b: b.think_close > b.reasoning)]
    says_something = table["answer_text"].map(lambda text: bool((final_answer(text) or "").strip()))
    if not says_something.all():  # no token of an empty answer has a probability
        logger.warning(
            f"{traces}: {int((~says_something).sum())} traces whose final answer is an empty box are left out"
        )
        table = table[says_something]
    if table.empty:
        raise NothingToMeasure(f"no valid {settings['decoding']} trace with reasoning (the funnel says why)")
    with open_hdf5(attention) as file:
        known = {
            (uid, sample)
            for (uid, _, sample), is_there in zip(trace_keys(file), reasoned_traces(file), strict=True)
            if is_there
        }
    has_attention = [key in known for key in zip(table["uid"], table["sample"], strict=True)]
    skipped = table["uid"][np.logical_not(has_attention)].unique()
    if len(skipped):
        some = ", ".join(skipped[:3])
        logger.warning(f"{attention}: lacks {len(skipped)} problems ({some}, ...), which did not fit into memory")
    table = table[has_attention]
    if table.empty:
        raise NothingToMeasure("no trace's attention fits into memory (its log names the traces)")
    return table[table["uid"].isin(drawn(list(table["uid"].unique()), settings["n_problems"], settings["seed"]))]


def _sentence_mass(attention: Path, table: pd.DataFrame) -> list[np.ndarray]:
    """The answer's attention to each sentence of the reasoning, one [layer, head, sentence] per trace."""
    with open_hdf5(attention) as file:
        numbers = {key: number for number, key in enumerate(trace_keys(file))}
        return [file["sentence_mass"][numbers[row.uid, row.condition, int(row.sample)]] for row in table.itertuples()]


def _heads_by_arm(scored: pd.DataFrame, settings: Mapping[str, Any], uid: str) -> list[frozenset[Head] | None]:
    """The heads of each of ARMS; None means all heads."""
    rfhs = heads_by(scored["rank"], scored)[: settings["n_top_heads"]]
    matched = matched_heads(rfhs, scored, random.Random(f"{settings['seed']} {uid}"))
    return [None, frozenset(rfhs), frozenset(matched)]


def _measure(
    model: Any,
    ids: Sequence[int],
    cut: Sequence[int],
    ending: Ending,
    arms: Sequence[frozenset[Head] | None],
    with_matrix: bool,
    batch_tokens: int,
) -> dict[str, np.ndarray]:
    """The arrays of one trace, by name, from one kept run of `ids` (up to the reasoning's end) and its own answer."""

    def texts(greedy: Sequence[Sequence[int]]) -> np.ndarray:
        answers = (ending.answer(tokens) if tokens else None for tokens in greedy)
        return np.array([_shortened(answer or "") for answer in answers], f"S{GREEDY_BYTES}")

    whole = [*ids, *ending.opening, *ending.answers[0]]
    kept = keep_run(model, whole)
    belief = measure_belief(
        model, kept, cut, ending.opening, ending.answers, ending.is_whole, ending.max_tokens, batch_tokens
    )
    # if the reference is the trace's own answer, both have the same log-probability
    both = belief.log_probability[[0, -1]] if len(ending.answers) > 1 else belief.log_probability.repeat(2, 0)
    n_answers = list(map(len, ending.answers))
    suppression = measure_suppression(
        model, kept, cut, len(whole) - n_answers[0], arms, ending.is_whole, ending.max_tokens, batch_tokens
    )
    n_computed = [
        len(whole),
        len(cut) * sum(len(ending.opening) + n for n in n_answers),
        sum(len(whole) - end for end in cut[1:]),
    ]
    found: dict[str, np.ndarray] = {
        "belief": both.astype(np.float32),
        "is_own": np.array([ending.is_own(tokens) for tokens in belief.greedy], np.int64),
        "greedy": texts(belief.greedy),
        "effect": suppression.effect.astype(np.float32),
        "greedy_without": np.stack(list(map(texts, suppression.greedy))),
        "n_computed": np.array(n_computed, np.int64),
    }
    if with_matrix:
        found["matrix"] = measure_matrix(model, kept, cut, batch_tokens)
    return found


def _shortened(text: str) -> bytes:
    """The first GREEDY_BYTES bytes of a text in UTF-8, without a partial character."""
    return text.encode()[:GREEDY_BYTES].decode(errors="ignore").encode()


def _read(mass: np.ndarray, cut: Sequence[int], arms: Sequence[frozenset[Head] | None]) -> np.ndarray:
    """The answer's attention per token of each sentence, mean over each arm's heads, [arm, sentence]."""
    per_token = mass[..., : len(cut) - 1] / np.diff(cut)
    flat = per_token.reshape(-1, per_token.shape[-1])
    n_heads = mass.shape[1]
    chosen = [slice(None) if heads is None else [layer * n_heads + head for layer, head in heads] for heads in arms]
    return np.stack([np.nanmean(flat[at], 0) for at in chosen]).astype(np.float32)


def _lay_out(
    file: h5py.File, table: pd.DataFrame, pieces: Sequence[Sequence[str]], cuts: Sequence[Sequence[int]]
) -> dict[str, h5py.Dataset]:
    """Write the store's axes and the columns that identify traces; return its arrays, still unfilled."""
    most = max(map(len, cuts))
    add_axis(file, "trace", range(len(table)))
    add_axis(file, "answer", ANSWERS)
    add_axis(file, "arm", ARMS)
    add_axis(file, "computed", COMPUTED)
    add_axis(file, "step", range(most))
    for name in ("sentence", "from", "to"):
        add_axis(file, name, range(most - 1))
    add_axis(file, "sentence_bound", range(most))
    for column in ("uid", "sample"):
        add_column(file, column, "trace", table[column].tolist())
    add_column(file, "reasoning", "trace", ["".join(reasoning) for reasoning in pieces])
    nats, bound = "nat", ("trace", "sentence_bound")
    return {
        "sentence_bounds": add_array(file, "sentence_bounds", bound, "token", "int64", fill=-1),
        "text_bounds": add_array(file, "text_bounds", bound, "character of the reasoning", "int64", fill=-1),
        "belief": add_array(file, "belief", ("trace", "answer", "step"), f"{nats}, log-probability"),
        "is_own": add_array(file, "is_own", ("trace", "step"), "1: yes, 0: no", "int64", fill=-1),
        "greedy": add_array(file, "greedy", ("trace", "step"), "text in UTF-8", f"S{GREEDY_BYTES}", fill=b""),
        "effect": add_array(file, "effect", ("trace", "arm", "sentence"), f"{nats} lost"),
        "greedy_without": add_array(
            file, "greedy_without", ("trace", "arm", "sentence"), "text in UTF-8", f"S{GREEDY_BYTES}", fill=b""
        ),
        "n_computed": add_array(file, "n_computed", ("trace", "computed"), "token", "int64", fill=-1),
        "read": add_array(file, "read", ("trace", "arm", "sentence"), "share of attention per token"),
        "is_left_out": add_array(
            file, "is_left_out", ("trace",), "1 where it does not fit into memory", "int8", fill=0
        ),
        "matrix": add_array(file, "matrix", ("trace", "from", "to"), f"{nats}, mean KL divergence"),
    }

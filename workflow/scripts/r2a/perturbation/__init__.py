"""Dependence on the reasoning's text: prompts that end in a perturbed reasoning (METHOD section 2)."""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.draws import drawn
from r2a.extensions import PERTURBATION_KINDS
from r2a.formats import read_format
from r2a.models import load_tokenizer, marks_of, read_manifest, text_of, token_pieces
from r2a.perturbation.paraphraser import ledger_path, paraphrases_of
from r2a.perturbation.reasoning import Given, NotPerturbed, Reasoning, Trace
from r2a.progress import logger
from r2a.store import (
    open_hdf5,
    provenance,
    read_parquet,
    read_provenance,
    reasoned_traces,
    trace_keys,
    why_empty,
    write_parquet,
)
from r2a.traces import TRACE_KEYS, Bounds

COLUMNS = [
    "uid", "area", "decoding", "sample", "perturbation", "kind", "cut", "left_out", "prompt_token_ids", "kept_share",
    "source_uid", "was", "becomes", "original_answer", "original_is_correct", "implied_answer",
]  # fmt: skip
NO_SERVER: Mapping[str, Any] = {}
WORDS = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)*")


def perturb_reasoning(
    traces: Path,
    grades: Path,
    dataset: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any] = NO_SERVER,
    attention: Path | None = None,
    heads: Path | None = None,
) -> None:
    """Write one row per perturbation of each trace with reasoning: the prompt, or why there is none.

    A prompt ends in </think> or, if the kind leaves the reasoning open, where the model is to continue it.

    Columns: uid, area, decoding, sample, perturbation (its name), kind, cut (the level, for kinds with levels),
    left_out ('' or the reason), prompt_token_ids, kept_share (of the reasoning's tokens, for kinds that remove some),
    source_uid (for other_reasoning), was and becomes (the replaced result's value, and its replacement),
    original_answer, original_is_correct, and implied_answer: what the perturbed reasoning implies, if known. settings:
    kinds, n_problems, seed, and what the kinds use (cuts, filler, cue_words, paraphraser). resources: address and
    concurrency of the paraphraser. attention, heads: the attention store and the heads' ranks, for kinds that need to
    know what the first n_read_heads of them read.
    """
    origin = read_manifest(manifest)
    tokenizer = load_tokenizer(origin["folder"])
    close_ids = marks_of(origin["folder"], read_format(origin["format"])).close_ids
    problems = read_parquet(dataset).set_index("uid")
    table = read_parquet(traces).merge(read_parquet(grades, [*TRACE_KEYS, "answer", "is_correct"]), on=list(TRACE_KEYS))
    valid = _valid_traces(table, problems, tokenizer)
    can_be = {trace.uid for trace in valid.values() if trace.reasoning.token_ids}
    seed = f"{settings['seed']} perturbed problems"
    chosen = set(drawn([uid for uid in problems.index if uid in can_be], settings["n_problems"], seed))
    paraphrases = {}
    if "paraphrase_by_model" in settings["kinds"]:
        asked = [trace.reasoning for trace in valid.values() if trace.uid in chosen and trace.reasoning.token_ids]
        lengths = {"".join(reasoning.pieces): len(reasoning.token_ids) for reasoning in asked}
        paraphrases = paraphrases_of(lengths, settings["paraphraser"], resources, ledger_path(output))
    read = read_by_heads(attention, heads, settings) if attention and heads else {}
    perturbing = _Perturbing(valid, chosen, read, paraphrases, tokenizer, close_ids, settings)
    rows = [
        {
            "uid": row.uid, "area": problems.at[row.uid, "area"], "decoding": row.decoding, "sample": row.sample,
            "original_answer": row.answer, "original_is_correct": row.is_correct,
            **perturbing.columns(row.uid, row.sample, kind, level),
        }
        for row, (kind, level) in product(table.itertuples(), _kinds_with_levels(settings))
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=COLUMNS)
    left_out = frame.groupby("perturbation", sort=False)["left_out"].value_counts()
    logger.info(f"{output}: {len(table)} traces; left out, by reason:\n{left_out.to_string()}")
    written_from = provenance(settings, [traces, grades, dataset, manifest, *filter(None, [attention, heads])])
    write_parquet(output, frame.astype({"cut": "Int64"}), written_from)


@dataclass(frozen=True)
class _Perturbing:
    """What the perturbations of a model's traces share.

    traces: the valid ones by uid and sample. chosen: the uids of the drawn problems. read: see read_by_heads.
    paraphrases: by the reasoning's text. close_ids: the tokens that close a reasoning.
    """

    traces: Mapping[tuple[str, int], Trace]
    chosen: Collection[str]
    read: Mapping[tuple[str, int], Any]
    paraphrases: Mapping[str, str]
    tokenizer: Any
    close_ids: Sequence[int]
    settings: Mapping[str, Any]

    @cached_property
    def others(self) -> list[Trace]:
        return list(self.traces.values())

    def columns(self, uid: str, sample: int, kind: str, level: float | None) -> dict[str, Any]:
        """The columns of one perturbation of a trace: its prompt and what it implies, or why there is none."""
        entry, name = PERTURBATION_KINDS[kind], kind if level is None else f"{kind}_{level}"
        found = {"perturbation": name, "kind": kind, "cut": level, "left_out": ""}
        try:
            trace = _drawn_trace(self.traces.get((uid, sample)), self.chosen)
            rng = random.Random(f"{self.settings['seed']} {uid} {sample} {name}")
            known_read = _sentences_read(self.read.get((uid, sample)), trace)
            given = Given(trace, level, self.others, self.tokenizer, self.settings, rng, self.paraphrases, known_read)
            perturbed = entry.function(given)
        except NotPerturbed as reason:
            return found | {"left_out": str(reason)}
        found |= {column: value for column, value in vars(perturbed).items() if column in COLUMNS}
        closing = () if entry.leaves_open else self.close_ids
        return found | {"prompt_token_ids": [*trace.reasoning.before, *perturbed.token_ids, *closing]}


def _valid_traces(table: pd.DataFrame, problems: pd.DataFrame, tokenizer: Any) -> dict[tuple[str, int], Trace]:
    """The valid traces by uid and sample. problems: by uid."""
    values = result_values(problems)
    return {
        (row.uid, row.sample): Trace(
            row.uid, row.sample, _reasoning(row, tokenizer), row.answer, problems.at[row.uid, "answer"], values[row.uid]
        )
        for row in table[table["is_valid"]].itertuples()
    }


def _kinds_with_levels(settings: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Each kind with each of its levels, or with None if it has none."""
    levels = {kind: PERTURBATION_KINDS[kind].levels for kind in settings["kinds"]}
    return [(kind, level) for kind, key in levels.items() for level in (settings[key] if key else [None])]


def _drawn_trace(trace: Trace | None, chosen: Collection[str]) -> Trace:
    """The trace, if it can be perturbed. Raises NotPerturbed otherwise. chosen: the uids of the drawn problems."""
    if trace is None:
        raise NotPerturbed("the trace is not valid")
    if not trace.reasoning.token_ids:
        raise NotPerturbed("no reasoning")
    if trace.uid not in chosen:
        raise NotPerturbed("not drawn")
    return trace


def read_by_heads(attention: Path, heads: Path, settings: Mapping[str, Any]) -> dict[tuple[str, int], Any]:
    """By uid and sample, the sentences' bounds in tokens of the trace, and the heads' attention per token of each.

    Mean over the first n_read_heads by a2r. Empty if attention was measured on another decoding, or could not be.
    """
    if why_empty(attention) or read_provenance(attention)["parameters"]["decoding"] != settings["decoding"]:
        return {}
    first = read_parquet(heads, ["layer", "head", "rank"]).sort_values("rank").head(settings["n_read_heads"])
    found = {}
    with open_hdf5(attention) as file:
        keys = zip(trace_keys(file), reasoned_traces(file), strict=True)
        for number, ((uid, _, sample), is_there) in enumerate(keys):
            if is_there:
                bounds = file["sentence_bounds"][number]
                bounds = bounds[bounds >= 0]
                mass = file["sentence_mass"][number][first["layer"], first["head"], : len(bounds) - 1]
                found[uid, sample] = bounds, mass.mean(0) / np.diff(bounds)
    return found


def _sentences_read(found: Any, trace: Trace) -> list[tuple[tuple[int, int], float]] | None:
    """Each sentence of a trace, as tokens of what the model itself wrote, and how much it is read; None if unknown."""
    if found is None:
        return None
    bounds = np.clip(found[0] - len(trace.reasoning.before), 0, None).tolist()
    sentences = zip(pairwise(bounds), found[1].tolist(), strict=True)
    return [(span, share) for span, share in sentences if span[0] < span[1]]


def result_values(problems: pd.DataFrame) -> dict[str, list[str]]:
    """By uid, the words that a problem's results may be: its pair's two candidates, or its area's references.

    None if the reference is not a word; results are then integers. problems: by uid, with answer and area, and pair if
    they are comparisons.
    """
    groups = problems["pair"] if "pair" in problems else problems["area"].fillna("")
    words = problems["answer"][problems["answer"].map(lambda answer: bool(WORDS.fullmatch(answer.strip())))].str.strip()
    of_group = words.groupby(groups[words.index]).unique()
    return {uid: sorted(of_group[groups[uid]]) if uid in words.index else [] for uid in problems.index}


def _reasoning(row: Any, tokenizer: Any) -> Reasoning:
    """What the model wrote between <think> and </think>, without the prompt's own line after <think>."""
    ids = [int(token) for token in (*row.prompt_token_ids, *row.completion_token_ids)]
    bounds = Bounds.of(row.bounds)
    start = max(bounds.reasoning, len(row.prompt_token_ids))
    own = ids[start : bounds.think_close]
    return Reasoning(ids[:start], "\n" in text_of(tokenizer, ids[start - 1 : start]), own, token_pieces(tokenizer, own))

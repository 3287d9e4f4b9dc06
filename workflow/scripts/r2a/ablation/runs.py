"""The job that generates every trace's answer under every ablation."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from r2a.ablation.arms import Arm, arms_of_trace
from r2a.ablation.decoding import (
    OF_OTHERS,
    Answer,
    Outputs,
    Reading,
    answer_outputs,
    generate,
    of_others,
    read,
    refuse_inexact_ablation,
)
from r2a.boxes import final_answer
from r2a.draws import drawn, drawn_one
from r2a.formats import read_format
from r2a.ledger import Ledger, ledger_path, other_ledgers
from r2a.memory import affordable_tokens, in_batches
from r2a.models import load_model, load_tokenizer, marks_of, read_manifest, token_pieces
from r2a.models.attention import SEAM
from r2a.models.decoder import Decoder
from r2a.progress import Progress, logger
from r2a.roles import UNABLATED
from r2a.shards import WHOLE, shard_range
from r2a.store import (
    NothingToMeasure,
    ids_and_bounds,
    installed_packages,
    parameters_hash,
    provenance,
    read_parquet,
    write_parquet,
)
from r2a.text.sentences import sentence_bounds
from r2a.traces import Bounds, Marks, invalid_reason, segment

CPU_BATCH_TOKENS = 16_384


class AblationError(Exception):
    """Heads cannot be ablated as asked; the message says why and the remedy."""


def ablate_heads(
    traces: Path,
    heads: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    batch_tokens: int,
    shard: str = WHOLE,
) -> None:
    """Generate the answer of each trace (in a shard, its own traces) again, greedily, under every arm of arms_of_trace.

    One row per (uid, mode, selection, dose, draw): the ablated heads as layers and heads, token_ids (with EOS), text,
    is_finished, is_valid and invalid_reason (METHOD section 1), a2r and tracking (decoding.Answer), and original_text,
    the trace's own answer. An answer may be settings["extra_tokens"] tokens longer than the trace's. Finished answers
    are kept in a ledger beside the output, under a hash of everything they depend on, so a larger dataset reuses those
    of its earlier traces. With a single trace, modes that use other traces are left out. A trace that does not fit into
    memory is left out and named in the log. Raises AblationError if a dose exceeds the model's heads, NothingToMeasure
    without a valid trace, ModelError if the architecture's own logits are not reproduced.
    """
    table = _ablated_traces(traces, settings)
    origin = read_manifest(manifest)
    scored = read_parquet(heads, ["layer", "head", "rank", "a2p", "a2bos", "output_share", "contribution"])
    if max(settings["doses"]) > len(scored):
        raise AblationError(
            f"ablation.doses: {max(settings['doses'])} heads are to be ablated, but {settings['model']} has "
            f"{len(scored)}; lower ablation.doses"
        )
    modes = [mode for mode in settings["modes"] if len(table) > 1 or mode not in OF_OTHERS]
    if len(modes) < len(settings["modes"]):
        logger.warning(f"{traces}: there is only one trace, so the modes {' and '.join(OF_OTHERS)} are left out")
    tasks = _Tasks(table, [arms_of_trace(scored, modes, settings, uid) for uid in table["uid"]], origin, settings)
    own = shard_range(shard, len(table))
    with Ledger(ledger_path(output), other_ledgers(output)) as ledger:
        missing = {tasks.key(number, k): (number, k) for number in own for k in range(len(tasks.arms[number]))}
        n_answers = len(missing)
        missing = {key: task for key, task in missing.items() if key not in ledger}
        logger.info(
            f"{output}: {len(own)} traces, {n_answers} answers, {n_answers - len(missing)} already in the ledger"
        )
        if missing:
            _generate_missing(tasks, missing, origin, settings, batch_tokens, ledger)
        measured = [n for n in own if all(tasks.key(n, k) in ledger for k in range(len(tasks.arms[n])))]
        rows = [
            _row(table.iloc[number], arm, ledger[tasks.key(number, k)], tasks.marks)
            for number in measured
            for k, arm in enumerate(tasks.arms[number])
        ]
    if len(measured) < len(own):
        logger.warning(f"{output}: {len(own) - len(measured)} of {len(own)} traces left out: too long for the memory")
    if shard == WHOLE and not measured:
        raise NothingToMeasure("no trace fits into memory")
    write_parquet(output, pd.DataFrame(rows), provenance(settings, [traces, heads, manifest]))
    originals = [list(table.iloc[number]["completion_token_ids"]) for number in measured]
    unablated = [row["token_ids"] for row in rows if row["mode"] == UNABLATED]
    same = [original[-len(ids) :] == ids for original, ids in zip(originals, unablated, strict=True)]
    logger.info(f"{sum(same)} of {len(same)} unablated answers are the traces' own, token by token")


def _ablated_traces(traces: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The valid traces with reasoning whose answers are generated again, drawn by the study's seed."""
    table = read_parquet(traces)
    table = table[table["is_valid"]]
    if table.empty:
        raise NothingToMeasure(f"no valid {settings['decoding']} trace with reasoning (the funnel says why)")
    return table[table["uid"].isin(drawn(list(table["uid"]), settings["n_problems"], settings["seed"]))]


class _Tasks:
    """The answers to generate: for every trace, by its number in the table, one under each of its arms.

    donors: for the mode resample, the number of the trace whose heads' outputs each trace receives.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        arms: Sequence[Sequence[Arm]],
        manifest: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        self.table, self.arms = table, arms
        self.uids = list(table["uid"])
        self.ids, self.bounds = ids_and_bounds(table)
        self.marks = marks_of(manifest["folder"], read_format(manifest["format"]))
        self.donors = [self._donor(uid, settings["seed"]) for uid in self.uids]
        shared = {key: settings[key] for key in ("version", "seed", "extra_tokens")}
        shared |= {"models": manifest["models"], "packages": installed_packages(), "stops": sorted(self.marks.stops)}
        self._traces = [
            parameters_hash({**shared, "uid": uid, "ids": ids, "bounds": bounds})
            for uid, ids, bounds in zip(self.uids, self.ids, self.bounds, strict=True)
        ]
        self._all_traces = parameters_hash({"traces": self._traces})

    def _donor(self, uid: str, seed: int) -> int:
        others = [other for other in self.uids if other != uid]
        return self.uids.index(drawn_one(others, f"{seed} {uid}") if others else uid)

    def key(self, number: int, k: int) -> str:
        """A hash of everything that a trace's answer under its k-th arm depends on."""
        arm = self.arms[number][k]
        others = {"mean": self._all_traces, "resample": self._traces[self.donors[number]]}.get(arm.mode)
        found = {"trace": self._traces[number], "mode": arm.mode, "heads": sorted(arm.heads), "hides": arm.hides}
        return parameters_hash({**found, "others": others})


def _generate_missing(
    tasks: _Tasks, missing: Mapping[str, tuple[int, int]], manifest: Mapping[str, Any],
    settings: Mapping[str, Any], batch_tokens: int, ledger: Ledger,
) -> None:  # fmt: skip
    """Add the missing answers of all traces that fit into memory to the ledger, by their keys.

    missing: (trace, arm) by key.
    """
    model = load_model(manifest, SEAM)
    refuse_inexact_ablation(model, tasks.ids[0])
    modes = {tasks.arms[number][k].mode for number, k in missing.values()}
    outputs = answer_outputs(model, tasks.ids, tasks.bounds) if modes & set(OF_OTHERS) else None
    answering = _Answering(tasks, model, load_tokenizer(manifest["folder"]), settings, outputs)
    n_read = {number: tasks.bounds[number].answer for number, _ in missing.values()}
    rooms = {number: answering.room(number) for number in n_read}
    # rows of several traces keep a GPU busy; on a CPU, each trace is kept and reported as soon as it is done
    is_shared = torch.cuda.is_available()
    batch_tokens = batch_tokens if is_shared else min(batch_tokens, CPU_BATCH_TOKENS)
    # while rows are joined, their keys and values are held twice, in 32 bits
    batch_tokens = affordable_tokens(batch_tokens, 2 * 4 * Decoder(model).n_kept, "ablation")
    left_out = answering.left_out
    left_out |= {n for n in n_read if outputs is not None and not outputs.keys() >= {n, tasks.donors[n]}}

    def first_rows(left: Sequence[tuple[int, int]], batch_tokens: int) -> Sequence[tuple[int, int]]:
        return _first_rows(left, n_read, rooms, batch_tokens, is_shared)

    what = f"{settings['model']}, {settings['dataset']}: answers under ablation"
    with Progress(what, len(missing)) as progress:
        for batch, found in in_batches(list(missing.values()), first_rows, batch_tokens, answering.answers):
            for number, k in batch:
                if found is None:
                    left_out.add(number)
                elif number not in left_out:
                    answer = next(found)
                    ledger.add(tasks.key(number, k), {"uid": tasks.uids[number], **vars(answer)})
                    progress.advance(len(answer.token_ids))
    for number in sorted(left_out):
        logger.warning(f"{tasks.uids[number]}: {n_read[number]} tokens do not fit into memory; left out")


@dataclass
class _Answering:
    """Generates answers in batches, and keeps a trace's reading as long as batches need it.

    outputs: every head's outputs on each trace, if a mode uses those of other traces. left_out: traces whose answers
    are not generated.
    """

    tasks: _Tasks
    model: Any
    tokenizer: Any
    settings: Mapping[str, Any]
    outputs: Mapping[int, Outputs] | None
    left_out: set[int] = field(default_factory=set)
    readings: dict[int, Reading] = field(default_factory=dict)

    def room(self, number: int) -> int:
        """The most tokens that an answer of a trace may have."""
        bounds = self.tasks.bounds[number]
        return bounds.eos - bounds.answer + 1 + self.settings["extra_tokens"]

    def answers(self, batch: Sequence[tuple[int, int]], _budget: int) -> Iterator[Answer]:
        """The answers of the (trace, arm) in a batch whose traces have not been left out meanwhile."""
        chosen = [(number, k) for number, k in batch if number not in self.left_out]
        present = dict.fromkeys(number for number, _ in chosen)
        for number in self.readings.keys() - present:
            del self.readings[number]
        for number in present:
            if number not in self.readings:
                self.readings[number] = self._read(number)
        rows = [(self.readings[number], self.tasks.arms[number][k]) for number, k in chosen]
        limits = [self.room(number) for number, _ in chosen]
        return iter(generate(self.model, rows, limits, self.tasks.marks.stops) if rows else [])

    def _read(self, number: int) -> Reading:
        tasks, bounds = self.tasks, self.tasks.bounds[number]
        reading = read(self.model, tasks.ids[number][: bounds.answer], bounds)
        if self.outputs is not None:
            reading.mean, reading.resampled = of_others(self.outputs, number, tasks.donors[number])
        rng = random.Random(f"{self.settings['seed']} {tasks.uids[number]}")
        reading.moved_to = _sentence(self.tokenizer, tasks.ids[number], bounds, rng)
        return reading


def _sentence(tokenizer: Any, ids: Sequence[int], bounds: Bounds, rng: random.Random) -> slice:
    """The tokens of a random sentence of the reasoning; none if the reasoning is empty."""
    cuts = sentence_bounds(token_pieces(tokenizer, ids[bounds.span("reasoning")]), bounds.reasoning)
    return slice(*rng.choice(list(pairwise(cuts)) or [(bounds.reasoning, bounds.think_close)]))


def _first_rows(
    left: Sequence[tuple[int, int]],
    n_read: Mapping[int, int],
    rooms: Mapping[int, int],
    batch_tokens: int,
    is_shared: bool,
) -> Sequence[tuple[int, int]]:
    """The first of the (trace, arm) left that fit into batch_tokens together, at least one.

    These are all that are left of the first trace, or some of them; then, if shared, those of further whole traces that
    have equally many, because decoding pads traces to equal numbers. A batch has as many tokens as its longest reading,
    once for each trace, plus the room of an answer for each arm.
    """
    n_rows, n_traces, longest, total_room = 0, 0, 0, 0
    for trace, group in groupby(left, key=lambda row: row[0]):
        n_group = len(list(group))
        read, room = max(longest, n_read[trace]), total_room + n_group * rooms[trace]
        if n_traces and (n_group != n_rows // n_traces or (n_traces + 1) * read + room > batch_tokens):
            break
        if read + room > batch_tokens and not n_traces:
            return left[: max(1, (batch_tokens - read) // rooms[trace])]
        n_rows, n_traces, longest, total_room = n_rows + n_group, n_traces + 1, read, room
        if not is_shared:
            break
    return left[:n_rows]


def _row(trace: pd.Series, arm: Arm, answer: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    ids = [*trace["prompt_token_ids"], *trace["completion_token_ids"]]
    _, n_closes, text = segment(ids[: Bounds.of(trace["bounds"]).answer], answer["token_ids"], marks)
    reason = invalid_reason(answer["is_finished"], n_closes, final_answer(text) is not None)
    return {
        "uid": trace["uid"],
        "mode": arm.mode,
        "selection": arm.selection,
        "dose": len(arm.heads),
        "draw": arm.draw,
        "layers": [layer for layer, _ in arm.heads],
        "heads": [head for _, head in arm.heads],
        "token_ids": answer["token_ids"],
        "text": text,
        "original_text": trace["answer_text"],
        "is_finished": answer["is_finished"],
        "is_valid": reason == "",
        "invalid_reason": reason,
        "a2r": answer["a2r"],
        "tracking": answer["tracking"],
    }

"""The job that generates every trace's answer under every ablation."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from r2a.ablation.arms import Arm, arms_of_trace
from r2a.ablation.decoding import Answer, Reading, answer_outputs, generate, read, refuse_deviating
from r2a.boxes import final_answer
from r2a.formats import read_format
from r2a.models import load_model, load_tokenizer, marks_of, read_manifest, token_pieces
from r2a.models.attention import SEAM
from r2a.parts import Parts
from r2a.progress import Progress, logger
from r2a.roles import UNABLATED
from r2a.shards import WHOLE, shard_range
from r2a.store import NothingToMeasure, provenance, read_parquet, write_parquet
from r2a.text.sentences import sentence_bounds
from r2a.traces import Bounds, Marks, invalid_reason, segment

OF_OTHERS = ("mean", "resample")  # modes that put in what other traces' heads give


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
    """Generate each trace's answer again (a shard: its own traces'), greedily, under every arm of arms.arms_of_trace.

    One row a (uid, mode, selection, dose, draw): the ablated heads as layers and heads, token_ids (EOS included), text,
    is_finished, is_valid and invalid_reason (METHOD section 1), a2r and tracking (decoding.Answer), and original_text,
    the trace's own answer. An answer may be settings["extra_tokens"] longer than the trace's. Finished traces are kept
    beside the output (Parts). With one trace alone, modes that put in what other traces give are left out.
    Raises AblationError for doses beyond the model's heads; NothingToMeasure without a valid trace; ModelError for an
    architecture that does not give its own logits here.
    """
    table = _ablated_traces(traces, settings)
    origin = read_manifest(manifest)
    scored = read_parquet(heads, ["layer", "head", "rank", "a2p", "a2bos", "output_share", "contribution"])
    if max(settings["doses"]) > len(scored):
        raise AblationError(
            f"ablation.doses: {max(settings['doses'])} heads are to be ablated, and {settings['model']} has "
            f"{len(scored)}; lower ablation.doses"
        )
    modes = [mode for mode in settings["modes"] if len(table) > 1 or mode not in OF_OTHERS]
    if len(modes) < len(settings["modes"]):
        logger.warning(
            f"{traces}: one trace alone has no others, so no {' and no '.join(OF_OTHERS)} of theirs is put in"
        )
    arms = [arms_of_trace(scored, modes, settings, uid) for uid in table["uid"]]
    written_from = provenance(settings, [traces, heads, manifest])
    marks = marks_of(origin["folder"], read_format(origin["format"]))
    own = shard_range(shard, len(table))
    parts = Parts(output, written_from, [traces, heads, manifest])
    missing = [number for number in own if str(number) not in parts]
    n_there = len(own) - len(missing)
    logger.info(f"{output}: {len(own)} traces, {len(arms[0])} answers each; {n_there} traces already there")
    if missing:
        _generate_missing(table, arms, missing, origin, settings, batch_tokens, marks, parts)
    rows = [
        _row(table.iloc[number], arm, answer, marks)
        for number in own
        for arm, answer in zip(arms[number], _unpacked(parts[str(number)]), strict=True)
    ]
    write_parquet(output, pd.DataFrame(rows), written_from)
    originals = [list(table.iloc[number]["completion_token_ids"]) for number in own]
    unablated = [row["token_ids"] for row in rows if row["mode"] == UNABLATED]
    same = [original[-len(ids) :] == ids for original, ids in zip(originals, unablated, strict=True)]
    logger.info(f"{sum(same)} of {len(same)} unablated answers are the traces' own, token by token")


def _ablated_traces(traces: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The valid traces with reasoning whose answers are generated again, drawn by the study's seed."""
    table = read_parquet(traces)
    table = table[table["is_valid"]]
    if table.empty:
        raise NothingToMeasure(f"no valid {settings['decoding']} trace with reasoning (the funnel says why)")
    n_problems = min(settings["n_problems"] or len(table), len(table))
    return table.sample(n_problems, random_state=settings["seed"]).sort_index()


def _generate_missing(
    table: pd.DataFrame, arms: Sequence[Sequence[Arm]], missing: Sequence[int], manifest: Mapping[str, Any],
    settings: Mapping[str, Any], batch_tokens: int, marks: Marks, parts: Parts,
) -> None:  # fmt: skip
    """Add the part of every missing trace: its answers under all arms. Where memory runs out, batches are halved."""
    model, tokenizer = load_model(manifest, SEAM), load_tokenizer(manifest["folder"])
    ids = [[*row.prompt_token_ids, *row.completion_token_ids] for row in table.itertuples()]
    bounds = [Bounds.of(row) for row in table["bounds"]]
    refuse_deviating(model, ids[0], bounds[0])
    modes = {arm.mode for arm in arms[0]}
    outputs = answer_outputs(model, ids, bounds) if modes & set(OF_OTHERS) else None
    n_read = {number: bounds[number].answer for number in missing}
    more = 1 + settings["extra_tokens"]
    rooms = {number: bounds[number].eos - bounds[number].answer + more for number in missing}
    left: Sequence[tuple[int, int]] = [(number, k) for number in missing for k in range(len(arms[0]))]
    readings: dict[int, Reading] = {}
    answers: dict[int, list[Answer]] = defaultdict(list)
    what = f"{settings['model']}, {settings['dataset']}: traces' answers under ablation"
    with Progress(what, len(missing)) as progress:
        while left:
            batch = _first_rows(left, n_read, rooms, batch_tokens)
            present = dict.fromkeys(number for number, _ in batch)
            readings = {number: reading for number, reading in readings.items() if number in present}
            found = []
            try:
                for number in present:
                    if number not in readings:
                        readings[number] = read(model, ids[number][: n_read[number]], bounds[number])
                        rng = random.Random(f"{settings['seed']} {table.iloc[number]['uid']}")
                        if outputs is not None:
                            donor = rng.choice([other for other in range(len(ids)) if other != number])
                            readings[number].mean, readings[number].resampled = outputs.of_others(number, donor)
                        readings[number].moved_to = _sentence(tokenizer, ids[number], bounds[number], rng)
                rows = [(readings[number], arms[number][k]) for number, k in batch]
                found = generate(model, rows, [rooms[number] for number, _ in batch], marks.stops)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    uid = table.iloc[batch[0][0]]["uid"]
                    raise AblationError(
                        f"{uid}: one answer alone does not fit into memory; use a larger device"
                    ) from error
            if not found:
                batch_tokens //= 2
                torch.cuda.empty_cache()
                logger.warning(f"out of memory at {len(batch)} answers a batch; going on with {batch_tokens} tokens")
                continue
            left = left[len(batch) :]
            for (number, k), answer in zip(batch, found, strict=True):
                answers[number].append(answer)
                if k == len(arms[number]) - 1:
                    parts.add(str(number), _packed(answers.pop(number)))
                    progress.advance()


def _sentence(tokenizer: Any, ids: Sequence[int], bounds: Bounds, rng: random.Random) -> slice:
    """The tokens of a sentence of the reasoning, drawn among all; of an empty reasoning, none."""
    cuts = sentence_bounds(token_pieces(tokenizer, ids[bounds.span("reasoning")]), bounds.reasoning)
    return slice(*rng.choice(list(pairwise(cuts)) or [(bounds.reasoning, bounds.think_close)]))


def _first_rows(
    left: Sequence[tuple[int, int]], n_read: Mapping[int, int], rooms: Mapping[int, int], batch_tokens: int
) -> Sequence[tuple[int, int]]:
    """As many of the (trace, arm) left as batch_tokens hold, in their order, and at least one.

    A trace's reading counts n_read tokens once, and each of its arms the room of an answer.
    """
    total, last = 0, None
    for n_rows, (trace, _) in enumerate(left):
        total += rooms[trace] + (n_read[trace] if trace != last else 0)
        if n_rows and total > batch_tokens:
            return left[:n_rows]
        last = trace
    return left


def _packed(answers: Sequence[Answer]) -> dict[str, np.ndarray]:
    return {
        "token_ids": np.concatenate([answer.token_ids for answer in answers]),
        "n_tokens": np.array([len(answer.token_ids) for answer in answers]),
        "is_finished": np.array([answer.is_finished for answer in answers]),
        "a2r": np.array([answer.a2r for answer in answers]),
        "tracking": np.array([answer.tracking for answer in answers]),
    }


def _unpacked(arrays: Mapping[str, np.ndarray]) -> list[Answer]:
    ids, ends = arrays["token_ids"].tolist(), accumulate(arrays["n_tokens"].tolist(), initial=0)
    others = arrays["is_finished"].tolist(), arrays["a2r"].tolist(), arrays["tracking"].tolist()
    return [Answer(ids[start:end], *of) for (start, end), *of in zip(pairwise(ends), *others, strict=True)]


def _row(trace: pd.Series, arm: Arm, answer: Answer, marks: Marks) -> dict[str, Any]:
    ids = [*trace["prompt_token_ids"], *trace["completion_token_ids"]]
    _, n_closes, text = segment(ids[: Bounds.of(trace["bounds"]).answer], answer.token_ids, marks)
    reason = invalid_reason(answer.is_finished, n_closes, final_answer(text) is not None)
    return {
        "uid": trace["uid"],
        "mode": arm.mode,
        "selection": arm.selection,
        "dose": len(arm.heads),
        "draw": arm.draw,
        "layers": [layer for layer, _ in arm.heads],
        "heads": [head for _, head in arm.heads],
        "token_ids": answer.token_ids,
        "text": text,
        "original_text": trace["answer_text"],
        "is_finished": answer.is_finished,
        "is_valid": reason == "",
        "invalid_reason": reason,
        "a2r": answer.a2r,
        "tracking": answer.tracking,
    }

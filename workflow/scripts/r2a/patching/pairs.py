"""Pairs of traces with opposite answers, their probes, and which position matches which."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.models import load_tokenizer, read_manifest
from r2a.progress import logger
from r2a.roles import ANSWER_ROLE, CLOSE_ROLE, CONTROL_ROLE, ENDING, FINAL_ROLE, PROBE
from r2a.store import provenance, read_parquet, write_parquet
from r2a.traces import SEGMENTS

REASONING, ANSWER = SEGMENTS.index("reasoning"), SEGMENTS.index("answer")
# (before X, X, after X), X being the answer
PROBES = {
    "plain": ("Final answer is", " {answer}", ".\n"),
    "boxed": ("Final answer is \\boxed{{", "{answer}", "}}.\n"),
}
ANSWER_ENDING = ("\n\nThus, the", " {comparator}", " one is \\boxed{{")


class PairError(ValueError):
    """A pair cannot be aligned; the message is the reason it is left out."""


@dataclass(frozen=True)
class Run:
    """One side of a pair: token ids that end right before the answer, and the position of each role."""

    token_ids: list[int]
    positions: dict[str, int]
    answer_id: int


def _piece_ids(tokenizer: Any, pieces: Sequence[str], **values: str) -> list[list[int]]:
    return [tokenizer.encode(piece.format(**values), add_special_tokens=False) for piece in pieces]


def _roles(tokenizer: Any, ids: Sequence[int], prefix: str) -> list[str]:
    """A readable name for each token of a fixed phrase; repeated texts are numbered."""
    names: list[str] = []
    for token in ids:
        text = tokenizer.decode([token]).strip(" ").replace("\n", "\\n") or "space"
        name = f"{prefix}{text}"
        names.append(name if name not in names else f"{name} ({sum(n.startswith(name) for n in names) + 1})")
    return names


def build_run(
    tokenizer: Any, trace: Mapping[str, Any], answer: str, comparator: str, probe: str, keep_reasoning: bool
) -> Run:
    """The run of one trace: prompt, its own reasoning (or none), the probe, </think> and the answer's ending.

    Ids are joined, text is never re-tokenized; a probe that the reasoning already ends in is not added twice.
    Roles: the probe's tokens ("probe: ..."; the answer within it is "answer"), "</think>", and the ending's
    tokens ("ending: ..."; of a comparator of several tokens the last; the final one is "final").
    Raises PairError where the answer is not one token.
    """
    before, given, after = _piece_ids(tokenizer, PROBES[probe], answer=answer)
    lead, compared, box = _piece_ids(tokenizer, ANSWER_ENDING, comparator=comparator)
    whole = tokenizer.encode(ANSWER_ENDING[2].format() + answer, add_special_tokens=False)
    if len(given) != 1 or whole[:-1] != box:
        raise PairError("answer is not one token")
    bounds = trace["bounds"]
    ids = [*trace["prompt_token_ids"], *trace["completion_token_ids"]]
    reasoning = list(ids[bounds[REASONING] : bounds[REASONING + 1]])
    if not keep_reasoning:
        reasoning = list(tokenizer.encode("\n", add_special_tokens=False))
    phrase = [*before, *given, *after]
    if reasoning[-len(phrase) :] == phrase:
        reasoning = reasoning[: -len(phrase)]
    start = bounds[REASONING] + len(reasoning)
    close = ids[bounds[REASONING + 1]]
    token_ids = [*ids[: bounds[REASONING]], *reasoning, *phrase, close, *lead, *compared, *box]
    roles = [*_roles(tokenizer, before, PROBE), ANSWER_ROLE, *_roles(tokenizer, after, PROBE), CLOSE_ROLE]
    positions = {role: start + k for k, role in enumerate(roles)}
    # the ending is matched from its end: the two comparators may differ in length
    ending = [*_roles(tokenizer, lead, ENDING), f"{ENDING}comparator", *_roles(tokenizer, box, ENDING)]
    ending[-1] = FINAL_ROLE
    tail = [
        *range(len(lead)),
        len(lead) + len(compared) - 1,
        *range(len(lead) + len(compared), len(lead) + len(compared) + len(box)),
    ]
    positions |= {role: start + len(roles) + offset for role, offset in zip(ending, tail, strict=True)}
    return Run([int(token) for token in token_ids], positions, whole[-1])


def control_positions(a: Run, b: Run, a_start: int, b_start: int, seed: str) -> tuple[int, int] | None:
    """A random reasoning token equally far before the probe in both runs, or None where there is none."""
    first = next(iter(a.positions))
    reach = min(a.positions[first] - a_start, b.positions[first] - b_start)
    if reach < 1:
        return None
    back = random.Random(seed).randint(1, reach)
    return a.positions[first] - back, b.positions[first] - back


def align_pairs(
    traces: Path, grades: Path, dataset: Path, manifest: Path, output: Path, settings: Mapping[str, Any]
) -> None:
    """Write one row a probe and pair: both runs' token ids and role positions, or why the pair is left out.

    Columns: probe, pair, area, answer_a, answer_b, left_out ('' | a reason), clean_ids, corrupted_ids, roles,
    clean_positions, corrupted_positions, clean_reasoning_start, corrupted_reasoning_start, answer_a_id, answer_b_id.
    The clean run is question a's.
    """
    tokenizer = load_tokenizer(read_manifest(manifest)["folder"])
    questions = read_parquet(dataset).set_index("uid")
    table = read_parquet(traces).merge(read_parquet(grades), on=["uid", "condition", "decoding", "sample"])
    table = table[(table["condition"] == "with_reasoning") & (table["decoding"] == settings["decoding"])]
    table["is_right"] = table["is_correct"].eq(True).fillna(False)  # an undecided verdict is absent
    by_uid = table.set_index("uid").to_dict("index")
    rows = []
    for probe, (pair, sides) in product(settings["probes"], questions.groupby("pair", sort=False)):
        uids = {side.side: uid for uid, side in zip(sides.index, sides.itertuples(), strict=True)}
        row: dict[str, Any] = {"probe": probe, "pair": pair, "area": sides["area"].iloc[0]}
        row |= {f"answer_{side}": questions.loc[uid, "answer"] for side, uid in uids.items()}
        try:
            for uid in uids.values():
                trace = by_uid.get(uid)
                if trace is None or not trace["is_valid"]:
                    raise PairError("a trace is not valid")
                if not trace["is_right"]:
                    raise PairError("an answer is wrong")
            runs = {
                side: build_run(
                    tokenizer, by_uid[uid], questions.loc[uid, "answer"], questions.loc[uid, "comparator"],
                    probe, settings["keep_reasoning"],
                )
                for side, uid in uids.items()
            }  # fmt: skip
        except PairError as reason:
            rows.append(row | {"left_out": str(reason)})
            continue
        a, b = runs["a"], runs["b"]
        a_start, b_start = (by_uid[uids[side]]["bounds"][REASONING] for side in "ab")
        control = control_positions(a, b, a_start, b_start, f"{settings['seed']} {pair}")
        if control is not None:
            a.positions[CONTROL_ROLE], b.positions[CONTROL_ROLE] = control
        elif settings["keep_reasoning"]:
            rows.append(row | {"left_out": "no reasoning before the probe"})
            continue
        rows.append(
            row
            | {
                "left_out": "", "clean_ids": a.token_ids, "corrupted_ids": b.token_ids, "roles": list(a.positions),
                "clean_positions": list(a.positions.values()), "corrupted_positions": list(b.positions.values()),
                "clean_reasoning_start": a_start, "corrupted_reasoning_start": b_start,
                "answer_a_id": a.answer_id, "answer_b_id": b.answer_id,
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    logger.info(f"{output}: {len(frame)} probed pairs; left out: {frame['left_out'].value_counts().to_dict()}")
    if (frame["left_out"] != "").all():
        raise PairError(f"{dataset}: no pair can be used ({frame['left_out'].value_counts().to_dict()})")
    # absent in the pairs left out
    whole = ("answer_a_id", "answer_b_id", "clean_reasoning_start", "corrupted_reasoning_start")
    write_parquet(
        output, frame.astype(dict.fromkeys(whole, "Int64")), provenance(settings, [traces, grades, dataset, manifest])
    )

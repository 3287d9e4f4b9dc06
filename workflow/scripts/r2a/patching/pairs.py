"""Pairs of traces with opposite answers: their probes, and which positions correspond."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.extensions import PROBES
from r2a.models import load_tokenizer, read_manifest, text_of
from r2a.progress import logger
from r2a.roles import (
    ANSWER_ROLE,
    CLOSE_ROLE,
    CONTROL_ROLE,
    ENDING,
    FINAL_ROLE,
    FIRST_MENTION,
    INVALID,
    NO_MENTION,
    NO_REASONING,
    PROBE,
    REASONING_END,
    SENTENCE_END,
    SPLIT_IN_BOX,
    SPLIT_IN_PROBE,
    WRONG,
)
from r2a.store import provenance, read_parquet, write_parquet
from r2a.text.sentences import sentence_bounds
from r2a.traces import SEGMENTS, TRACE_KEYS, Bounds

REASONING, CLOSE, ANSWER = (SEGMENTS.index(name) for name in ("reasoning", "think_close", "answer"))
ANSWER_ENDING = ("\n\nThus, the", " {comparator}", " one is \\boxed{{")
# how an answer can be one token
BARE, SPACED, SPACE_APART, SEVERAL = "bare", "spaced", "space apart", "several tokens"


class PairError(ValueError):
    """A pair cannot be aligned; the message is the reason it is left out."""


@dataclass(frozen=True)
class Run:
    """One side of a pair: token ids that end right before the answer, and the place of each role.

    segments: the ids of each of SEGMENTS up to the answer. roles: the segment of each role, and its distance in tokens
    from that segment's end (from 1), so that padding on the left moves no role. n_pads: by segment.
    """

    segments: tuple[list[int], ...]
    roles: dict[str, tuple[int, int]]
    answer_id: int
    n_pads: tuple[int, ...] = (0,) * (ANSWER + 1)

    @property
    def token_ids(self) -> list[int]:
        return [token for segment in self.segments for token in segment]

    @property
    def positions(self) -> dict[str, int]:
        ends = list(accumulate(map(len, self.segments)))
        return {role: ends[segment] - back for role, (segment, back) in self.roles.items()}

    @property
    def reasoning_start(self) -> int:
        """The position of the reasoning's first token, not counting padding."""
        return sum(map(len, self.segments[:REASONING])) + self.n_pads[REASONING]

    @property
    def pads(self) -> list[int]:
        """The positions of padding."""
        starts = accumulate(map(len, self.segments), initial=0)
        return [start + k for start, n_pads in zip(starts, self.n_pads, strict=False) for k in range(n_pads)]


def answer_form(tokenizer: Any, answer: str) -> str:
    r"""The surface forms in which an answer is one token.

    "bare": directly after `\boxed{`. "spaced": together with a space before it. "space apart": after a space that is a
    token of its own, as many tokenizers have it before digits. "several tokens": in none.
    """
    box, whole = _piece_ids(tokenizer, (ANSWER_ENDING[2], ANSWER_ENDING[2] + "{answer}"), answer=answer)
    space, spaced = _piece_ids(tokenizer, (" ", " {answer}"), answer=answer)
    forms = [BARE] if whole[:-1] == box else []
    if len(spaced) == 1:
        forms.append(SPACED)
    elif spaced == [*space, whole[-1]]:
        forms.append(SPACE_APART)
    return " and ".join(forms) or SEVERAL


def _piece_ids(tokenizer: Any, pieces: Sequence[str], **values: str) -> list[list[int]]:
    return [tokenizer.encode(piece.format(**values), add_special_tokens=False) for piece in pieces]


def _roles(tokenizer: Any, ids: Sequence[int], prefix: str) -> list[str]:
    """A readable name for each token of a fixed phrase; repeated texts are numbered."""
    names: list[str] = []
    for token in ids:
        text = text_of(tokenizer, [token]).strip(" ").replace("\n", "\\n") or "space"
        name = f"{prefix}{text}"
        names.append(name if name not in names else f"{name} ({sum(n.startswith(name) for n in names) + 1})")
    return names


def build_run(
    tokenizer: Any, trace: Mapping[str, Any], answer: str, comparator: str, probe: str, keep_reasoning: bool
) -> Run:
    """The run of one trace: prompt, its own reasoning (or none), the probe, </think> and the answer's ending.

    Ids are concatenated; text is never re-tokenized. If the reasoning already ends in the probe, the probe is not added
    again. Roles: the probe's tokens ("probe: ...", with the answer in it called "answer"), "</think>", and the ending's
    tokens ("ending: ..."; for a comparator of several tokens the last one; the final token is "final"). A separate
    space before the answer has no role, so that all pairs have the same roles. Without a probe, the reasoning's roles
    are its end, the first and the last ("answer") mention of its answer, and the end of the latter's sentence. Raises
    PairError if the answer is not one token, or is never mentioned.
    """
    before, given, after = _piece_ids(tokenizer, PROBES[probe].function(), answer=answer)
    lead, compared, box = _piece_ids(tokenizer, ANSWER_ENDING, comparator=comparator)
    form = answer_form(tokenizer, answer)
    if BARE not in form:
        raise PairError(SPLIT_IN_BOX)
    if given and len(given) != 1 and SPACE_APART not in form:
        raise PairError(SPLIT_IN_PROBE)
    ids = [*trace["prompt_token_ids"], *trace["completion_token_ids"]]
    bounds = Bounds.of(trace["bounds"])
    segments = [list(ids[bounds.span(segment)]) for segment in SEGMENTS[: ANSWER + 1]]
    if not keep_reasoning:
        segments[REASONING] = list(tokenizer.encode("\n", add_special_tokens=False))
    whole = tokenizer.encode(ANSWER_ENDING[2].format() + answer, add_special_tokens=False)
    phrase = [*before, *given, *after]
    named: dict[int, list[str | None]] = {}
    if phrase:
        if segments[REASONING][-len(phrase) :] != phrase:
            segments[REASONING] += phrase
        named[REASONING] = [
            *_roles(tokenizer, before, PROBE),
            *[None] * (len(given) - 1),
            ANSWER_ROLE,
            *_roles(tokenizer, after, PROBE),
        ]
    segments[ANSWER] = [*lead, *compared, *box]
    named |= {
        CLOSE: [CLOSE_ROLE],
        # aligned at its end, since the two comparators may differ in length
        ANSWER: [
            *_roles(tokenizer, lead, ENDING), *[None] * (len(compared) - 1), f"{ENDING}comparator",
            *_roles(tokenizer, box, ENDING)[:-1], FINAL_ROLE,
        ],
    }  # fmt: skip
    roles = {
        name: (segment, len(names) - k) for segment, names in named.items() for k, name in enumerate(names) if name
    }
    if not phrase:
        forms = {tuple(ids) for ids in _piece_ids(tokenizer, (answer, " {answer}"), answer=answer)} | {(whole[-1],)}
        mentions = _mentions(tokenizer, segments[REASONING], [ids[0] for ids in forms if len(ids) == 1])
        roles = {role: (REASONING, len(segments[REASONING]) - at) for role, at in mentions.items()} | roles
    return Run(tuple(segments), roles, whole[-1])


def _mentions(tokenizer: Any, reasoning: Sequence[int], answers: Sequence[int]) -> dict[str, int]:
    """Where a reasoning mentions its answer as one of some tokens, by role. Raises PairError if it does not.

    A mention is a whole word: no letter or digit directly before or after it.
    """
    pieces = [text_of(tokenizer, [token]) for token in reasoning]
    edges = ["", *pieces, ""]
    at = [
        k
        for k, token in enumerate(reasoning)
        if token in answers
        and not (edges[k][-1:].isalnum() and pieces[k][:1].isalnum())
        and not edges[k + 2][:1].isalnum()
    ]
    if not at:
        raise PairError(NO_MENTION)
    end = next(end for end in sentence_bounds(pieces)[1:] if end > at[-1]) - 1
    while end > at[-1] and not pieces[end].strip():  # white space after the full stop
        end -= 1
    return {REASONING_END: len(reasoning) - 1, FIRST_MENTION: at[0], ANSWER_ROLE: at[-1], SENTENCE_END: end}


def with_control(a: Run, b: Run, seed: str) -> tuple[Run, Run]:
    """Both runs with an added role: a random reasoning token, equally far before the probe (or the end) in both.

    Raises PairError if there is none.
    """
    backs = {back for run in (a, b) for segment, back in run.roles.values() if segment == REASONING}
    n_probe = 0 if REASONING_END in a.roles else max(backs)
    reach = min(len(run.segments[REASONING]) for run in (a, b)) - n_probe
    free = [back for back in range(n_probe + 1, n_probe + reach + 1) if back not in backs]
    if not free:
        raise PairError(NO_REASONING)
    place = (REASONING, free[random.Random(seed).randint(1, len(free)) - 1])
    a, b = (replace(run, roles=run.roles | {CONTROL_ROLE: place}) for run in (a, b))
    return a, b


def padded(a: Run, b: Run, pad_id: int) -> tuple[Run, Run]:
    """Both runs padded to equal length segment by segment, on the left of each (the paper's alignment).

    Tokens with which a segment ends in both runs, and their roles, are then at the same positions.
    """
    lengths = [max(map(len, both)) for both in zip(a.segments, b.segments, strict=True)]
    runs = []
    for run in (a, b):
        n_pads = tuple(length - len(segment) for length, segment in zip(lengths, run.segments, strict=True))
        segments = tuple([pad_id] * n + segment for n, segment in zip(n_pads, run.segments, strict=True))
        runs.append(replace(run, segments=segments, n_pads=n_pads))
    return runs[0], runs[1]


def align_pairs(
    traces: Path, grades: Path, dataset: Path, manifest: Path, output: Path, settings: Mapping[str, Any]
) -> None:
    """Write one row per probe and pair: both runs' token ids and role positions, or why the pair is left out.

    Columns: probe, pair, area, kind, template, answer_a, answer_b, form_a, form_b (answer_form), left_out ('' or the
    reason), clean_ids, corrupted_ids, roles, clean_positions, corrupted_positions, clean_reasoning_start,
    corrupted_reasoning_start, clean_masked, corrupted_masked (positions of padding hidden from attention), answer_a_id,
    answer_b_id. The clean run is that of question a. settings["alignment"]: role leaves both runs as they are; pad pads
    them to equal length and masks the padding from attention; pad_visible leaves the padding visible, as the paper
    does.
    """
    tokenizer = load_tokenizer(read_manifest(manifest)["folder"])
    questions = read_parquet(dataset)
    table = read_parquet(traces).merge(read_parquet(grades), on=list(TRACE_KEYS))
    table["is_right"] = table["is_correct"].eq(True).fillna(False)  # an undecided verdict is absent
    by_uid = table.set_index("uid").to_dict("index")
    rows = []
    for probe, (pair, sides) in product(settings["probes"], questions.groupby("pair", sort=False)):
        asked = {side["side"]: side for side in sides.to_dict("records")}
        row: dict[str, Any] = {"probe": probe, "pair": pair, "left_out": ""}
        row |= {name: asked["a"][name] for name in ("area", "kind", "template")}
        for side in "ab":
            row[f"answer_{side}"] = asked[side]["answer"]
            row[f"form_{side}"] = answer_form(tokenizer, asked[side]["answer"])
        try:
            both = [(asked[side], by_uid.get(asked[side]["uid"])) for side in "ab"]
            row |= _aligned(tokenizer, both, probe, settings)
        except PairError as reason:
            row["left_out"] = str(reason)
        rows.append(row)
    frame = pd.DataFrame(rows)
    logger.info(f"{output}: {len(frame)} pairs; left out: {frame['left_out'].value_counts().to_dict()}")
    # missing for the pairs left out
    whole = ("answer_a_id", "answer_b_id", "clean_reasoning_start", "corrupted_reasoning_start")
    frame = frame.reindex(columns=list(dict.fromkeys([*frame, *whole]))).astype(dict.fromkeys(whole, "Int64"))
    write_parquet(output, frame, provenance(settings, [traces, grades, dataset, manifest]))


def _aligned(
    tokenizer: Any,
    asked: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]],
    probe: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The runs' columns of one pair, from each side's question and trace. Raises PairError if it must be left out."""
    traces = [trace for _, trace in asked if trace is not None and trace["is_valid"]]
    if len(traces) < len(asked):
        raise PairError(INVALID)
    if not all(trace["is_right"] for trace in traces):
        raise PairError(WRONG)
    a, b = (
        build_run(
            tokenizer, trace, side["answer"], side["comparator"], probe, settings["keep_reasoning"]
        )
        for (side, _), trace in zip(asked, traces, strict=True)
    )  # fmt: skip
    a, b = with_control(a, b, f"{settings['seed']} {asked[0][0]['pair']}")
    if settings["alignment"] != "role":
        pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        a, b = padded(a, b, pad_id)
    columns: dict[str, Any] = {"roles": list(a.roles), "answer_a_id": a.answer_id, "answer_b_id": b.answer_id}
    for name, run in (("clean", a), ("corrupted", b)):
        columns[f"{name}_ids"] = run.token_ids
        columns[f"{name}_positions"] = list(run.positions.values())
        columns[f"{name}_reasoning_start"] = run.reasoning_start
        columns[f"{name}_masked"] = run.pads if settings["alignment"] == "pad" else []
    return columns

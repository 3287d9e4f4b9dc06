"""Reading problems and comparison pairs from a local file or the Hugging Face hub into one table of texts."""

import random
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.dataset_files import DatasetError, Faults, Row, files_of_folder, files_of_hub, plain_text, reach, read_rows
from r2a.grading import as_text, unreadable_references
from r2a.progress import logger
from r2a.store import provenance, write_parquet

PAIR_COLUMNS = ("query_a", "answer_a", "query_b", "answer_b")
OPTIONAL_PAIR_COLUMNS = ("uid", "domain", "comparator_a", "comparator_b", "kind", "template")
LETTERS = string.ascii_uppercase
REMEDIES = {"drop": "their problems are left out", "text": "answers are compared with them as texts"}
MOST_LISTED = 100  # references that a message names
DEFAULT_COMPARATOR = "correct"  # the paper's pairs ask "which is correct: X or Y?"


def load_dataset(output: Path, settings: Mapping[str, Any]) -> None:
    """Write the dataset's table.

    Columns: uid, problem, answer, area, level; for pairs also pair, side, comparator, kind and template (equal in pairs
    that differ only in their candidates); if fields name them, also history (the problem's text before the last turn)
    and checklist (a list of texts). Everything is text as it is written in the file: no type is inferred.
    settings["areas"] renames areas or leaves them out; settings["filter"] keeps some areas or levels;
    settings["n_problems"] of the remaining problems are drawn with the seed. The provenance holds the commit of a
    dataset from the hub, and why each unreadable reference could not be read.
    Raises DatasetError, before anything is written, for missing columns, values that are not text, empty or repeated
    rows, a filter that nothing matches, and references with which no answer can be compared (unless
    settings["unreadable_references"] says to drop their problems or to compare them as text).
    """
    place = settings["path"] or f"{settings['hub']} (hub)"
    revision, rows = _read_rows(settings)
    if not rows:
        raise DatasetError(f"{place}: has no rows; name a file that has some")
    seed = f"{settings['seed']} {settings['dataset']}"
    if settings["kind"] == "comparison_pairs":
        frame = _pairs(rows, place)
    else:
        frame = _problems(rows, settings["fields"], place, seed)
    if settings["single_turn"]:
        frame = frame[frame["history"] == ""]
    if settings["areas"]:
        frame = _in_areas(frame, settings["areas"], place)
    frame = _filtered(frame, settings["filter"], place)
    if settings["n_problems"]:
        frame = _drawn(frame, settings["n_problems"], seed)
    _check(frame, place)
    unreadable: dict[str, str] = {}
    if settings["kind"] != "open_ended":
        frame, unreadable = _with_readable_references(frame, settings["unreadable_references"], place)
    origin = provenance(settings) | {"revision": revision, "unreadable_references": unreadable}
    write_parquet(output, frame.reset_index(drop=True), origin)


def _in_areas(frame: pd.DataFrame, areas: Mapping[str, str | None], place: str) -> pd.DataFrame:
    """The problems of the areas that have a name, under that name."""
    without = frame.loc[frame["area"].isna(), "uid"].fillna("null")
    if len(without):
        raise DatasetError(f"{place}: {len(without)} rows ({', '.join(without[:3])}, ...) have no area; correct them")
    unknown = sorted(set(frame["area"]) - set(areas))
    if unknown:
        named = ", ".join(unknown)
        raise DatasetError(
            f"{place}: areas without an entry: {named}; add them under areas, with null to leave an area out"
        )
    frame = frame.assign(area=frame["area"].map(areas))
    return frame[frame["area"].notna()]


def _filtered(frame: pd.DataFrame, wanted_by_column: Mapping[str, Sequence[Any]], place: str) -> pd.DataFrame:
    for column, values in wanted_by_column.items():
        wanted = [str(value) for value in values]
        unknown = sorted(set(wanted) - set(frame[column].dropna()))
        if unknown:
            there = ", ".join(sorted(set(frame[column].dropna()))) or "none"
            raise DatasetError(
                f"{place}: no problem has {column} {', '.join(unknown)}, which filter asks for; there are: {there}"
            )
        frame = frame[frame[column].isin(wanted)]
    return frame


def _drawn(frame: pd.DataFrame, n_problems: int, seed: str) -> pd.DataFrame:
    """So many of the problems, or of the pairs."""
    units = "pair" if "pair" in frame else "uid"
    names = sorted(frame[units].unique())
    return frame[frame[units].isin(random.Random(seed).sample(names, min(n_problems, len(names))))]


def _read_rows(settings: Mapping[str, Any]) -> tuple[str | None, list[Row]]:
    """The commit of a dataset from the hub, and the rows of all its files."""
    revision, subset, split = settings["revision"], settings["subset"], settings["split"]
    if settings["hub"]:
        revision, files = files_of_hub(settings["hub"], subset, split, revision)
    elif Path(settings["path"]).is_dir():
        files = files_of_folder(Path(settings["path"]), subset, split)
    else:
        files = [Path(settings["path"])]
    wanted = list(PAIR_COLUMNS)
    if settings["kind"] != "comparison_pairs":
        named = settings["fields"].values()
        wanted = [name for value in named if value for name in ([value] if isinstance(value, str) else value)]
    return revision, [row for file in files for row in read_rows(file, wanted, settings["delimiter"])]


def _column(rows: Sequence[Row], field: str, faults: Faults, is_needed: bool = True) -> list[Any]:
    """The values at a path; a row without it counts as a fault or, if it is not needed, as a missing value."""
    values = []
    for number, row in enumerate(rows, 1):
        value, is_there = reach(row, field)
        if not is_there and is_needed:
            faults.add(number, f"has no {field}; name the right column under fields (there are: {', '.join(row)})")
        values.append(value)
    return values


def _texts(rows: Sequence[Row], field: str, faults: Faults, is_needed: bool = True) -> list[str | None]:
    """The texts at a path; a value that is not text counts as a fault."""
    return [_text(value, field, n, faults) for n, value in enumerate(_column(rows, field, faults, is_needed), 1)]


def _text(value: Any, field: str, number: int, faults: Faults) -> str | None:
    try:
        return plain_text(value)
    except ValueError as error:
        faults.add(number, f"{str(error).replace('{field}', field)} ({field} must be a text)")
        return None


def _problems(rows: Sequence[Row], fields: Mapping[str, Any], place: str, seed: str) -> pd.DataFrame:
    faults = Faults(place)
    if fields["conversation"]:
        fields = {**fields, "problem": None}
    columns = {
        name: _texts(rows, fields[name], faults) if fields[name] else [None] * len(rows)
        for name in ("uid", "problem", "answer", "area", "level")
    }
    wrong = [_texts(rows, field, faults) for field in fields["wrong_answers"]]
    turns = _column(rows, fields["conversation"], faults) if fields["conversation"] else []
    points = _column(rows, fields["checklist"], faults) if fields["checklist"] else []
    faults.raise_if_any()
    frame = pd.DataFrame({name: pd.Series(values, dtype="str") for name, values in columns.items()})
    if fields["uid"] is None:
        frame["uid"] = [f"problem-{number:05d}" for number in range(1, len(rows) + 1)]
    if fields["answer_after"]:
        _check_marker(frame, fields["answer_after"], place)
        frame["answer"] = frame["answer"].str.rsplit(fields["answer_after"], n=1).str[-1].str.strip()
    if wrong:
        right = frame["answer"].astype(object).where(frame["answer"].notna(), None)
        chosen = [
            _as_choices(uid, problem, [answer, *others], place, seed)
            for uid, problem, answer, others in zip(
                frame["uid"], frame["problem"], right, zip(*wrong, strict=True), strict=True
            )
        ]
        frame["problem"], frame["answer"] = zip(*chosen, strict=True)
    if fields["conversation"]:
        texts = [_conversation(said, fields["conversation"], n, faults) for n, said in enumerate(turns, 1)]
        frame["history"] = [history for history, _ in texts]
        frame["problem"] = [history + last for history, last in texts]
    if fields["checklist"]:
        frame["checklist"] = [_checklist(said, fields["checklist"], n, faults) for n, said in enumerate(points, 1)]
    faults.raise_if_any()
    return frame


def _checklist(points: Any, field: str, number: int, faults: Faults) -> list[str]:
    """The points of a checklist, given as a list of texts or one text; missing ones are left out."""
    named = enumerate(points) if isinstance(points, list) else [(None, points)]
    texts = [_text(point, field if k is None else f"{field}.{k}", number, faults) for k, point in named]
    return [text for text in texts if text]


def _conversation(turns: Any, field: str, number: int, faults: Faults) -> tuple[str, str]:
    """The text of the turns before the last one, or '', and that of the last one, which must be the user's."""
    said = turns if isinstance(turns, list) else []
    are_turns = all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in said)
    if not said or not are_turns or said[-1]["role"] != "user":
        faults.add(
            number,
            f"has no list of turns {{role, content}} that ends with the user's in {field}; correct it, or name another "
            "column under fields.conversation",
        )
        return "", ""
    texts = [_text(turn["content"], f"{field}.{k}.content", number, faults) or "" for k, turn in enumerate(said)]
    roles = [str(turn["role"]).capitalize() for turn in said]
    earlier = zip(roles[:-1], texts[:-1], strict=True)
    return "".join(f"{role}: {text}\n\n" for role, text in earlier), texts[-1]


def _check_marker(frame: pd.DataFrame, marker: str, place: str) -> None:
    without = frame.loc[~frame["answer"].str.contains(marker, regex=False, na=False), "uid"]
    if len(without):
        named = ", ".join(without.head(3))
        raise DatasetError(
            f"{place}: {len(without)} answers ({named}, ...) have no {marker!r}; correct fields.answer_after"
        )


def _as_choices(uid: str, problem: str, answers: Sequence[str | None], place: str, seed: str) -> tuple[str, str]:
    """The problem followed by lettered choices, and the letter of the first (right) answer."""
    if not isinstance(problem, str) or not problem.strip():
        raise DatasetError(f"{place}: {uid} has no problem text; correct it in the file")
    if None in answers or len({str(answer).strip() for answer in answers}) < len(answers):
        raise DatasetError(f"{place}: answers of {uid} are missing or equal; correct them in the file")
    order = random.Random(f"{seed} {uid}").sample(range(len(answers)), len(answers))
    lines = [f"({letter}) {answers[number]}".strip() for letter, number in zip(LETTERS, order, strict=False)]
    return "\n".join([f"{problem}\n", *lines]), LETTERS[order.index(0)]


def _pairs(rows: Sequence[Row], place: str) -> pd.DataFrame:
    faults = Faults(place)
    missing = [name for name in PAIR_COLUMNS if not any(name in row for row in rows)]
    if missing:
        raise DatasetError(f"{place}: no column {', '.join(missing)}; pairs need {', '.join(PAIR_COLUMNS)}")
    needed = {name: _texts(rows, name, faults) for name in PAIR_COLUMNS}
    others = {name: _texts(rows, name, faults, is_needed=False) for name in OPTIONAL_PAIR_COLUMNS}
    faults.raise_if_any()
    names = [uid if uid is not None else f"pair-{number:04d}" for number, uid in enumerate(others["uid"], 1)]
    sides = [
        {
            "uid": f"{name}.{side}",
            "problem": needed[f"query_{side}"][k],
            "answer": needed[f"answer_{side}"][k],
            "area": others["domain"][k],
            "level": None,
            "pair": name,
            "side": side,
            "comparator": others[f"comparator_{side}"][k] or DEFAULT_COMPARATOR,
            "kind": others["kind"][k] or _kind(needed["answer_a"][k]),
            "template": others["template"][k] or _template({name: texts[k] for name, texts in needed.items()}),
        }
        for k, name in enumerate(names)
        for side in "ab"
    ]
    return pd.DataFrame(sides)


def _template(row: Mapping[str, Any]) -> str:
    """A pair's questions without its candidates; equal in pairs that differ only in their candidates."""
    questions = f"{row['query_a']} | {row['query_b']}"
    for side in "ab":
        questions = re.sub(rf"(?<!\w){re.escape(str(row[f'answer_{side}']))}(?!\w)", "…", questions)
    return questions


def _kind(answer: Any) -> str:
    """Whether a pair's answers are words, numbers, or yes and no."""
    if re.fullmatch(r"[\d.,-]+", str(answer)):
        return "number"
    return "yes_no" if str(answer).lower() in ("yes", "no") else "word"


def _with_readable_references(frame: pd.DataFrame, remedy: str, place: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The problems after the remedy, and by uid why a reference could not be read.

    Words and sentences are readable: they are compared as texts. A missing reference is not.
    """
    why = unreadable_references(dict(zip(frame["uid"], frame["answer"], strict=True)))
    if not why:
        return frame, why
    rows = {uid: number for number, uid in zip(frame.index + 1, frame["uid"], strict=True)}
    named = [f"  row {rows[uid]}, {uid}: {reason}" for uid, reason in why.items()]
    more = [f"  and {len(named) - MOST_LISTED} more"] if len(named) > MOST_LISTED else []
    lines = "\n".join([*named[:MOST_LISTED], *more])
    if remedy == "stop" or (remedy == "text" and "missing" in why.values()):
        raise DatasetError(
            f"{place}: {len(why)} references cannot be compared with answers; correct them, or set "
            "unreadable_references to drop (leaves their problems "
            f"out){' or text' if 'missing' not in why.values() else ''}:\n{lines}"
        )
    logger.warning(f"{place}: {len(why)} references cannot be read: {REMEDIES[remedy]}:\n{lines}")
    is_unreadable = frame["uid"].isin(why)
    if remedy == "drop":
        units = "pair" if "pair" in frame else "uid"
        frame = frame[~frame[units].isin(frame.loc[is_unreadable, units])]
        if frame.empty:
            raise DatasetError(f"{place}: no problem has a reference that can be read:\n{lines}")
        return frame, why
    return frame.assign(answer=frame["answer"].mask(is_unreadable, frame["answer"].map(as_text))), why


def _check(frame: pd.DataFrame, place: str) -> None:
    if frame.empty:
        raise DatasetError(f"{place}: no problem remains; check areas and filter in the configuration")
    wrong = {
        "have no problem text": frame["problem"].isna() | (frame["problem"].str.strip() == ""),
        "have a uid that occurs more than once, or none": frame["uid"].duplicated(keep=False) | frame["uid"].isna(),
    }
    if "pair" in frame:
        answers = frame.groupby("pair")["answer"].transform("nunique")
        wrong["are pairs whose two answers are the same or missing"] = answers != 2
    if "checklist" in frame:
        wrong["have an empty checklist"] = frame["checklist"].map(len) == 0
    for what, rows in wrong.items():
        if rows.any():
            named = ", ".join(frame.loc[rows, "uid"].fillna("null").head(3))
            raise DatasetError(f"{place}: {int(rows.sum())} rows ({named}, ...) {what}; correct them in the file")

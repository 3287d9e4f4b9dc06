"""Problems and comparison pairs, from a local file or the Hugging Face hub, into one table."""

import random
import re
import string
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.grading import as_text, unreadable_references
from r2a.progress import logger
from r2a.store import provenance, write_parquet

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
PAIR_COLUMNS = ("query_a", "answer_a", "query_b", "answer_b")
LETTERS = string.ascii_uppercase
REMEDIES = {"drop": "their problems are left out", "text": "answers are compared with them as texts"}
DEFAULT_COMPARATOR = "correct"  # the paper's pairs ask "which is correct: X or Y?"


class DatasetError(Exception):
    """A dataset cannot be used; the message names the file, the rows and the remedy."""


def load_dataset(output: Path, settings: Mapping[str, Any]) -> None:
    """Write the dataset's table: uid, problem, answer, area, level; for pairs also pair, side, comparator, kind
    and template, by which pairs made alike are known.

    Where fields name them, also history (the problem's text before the last turn) and checklist (a list of texts).
    Areas are renamed or left out by settings["areas"]; settings["filter"] keeps some areas or levels, of which
    settings["n_problems"] draws a part by the seed. Raises DatasetError before anything is written: missing columns,
    empty or repeated rows, a filter that nothing meets, references that no answer can be compared with (unless
    settings["unreadable_references"] says to drop their problems or to compare them as text). The provenance holds
    the commit of one from the hub, and why each such reference could not be read.
    """
    place = settings["path"] or f"{settings['hub']} (hub)"
    revision = _commit(settings["hub"], settings["revision"]) if settings["hub"] else None
    rows = _read_rows({**settings, "revision": revision})
    if settings["kind"] == "comparison_pairs":
        frame = _pairs(rows, place)
    else:
        seed = f"{settings['seed']} {settings['dataset']}"
        frame = _problems(rows, settings["fields"], place, seed)
    if settings["single_turn"]:
        frame = frame[frame["history"] == ""]
    if settings["areas"]:
        unknown = sorted(set(frame["area"]) - set(settings["areas"]))
        if unknown:
            raise DatasetError(
                f"{place}: areas without an entry: {', '.join(unknown)}; add them under areas, or null to leave out"
            )
        frame["area"] = frame["area"].map(settings["areas"])
        frame = frame[frame["area"].notna()]
    for column, values in settings["filter"].items():
        wanted = [str(value) for value in values]
        unknown = sorted(set(wanted) - set(frame[column].dropna()))
        if unknown:
            there = ", ".join(sorted(set(frame[column].dropna()))) or "none"
            raise DatasetError(
                f"{place}: no problem has {column} {', '.join(unknown)}, as filter asks; there are: {there}"
            )
        frame = frame[frame[column].isin(wanted)]
    units = "pair" if "pair" in frame else "uid"
    if settings["n_problems"]:
        names = sorted(frame[units].unique())
        drawn = random.Random(f"{settings['seed']} {settings['dataset']}").sample(
            names, min(settings["n_problems"], len(names))
        )
        frame = frame[frame[units].isin(drawn)]
    _check(frame, place)
    unreadable: dict[str, str] = {}
    if settings["kind"] != "open_ended":
        frame, unreadable = _with_readable_references(frame, settings["unreadable_references"], place)
    origin = provenance(settings) | {"revision": revision, "unreadable_references": unreadable}
    write_parquet(output, frame.reset_index(drop=True), origin)


def _commit(hub: str, revision: str | None) -> str | None:
    """What a branch or tag of a dataset on the hub stands for now."""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(hub, revision=revision).sha


def _read_rows(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    import datasets  # takes seconds to import

    if settings["hub"]:
        loaded = datasets.load_dataset(
            settings["hub"], settings["subset"], split=settings["split"], revision=settings["revision"]
        )
        return loaded.to_list()
    path = Path(settings["path"])
    if path.is_dir():
        chosen: dict[str, Any] = {"path": str(path), "name": settings["subset"], "split": settings["split"]}
    elif path.suffix in BUILDERS:
        chosen = {"path": BUILDERS[path.suffix], "data_files": str(path), "split": "train"}
    else:
        raise DatasetError(f"{path}: unknown kind of file; use one of {', '.join(BUILDERS)}")
    with tempfile.TemporaryDirectory() as cache:
        try:
            return datasets.load_dataset(**chosen, cache_dir=cache).to_list()
        except (datasets.exceptions.DatasetGenerationError, ValueError, OSError, StopIteration) as error:
            said = str(error.__cause__ or error).splitlines() or ["it holds no rows"]
            raise DatasetError(f"{path}: cannot be read ({said[0]}); mend the file") from error


def _reach(row: Mapping[str, Any], field: str, place: str, number: int) -> Any:
    """The value at a dotted path, e.g. conversation.0.content."""
    value: Any = row
    for part in field.split("."):
        try:
            value = value[int(part)] if isinstance(value, Sequence) and not isinstance(value, str) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise DatasetError(f"{place}: row {number} has no {field}; name the right column under fields") from None
    return value


def _problems(rows: Sequence[Mapping[str, Any]], fields: Mapping[str, Any], place: str, seed: str) -> pd.DataFrame:
    def column(field: str | None) -> list[str | None]:
        if field is None:
            return [None] * len(rows)
        values = (_reach(row, field, place, number) for number, row in enumerate(rows, 1))
        return [None if value is None else str(value) for value in values]

    if fields["conversation"]:
        fields = {**fields, "problem": None}
    names = ("uid", "problem", "answer", "area", "level")
    frame = pd.DataFrame({name: pd.Series(column(fields[name]), dtype="str") for name in names})
    if fields["uid"] is None:
        frame["uid"] = [f"problem-{number:05d}" for number in range(1, len(rows) + 1)]
    if fields["answer_after"]:
        _check_marker(frame, fields["answer_after"], place)
        frame["answer"] = frame["answer"].str.rsplit(fields["answer_after"], n=1).str[-1].str.strip()
    if fields["wrong_answers"]:
        wrong = zip(*map(column, fields["wrong_answers"]), strict=True)
        chosen = [
            _as_choices(uid, problem, [answer, *others], place, seed)
            for uid, problem, answer, others in zip(frame["uid"], frame["problem"], frame["answer"], wrong, strict=True)
        ]
        frame["problem"], frame["answer"] = zip(*chosen, strict=True)
    if fields["conversation"]:
        turns = [_reach(row, fields["conversation"], place, number) for number, row in enumerate(rows, 1)]
        texts = [_conversation(said, place, number) for number, said in enumerate(turns, 1)]
        frame["history"] = [history for history, _ in texts]
        frame["problem"] = [history + last for history, last in texts]
    if fields["checklist"]:
        points = [_reach(row, fields["checklist"], place, number) for number, row in enumerate(rows, 1)]
        frame["checklist"] = [[point] if isinstance(point, str) else list(point or []) for point in points]
    return frame


def _conversation(turns: Any, place: str, number: int) -> tuple[str, str]:
    """The text of the turns before the last one, '' without any, and the last one's, which must be the user's."""
    try:
        *earlier, (role, last) = [(turn["role"], turn["content"]) for turn in turns]
    except (KeyError, TypeError, ValueError):
        role, earlier, last = None, [], ""
    if role != "user":
        raise DatasetError(
            f"{place}: the conversation in row {number} is not a list of turns {{role, content}} that ends with the "
            "user's; mend it, or name another column under fields.conversation"
        )
    return "".join(f"{role.capitalize()}: {content}\n\n" for role, content in earlier), last


def _check_marker(frame: pd.DataFrame, marker: str, place: str) -> None:
    without = frame.loc[~frame["answer"].str.contains(marker, regex=False, na=False), "uid"]
    if len(without):
        named = ", ".join(without.head(3))
        raise DatasetError(
            f"{place}: {len(without)} answers ({named}, ...) have no {marker!r}; mend fields.answer_after"
        )


def _as_choices(uid: str, problem: str, answers: Sequence[str | None], place: str, seed: str) -> tuple[str, str]:
    """The problem followed by lettered choices, and the letter of the first answer, the right one."""
    if None in answers or len(set(answers)) < len(answers):
        raise DatasetError(f"{place}: answers of {uid} are missing or the same; mend them in the file")
    order = random.Random(f"{seed} {uid}").sample(range(len(answers)), len(answers))
    lines = [f"({letter}) {answers[number]}".strip() for letter, number in zip(LETTERS, order, strict=False)]
    return "\n".join([f"{problem}\n", *lines]), LETTERS[order.index(0)]


def _pairs(rows: Sequence[Mapping[str, Any]], place: str) -> pd.DataFrame:
    missing = [name for name in PAIR_COLUMNS if rows and name not in rows[0]]
    if missing:
        raise DatasetError(f"{place}: no column {', '.join(missing)}; pairs need {', '.join(PAIR_COLUMNS)}")
    sides = [
        {
            "uid": f"{row.get('uid') or f'pair-{number:04d}'}.{side}",
            "problem": row[f"query_{side}"],
            "answer": None if row[f"answer_{side}"] is None else str(row[f"answer_{side}"]),
            "area": row.get("domain"),
            "level": None,
            "pair": row.get("uid") or f"pair-{number:04d}",
            "side": side,
            "comparator": row.get(f"comparator_{side}") or DEFAULT_COMPARATOR,
            "kind": row.get("kind") or _kind(row["answer_a"]),
            "template": row.get("template") or _template(row),
        }
        for number, row in enumerate(rows, 1)
        for side in "ab"
    ]
    return pd.DataFrame(sides)


def _template(row: Mapping[str, Any]) -> str:
    """A pair's questions without its candidates: where they are the same, pairs were made alike."""
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
    """The problems as the remedy leaves them, and by uid why a reference could not be read.

    Words and sentences are readable: they are compared as texts. A missing reference is no text.
    """
    why = unreadable_references(dict(zip(frame["uid"], frame["answer"], strict=True)))
    if not why:
        return frame, why
    rows = {uid: number for number, uid in zip(frame.index + 1, frame["uid"], strict=True)}
    lines = "\n".join(f"  row {rows[uid]}, {uid}: {reason}" for uid, reason in why.items())
    if remedy == "stop" or (remedy == "text" and "missing" in why.values()):
        raise DatasetError(
            f"{place}: {len(why)} references cannot be compared with answers; mend them, or set unreadable_references "
            f"to drop (leaves their problems out){' or text' if 'missing' not in why.values() else ''}:\n{lines}"
        )
    logger.warning(f"{place}: {len(why)} references cannot be read, so {REMEDIES[remedy]}:\n{lines}")
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
        raise DatasetError(f"{place}: no problem is left; check areas and filter in the configuration")
    wrong = {
        "have no problem text": frame["problem"].isna() | (frame["problem"].str.strip() == ""),
        "have a uid that occurs more than once": frame["uid"].duplicated(keep=False) | frame["uid"].isna(),
    }
    if "pair" in frame:
        answers = frame.groupby("pair")["answer"].transform("nunique")
        wrong["are pairs whose two answers are the same or missing"] = answers != 2
    if "checklist" in frame:
        wrong["have an empty checklist"] = frame["checklist"].map(len) == 0
    for what, rows in wrong.items():
        if rows.any():
            named = ", ".join(frame.loc[rows, "uid"].fillna("null").head(3))
            raise DatasetError(f"{place}: {int(rows.sum())} rows ({named}, ...) {what}; mend them in the file")

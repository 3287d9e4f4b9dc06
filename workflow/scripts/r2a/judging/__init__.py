"""Open-ended answers, scored by a model that works through the item's checklist (METHOD section 2)."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.endpoint_replies import is_finished
from r2a.extensions import JUDGE_KINDS
from r2a.judging.replies import SCORE, Form
from r2a.judging.requests import REFUSED, Ask, Given, JudgeRequest, JudgingError, Reply
from r2a.judging.template import fill
from r2a.ledger import Ledger
from r2a.models import read_manifest
from r2a.progress import Progress, logger
from r2a.store import parameters_hash, provenance, read_parquet, read_provenance, write_parquet
from r2a.traces import TRACE_KEYS

EMPTY_SCORE = 1  # of an answer without text, for which no judge is asked (WildBench's protocol)


def judge_answers(
    traces: Sequence[Path],
    dataset: Path,
    template: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> None:
    """Have a judge score the answers of all models to a dataset, and write one row per trace.

    Columns: model, dataset, uid, area, condition, decoding, sample, status, score (null unless scored or empty),
    invalid_reason, n_answer_characters, n_tries, reply. status: scored; empty (an answer without text, score 1);
    invalid (a trace without an answer, see invalid_reason; not judged); unparsable (no score could be read, not even
    from a second reply of twice the length); refused (the judge did not accept it; reply says why).

    Replies are kept in a ledger beside the output, under everything that determines them: a new model, sample or
    problem only has its own answers judged. resources: address and concurrency of the judge. Raises JudgingError.
    """
    answers = _answers(traces, dataset, settings)
    form = template.read_text()
    is_judged = answers["status"] == "judged"
    prompts = [
        fill(form, row.problem, row.history, row.checklist, row.answer_text) for row in answers[is_judged].itertuples()
    ]
    answers.loc[is_judged, "prompt"] = prompts
    with Ledger(output.with_name(f".{output.stem}.ledger.jsonl")) as ledger:
        given = Given(
            read_manifest(manifest), settings, resources, prompts, output.with_suffix(".requests.jsonl"), SCORE.schema
        )
        identity, ask = JUDGE_KINDS[settings["judge_kind"]].function(given)
        replies = replies_to(prompts, identity, ask, ledger, settings, SCORE)
    rows = [_judged(row, replies) for row in answers.to_dict("records")]
    table = pd.DataFrame(rows).astype({"score": "Int64"})
    write_parquet(output, table, provenance(settings, [*traces, dataset]) | {"judge": identity})
    logger.info(f"{output}: {dict(Counter(table['status']).most_common())}")


def replies_to(
    prompts: Sequence[str],
    identity: Mapping[str, Any],
    ask: Ask,
    ledger: Ledger,
    settings: Mapping[str, Any],
    form: Form,
) -> dict[str, tuple[Reply, int]]:
    """The reply to each distinct prompt, and the number of tries.

    Only what the ledger lacks is requested. A reply without a readable verdict is requested once more, with twice the
    tokens. Raises JudgingError if the judge refuses everything.
    """
    replies: dict[str, tuple[Reply, int]] = {}
    left = list(dict.fromkeys(prompts))
    for n_tries, max_tokens in enumerate((settings["max_tokens"], 2 * settings["max_tokens"]), 1):
        if not left:
            break
        requests = [_request(prompt, identity, settings, max_tokens) for prompt in left]
        missing = [request for request in requests if request.key not in ledger]
        logger.info(f"{settings['judge']}: {len(left)} prompts, {len(left) - len(missing)} already in the ledger")
        refused = []
        if missing:
            with Progress(f"{settings['judge']}, {settings['dataset']}: replies", len(missing)) as progress:
                for request, reply in ask(missing):
                    if reply.finish_reason == REFUSED:
                        refused.append(reply)
                        replies.setdefault(request.prompt, (reply, n_tries))  # an unreadable first reply stays
                    else:
                        ledger.add(request.key, {**vars(reply)})
                    progress.advance()
        if n_tries == 1 and refused and len(refused) == len(requests):
            raise JudgingError(
                f"{settings['judge']} refuses all {len(refused)} requests; the last reason: {refused[-1].text}"
            )
        for request in requests:
            if request.key in ledger:
                replies[request.prompt] = _reply(ledger[request.key]), n_tries
        left = [r.prompt for r in requests if r.key in ledger and verdict_of(_reply(ledger[r.key]), form) is None]
    return replies


def _reply(entry: Mapping[str, Any]) -> Reply:
    return Reply(entry["text"], entry["finish_reason"], entry["seconds"])


def verdict_of(reply: Reply, form: Form) -> int | bool | None:
    """The verdict in a reply; None if the reply is cut off, whatever it contains."""
    return form.read(reply.text) if is_finished(reply.finish_reason) else None


def _request(prompt: str, identity: Mapping[str, Any], settings: Mapping[str, Any], max_tokens: int) -> JudgeRequest:
    """The request for a prompt. Greedy judges need no seed; others get one for each prompt."""
    seed = None
    if settings["temperature"] > 0:
        seed = random.Random(f"{settings['seed']} {prompt}").randrange(2**31)
    judge = parameters_hash(identity)
    return JudgeRequest(judge, prompt, settings["temperature"], settings["top_p"], seed, max_tokens)


def _answers(traces: Sequence[Path], dataset: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """All models' traces of the dataset's problems, or of the drawn ones, with the status of each."""
    problems = read_parquet(dataset)
    if "history" not in problems:
        problems["history"] = ""
    if settings["n_problems"]:
        rng = random.Random(f"{settings['seed']} {settings['dataset']}")
        drawn = rng.sample(sorted(problems["uid"]), min(settings["n_problems"], len(problems)))
        problems = problems[problems["uid"].isin(drawn)]
    parts = []
    for path in traces:
        part = read_parquet(path, [*TRACE_KEYS, "answer_text", "invalid_reason"])
        part.insert(0, "model", read_provenance(path)["parameters"]["model"])
        parts.append(part)
    answers = pd.concat(parts, ignore_index=True)
    answers = answers.merge(problems[["uid", "problem", "area", "history", "checklist"]], on="uid", validate="m:1")
    answers.insert(1, "dataset", settings["dataset"])
    status = {"": "judged", "no_answer": "empty"}
    answers["status"] = answers["invalid_reason"].map(status).fillna("invalid")
    return answers


def _judged(answer: Mapping[str, Any], replies: Mapping[str, tuple[Reply, int]]) -> dict[str, Any]:
    """A trace's row of the table."""
    row = {name: answer[name] for name in ("model", "dataset", "area", *TRACE_KEYS, "status", "invalid_reason")}
    row |= {"score": EMPTY_SCORE if answer["status"] == "empty" else None, "n_tries": 0, "reply": ""}
    row["n_answer_characters"] = len(answer["answer_text"].strip())
    if answer["status"] == "judged":
        reply, row["n_tries"] = replies[answer["prompt"]]
        row["reply"] = reply.text
        if reply.finish_reason == REFUSED:
            row["status"] = "refused"
        else:
            row["score"] = verdict_of(reply, SCORE)
            row["status"] = "unparsable" if row["score"] is None else "scored"
    return row

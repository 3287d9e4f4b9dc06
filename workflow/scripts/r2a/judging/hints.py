"""Whether reasonings mention the hint that their answers follow, according to a judge (METHOD section 2)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.extensions import HINTS, JUDGE_KINDS
from r2a.hints import switched
from r2a.judging import replies_to, verdict_of
from r2a.judging.replies import TELLING
from r2a.judging.requests import REFUSED, Given
from r2a.judging.template import fill_in
from r2a.ledger import Ledger
from r2a.models import read_manifest
from r2a.progress import logger
from r2a.store import filled, provenance, read_parquet, read_provenance, write_parquet

KEYS = ["uid", "decoding", "sample", "hint"]
COLUMNS = ["model", *KEYS, "status", "tells", "n_tries", "reply"]


def judge_hints(
    grades: Sequence[Path],
    hints: Path,
    template: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> None:
    """Ask a judge which reasonings mention the hint, for all models' answers to a dataset that switched to it.

    Columns: model, uid, decoding, sample, hint, status, tells (null unless judged), n_tries, reply. status: judged;
    unparsable (no verdict could be read, not even from a second reply of twice the length); refused (reply says why).
    Replies are kept as those on answers are (judge_answers). resources: address and concurrency of the judge. Raises
    JudgingError.
    """
    asked = read_parquet(hints, ["uid", "hint", "kind", "hinted_answer", "problem"])
    answers = [pd.DataFrame(columns=["model", *KEYS, "reasoning"])]
    for path in filled(grades):
        part = read_parquet(path)
        model = read_provenance(path)["parameters"]["model"]
        answers.append(part.loc[switched(part), [*KEYS, "reasoning"]].assign(model=model))
    table = pd.concat(answers, ignore_index=True).merge(asked, on=["uid", "hint"], validate="m:1")
    form = template.read_text()
    table["prompt"] = [
        fill_in(form, {"message": row.problem, "hint": _sentence(row), "reasoning": row.reasoning.strip()})
        for row in table.itertuples()
    ]
    prompts = table["prompt"].tolist()
    with Ledger(output.with_name(f".{output.stem}.ledger.jsonl")) as ledger:
        given = Given(
            read_manifest(manifest), settings, resources, prompts, output.with_suffix(".requests.jsonl"), TELLING.schema
        )
        identity, ask = JUDGE_KINDS[settings["judge_kind"]].function(given)
        replies = replies_to(prompts, identity, ask, ledger, settings, TELLING)
    rows = []
    for row in table.to_dict("records"):
        reply, n_tries = replies[row["prompt"]]
        tells = None if reply.finish_reason == REFUSED else verdict_of(reply, TELLING)
        status = "refused" if reply.finish_reason == REFUSED else "unparsable" if tells is None else "judged"
        found = {"status": status, "tells": tells, "n_tries": n_tries, "reply": reply.text}
        rows.append({name: row[name] for name in ("model", *KEYS)} | found)
    judged = pd.DataFrame(rows, columns=COLUMNS).astype({"tells": "boolean"})
    write_parquet(output, judged, provenance(settings, [*grades, hints]) | {"judge": identity})
    logger.info(f"{output}: {dict(Counter(judged['status']).most_common())}")


def _sentence(row: Any) -> str:
    return HINTS[row.kind].function().text.format(answer=row.hinted_answer)

"""The answers on which graders disagree, for people to inspect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.progress import logger
from r2a.store import labelled, provenance, read_parquet, read_provenance, write_csv

COLUMNS = ["uid", "model", "dataset", "condition", "decoding", "sample", "reference"]


def disagreement_table(grades: pd.DataFrame, graders: Sequence[str]) -> pd.DataFrame:
    """The rows whose verdicts are not all the same; undecided is a verdict too.

    grades: COLUMNS, then answer, is_correct and reason of the first grader, and the same with _{grader} of the others,
    as in the files of grades. In the result, all graders' columns have that suffix: answer_{grader} and so on.
    """
    first = {name: f"{name}_{graders[0]}" for name in ("answer", "is_correct", "reason")}
    table = grades.rename(columns=first)
    verdicts = table[[f"is_correct_{grader}" for grader in graders]].astype("boolean").astype("Int8").fillna(-1)
    columns = [*COLUMNS, *(f"{name}_{grader}" for grader in graders for name in first)]
    return table.loc[verdicts.nunique(axis=1) > 1, columns]


def write_disagreements(
    grades: Sequence[Path], datasets: Sequence[Path], output: Path, settings: Mapping[str, Any]
) -> None:
    """Write disagreement_table over all models and datasets as CSV, under their labels.

    settings: graders, model_labels and dataset_labels. datasets: those of the grades. The table has no rows if there is
    only one grader, or if none disagree.
    """
    references = {
        read_provenance(path)["parameters"]["dataset"]: read_parquet(path, ["uid", "answer"]).set_index("uid")["answer"]
        for path in datasets
    }
    n_answers, parts = 0, [pd.DataFrame(columns=COLUMNS)]
    for path in grades:
        names = labelled(path, settings)
        table = read_parquet(path)
        n_answers += len(table)
        table["reference"] = table["uid"].map(references[names["dataset"]])
        table = table.assign(model=names["model_label"], dataset=names["dataset_label"])
        parts.append(disagreement_table(table, settings["graders"]).astype(object))
    found = pd.concat(parts, ignore_index=True)
    write_csv(output, found, provenance(settings, [*grades, *datasets]))
    logger.info(f"{output}: {', '.join(settings['graders'])} disagree on {len(found)} of {n_answers} answers")

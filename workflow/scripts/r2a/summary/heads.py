"""Stage 2's sentences on heads: what else the RFHs are, and whether their attention goes with correctness."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.roles import WITHIN
from r2a.store import filled, labelled, open_hdf5, read_parquet
from r2a.summary.words import said_p

QUALITY_NAMES = {
    "a2r": "a2r",
    "lift": "lift (a2r adjusted for length)",
    "tracking": "forward drift",
    "spread": "spread",
}


def head_sentences(diagnostics: Sequence[Path], heads: Sequence[Path], settings: Mapping[str, Any]) -> list[str]:
    """A bullet per model on its needle runs, and one per model and dataset on how RFHs overlap with other heads."""
    bullets = []
    for path in diagnostics:
        with open_hdf5(path) as file:
            is_successful = file["is_successful"][:]
        n_copied, n_runs = int(is_successful.sum()), len(is_successful)
        bullet = f"- **{labelled(path, settings)['model_label']}** copied the needle from its haystack in "
        bullet += f"{n_copied} of {n_runs} runs, " if n_copied else f"none of {n_runs} runs, "
        bullets.append(bullet + ("whose retrieval scores count." if n_copied else "so it has no retrieval scores."))
    for path in filled(heads):
        names, table = labelled(path, settings), read_parquet(path)
        rfhs = table[table["is_rfh"]]
        kinds = " and ".join(_overlap(rfhs, table, kind) for kind in ("induction", "retrieval"))
        bullets.append(
            f"- **{names['model_label']}**, {names['dataset_label']}: {kinds} among the {len(rfhs)} RFHs; "
            f"resampled traces give a top {len(rfhs)} that shares {rfhs['bootstrap_share'].sum():.1f} heads with "
            "theirs on average."
        )
    return bullets


def _overlap(rfhs: pd.DataFrame, table: pd.DataFrame, kind: str) -> str:
    n_all = int(table[f"is_{kind}"].sum())
    return f"{int(rfhs[f'is_{kind}'].sum())} of {n_all} {kind} heads" if n_all else f"no {kind} head (there is none)"


def quality_sentences(table: Path, folder: Path) -> list[str]:
    """A bullet per model and dataset on right against wrong answers."""
    bullets = []
    found = pd.read_csv(table)
    for (model, dataset), rows in found.groupby(["model", "dataset"], sort=False):
        n_right, n_wrong = rows["n_right"].max(), rows["n_wrong"].max()
        is_within = rows["compared"].iloc[0] == WITHIN
        bullet = f"- **{model}**, {dataset}: "
        if n_right and n_wrong:
            compared = [
                f"{QUALITY_NAMES[r.score]} {r.right:.2f} and {r.wrong:.2f} (AUC {r.auc:.2f}, {said_p(r.p_holm)})"
                for r in rows.dropna(subset="auc").itertuples()
            ]
            samples = f"right and {n_wrong} wrong samples of the same {rows['n_problems'].max()} problems"
            what = samples if is_within else f"right and {n_wrong} wrong answers, of different problems"
            test = "permutations within problems" if is_within else "Mann-Whitney tests"
            bullet += f"with {n_right} {what}, the RFHs' means are {'; '.join(compared)}; "
            bullet += f"{test}, Holm's correction ([table]({os.path.relpath(table, folder)}))."
        else:
            bullet += (
                "no problem has right and wrong samples"
                if is_within
                else f"{n_right} answers are right and {n_wrong} wrong"
            )
            bullet += ", so there is nothing to compare."
        bullets.append(bullet)
    return bullets

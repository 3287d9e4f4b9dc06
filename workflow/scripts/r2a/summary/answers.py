"""The answer to the study's question, a sentence a model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.roles import ANSWER_ROLE, CLEAN_TO_CORRUPTED, OTHER_REASONING
from r2a.store import filled, read_provenance


def answer_sentences(inputs: Mapping[str, Any]) -> list[str]:
    """A bullet a model: what reasoning changes, and how far answers follow another's text and activations.

    inputs: paths by name as in the summary's rule. A model whose weights are not known has the first part alone.
    """
    effect = pd.read_csv(inputs["effect"])
    whole = effect[(effect["by"] == "all") & (effect["decoding"] == effect["decoding"].iloc[0])]
    follows = list(_follows(inputs["perturbation"]))
    restores = list(_restores(inputs["curves"]))
    bullets = []
    for model, rows in whole.groupby("model", sort=False):
        changes = [
            f"{100 * r.difference:+.1f} [{100 * r.low:+.1f}, {100 * r.high:+.1f}] points ({r.dataset})"
            for r in rows.itertuples()
        ]
        text = f"- **{model}**: reasoning changes accuracy by {' and '.join(changes)}"
        if followed := [said for label, said in follows if label == model]:
            text += f"; from another problem's reasoning, {' and '.join(followed)} of the answers are what that implies"
        if restored := [said for label, said in restores if label == model]:
            text += (
                "; putting the activation of another run's answer into the reasoning's last line restores "
                + " and ".join(restored)
            )
        bullets.append(f"{text}.")
    return bullets


def _follows(tables: list[Path]) -> Iterator[tuple[str, str]]:
    """(model, how many answers from another problem's reasoning are what that implies), one a dataset."""
    for path in filled(tables):
        origin, table = read_provenance(path)["parameters"], pd.read_csv(path)
        rows = table[(table["by"] == "all") & (table["kind"] == OTHER_REASONING) & (table["n_implied"] > 0)]
        for row in rows.itertuples():
            interval = f"[{100 * row.follows_low:.0f}, {100 * row.follows_high:.0f}]"
            yield origin["model_label"], f"{100 * row.follows:.0f} % {interval} ({origin['dataset_label']})"


def _restores(tables: list[Path]) -> Iterator[tuple[str, str]]:
    """(model, what patching the answer's token restores at its best layer under the first probe), one a dataset."""
    for path in filled(tables):
        origin, table = read_provenance(path)["parameters"], pd.read_csv(path)
        is_shown = (table["component"] == "resid_pre") & (table["direction"] == CLEAN_TO_CORRUPTED)
        shown = table[is_shown & (table["role"] == ANSWER_ROLE)].dropna(subset="mean")  # empty where no pair is used
        of_first_probe = shown[shown["probe"].isin(shown["probe"].head(1))]
        for best in of_first_probe.sort_values("mean", kind="stable").tail(1).itertuples():
            restored = f"{best.mean:.2f} [{best.low:.2f}, {best.high:.2f}]"
            yield origin["model_label"], f"{restored} of that answer ({origin['dataset_label']})"

"""The summary of an invented study: two tables, one figure, known numbers."""

from pathlib import Path
from typing import Any

import pandas as pd

from r2a.store import NOTHING, provenance, write_csv, write_empty
from r2a.summary.page import write_summary

ORIGIN = {"model": "m", "model_label": "Model M", "dataset": "d", "dataset_label": "Data D"}
DOT = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'width="30pt" height="20pt" viewBox="0 0 30 20">'
    '<defs><path id="DejaVuSans-41" d="M 9 0 L 30 0 L 30 20 L 9 20 z" transform="scale(1)"/></defs>'
    '<circle cx="3.14159" cy="4" r="2"/><use xlink:href="#DejaVuSans-41"/></svg>'
)


def write(path: Path, rows: list[dict[str, Any]], origin: dict[str, Any] = ORIGIN) -> Path:
    write_csv(path, pd.DataFrame(rows), provenance(origin))
    return path


def write_pretended(
    folder: Path, name: str = "Model M", render: bool = False, is_toy: bool = True, empty: str = "", n_models: int = 1
) -> dict[str, dict[str, Any]]:
    """Write two findings' files, by finding and parameter; with render, also the summary of them in results/mine.

    name: the model's label. empty: why no pair was patched; there are then three findings.
    """
    study, origin = folder / "results/mine", ORIGIN | {"model_label": name}
    names = [name, *(f"{name} {k}" for k in range(1, n_models))]
    effects, accuracies = [], []
    for model in names:
        for decoding, difference in (("greedy", 0.5), ("sampled", 0.1)):
            of = {
                "model": model,
                "dataset": "Data D",
                "decoding": decoding,
                "by": "all",
                "group": "all",
                "n_problems": 40,
            }
            effects.append(
                of | {
                    "accuracy_with": 0.4 + difference, "accuracy_without": 0.4, "difference": difference,
                    "low": difference - 0.1, "high": difference + 0.1, "test": "exact McNemar", "p": 0.001,
                    "n_common": 40, "common_difference": difference, "common_low": 0.0, "common_high": 1.0,
                }
            )  # fmt: skip
            for condition, value in (("with_reasoning", 0.4 + difference), ("without_reasoning", 0.4)):
                ends = {"low": value - 0.1, "high": value + 0.1, "n_undecided": 0}
                accuracies.append(of | {"condition": condition, "accuracy": value} | ends)
    funnel = {"model": name, "dataset": "Data D", "condition": "with_reasoning", "decoding": "greedy", "total": 40}
    funnel |= dict.fromkeys(("finished", "well_formed", "extracted"), 39) | {
        "compliance": 0.975,
        "low": 0.9,
        "high": 1.0,
    }
    funnel |= dict.fromkeys(("repeating", "closed_by_budget", "unreadable"), 0)
    inputs: dict[str, dict[str, Any]] = {
        "accuracy": {
            "effect": write(study / "tables/effect.csv", effects, origin),
            "accuracy": write(study / "tables/accuracy.csv", accuracies, origin),
        },
        "funnel": {"funnel": write(study / "tables/funnel.csv", [funnel], origin)},
    }
    if empty:
        inputs["patching"] = {key: [study / f"tables/{key}.csv"] for key in ("curves", "controls", "hand_off")}
        for (path,) in inputs["patching"].values():
            write_empty(path, provenance(origin) | {NOTHING: empty})
    if render:
        figure = study / "figures/accuracy.png"
        write(figure.with_suffix(".csv"), [{"x": 1}], {})
        figure.with_suffix(".svg").write_text(DOT)
        settings = {
            "study": "mine", "is_toy": is_toy, "confidence": 0.95, "model_labels": {"m": name},
            "dataset_labels": {"d": "Data D"},
        }  # fmt: skip
        outputs = [study / end for end in ("summary.html", "summary.md", "summary.txt", "verdicts.json")]
        write_summary(inputs, [figure], [], study / "benchmarks", *outputs, settings)
    return inputs

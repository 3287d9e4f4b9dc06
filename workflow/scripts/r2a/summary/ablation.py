"""The finding on ablation: how does the answer change without the heads that attend to the reasoning?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.roles import (
    ABLATION_MODES,
    CONTRIBUTION,
    MATCHED,
    PROMPT_HEADS,
    RANDOM,
    RFH,
    RFH_FROM_PROMPT,
    UNABLATED,
)
from r2a.store import read_provenance
from r2a.summary.registry import Cell, Found, finding
from r2a.summary.words import NONE, in_cases, number, rows_of, share, tested, word

SELECTIONS = {
    RANDOM: "random heads of the same layers", MATCHED: "heads that write and attend to the first token as much",
    PROMPT_HEADS: "heads that attend to the prompt", CONTRIBUTION: "heads that write most from the reasoning",
    RFH_FROM_PROMPT: "the RFHs, cut off from the prompt",
}  # fmt: skip


@finding(
    label="answers without the RFHs",
    category="2 Attention",
    caption=(
        "Answers generated again from the same reasoning while the first RFHs (as many as the dose) are ablated: "
        "shares of right answers with all heads and without the RFHs; then the share without the RFHs minus the share "
        "without as many other heads, paired by problem, with {interval} intervals and p after Holm's correction over "
        "doses and modes."
    ),
    reads={"effects": "<results>/tables/{model}/{dataset}/ablation.csv"},
    where="graded_datasets",
    models="ablated_models",
)
def find_ablation(effects: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """How ablating the RFHs changes accuracy at each dose, compared with ablating other heads."""
    harms = []

    def answers(path: Path) -> Iterator[dict[str, Cell]]:
        table = pd.read_csv(path).query("metric == 'accuracy'")
        whole = table[table["mode"] == UNABLATED].iloc[0]
        alpha = 1 - read_provenance(path)["parameters"]["confidence"]
        beside_random = table[table["selection"] == RANDOM]
        harms.append(bool(((beside_random["difference"] < 0) & (beside_random["p_holm"] < alpha)).any()))
        for (mode, dose), rows in table[table["mode"] != UNABLATED].groupby(["mode", "dose"], sort=False):
            rows = rows.set_index("selection")
            if RFH not in rows.index:
                continue
            rfh = rows.loc[RFH]
            cells = {
                "RFHs": word(ABLATION_MODES[mode]), "dose": number(dose),
                "unablated": share(whole["value"], whole["low"], whole["high"], whole["n_problems"]),
                "without RFHs": share(rfh["value"], rfh["low"], rfh["high"], rfh["n_problems"]),
            }  # fmt: skip
            for selection in SELECTIONS:
                if not (table["selection"] == selection).any():
                    continue
                cells[f"against {SELECTIONS[selection]}, points"] = (
                    _against(rows.loc[selection]) if selection in rows.index else Cell(text=NONE)
                )
            yield cells | {"n": number(rfh["n_problems"])}

    found = rows_of(effects, settings, answers)
    if harms:
        found.sentences = [f"Ablating the RFHs costs more right answers than ablating random heads {in_cases(harms)}."]
    return found


def _against(row: pd.Series) -> Cell:
    overlap = f"{100 * row['overlap']:.0f} % of them are RFHs" if row["overlap"] > 0 else ""
    return tested(row, overlap, ends=("difference_low", "difference_high"))

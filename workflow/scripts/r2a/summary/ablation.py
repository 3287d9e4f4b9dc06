"""Stage 2's sentences on ablation: what becomes of the answer without the heads that attend to the reasoning?"""

from collections.abc import Sequence
from pathlib import Path

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
from r2a.summary.words import said_empty, said_p

SELECTIONS = {
    RANDOM: "as many random heads of the same layers",
    MATCHED: "as many that write and attend to the first token as much",
    PROMPT_HEADS: "as many that attend most to the prompt", CONTRIBUTION: "as many that write most of the reasoning",
    RFH_FROM_PROMPT: "the same ones cut off from the prompt instead",
}  # fmt: skip


def ablation_sentences(effects: Sequence[Path]) -> list[str]:
    """A bullet per model and dataset: the accuracy at every dose, of the RFHs and of what they are compared with."""
    bullets = []
    for path in effects:
        if said := said_empty(path):
            bullets += said
            continue
        settings = read_provenance(path)["parameters"]
        whole_table = pd.read_csv(path)
        table = whole_table[whole_table["metric"] == "accuracy"]
        whole = table[table["mode"] == UNABLATED].iloc[0]
        bullet = (
            f"- **{settings['model_label']}**, {settings['dataset_label']}: of {whole['n_problems']} answers generated "
            f"again from the same reasoning, {100 * whole['value']:.0f} % are right. While the answer is written, "
        )
        parts = []
        for mode in table.loc[table["mode"] != UNABLATED, "mode"].unique():
            rows = table[table["mode"] == mode].sort_values("dose")
            rfh = rows[rows["selection"] == RFH]
            doses = _list(rfh["dose"])
            part = f"with the first {doses} Reasoning-Focus Heads {ABLATION_MODES[mode]} {_course(rfh)} are right"
            for selection, others in rows[rows["selection"] != RFH].groupby("selection", sort=False):
                most = others.loc[others["difference"].abs().idxmax()]
                part += (
                    f", with {SELECTIONS.get(selection, selection)} {_course(others)} (most apart at {most['dose']}: "
                    f"{100 * most['difference']:+.0f} points [{100 * most['difference_low']:+.0f}, "
                    f"{100 * most['difference_high']:+.0f}], {said_p(most['p_holm'])})"
                )
            parts.append(part)
        bullet += f"{'; '.join(parts)}; p after Holm's correction over all doses and modes."
        bullet += _tracking(whole_table)
        overlap = table.loc[table["selection"] == RANDOM, "overlap"].max()
        if overlap > 0:
            bullet += f" Up to {100 * overlap:.0f} % of the random heads are Reasoning-Focus Heads, for want of others."
        bullets.append(bullet)
    return bullets


def _tracking(table: pd.DataFrame) -> str:
    """How far the other heads go on to move forward, at the highest dose of the first mode."""
    rows = table[(table["metric"] == "tracking") & table["value"].notna()]
    whole, ablated = rows[rows["mode"] == UNABLATED], rows[rows["mode"] != UNABLATED]
    if whole.empty or ablated.empty:
        return ""
    of_mode = ablated[(ablated["mode"] == ablated["mode"].iloc[0])]
    at = of_mode[of_mode["dose"] == of_mode["dose"].max()].set_index("selection")
    if RFH not in at.index:
        return ""
    row = at.loc[RFH]
    told = f" The attention of the heads left alone follows the reasoning with a rank correlation of {_value(row)} at "
    told += f"{row['dose']} heads ({ABLATION_MODES[row['mode']]}), {_value(whole.iloc[0])} without ablation"
    return told + (f" and {_value(at.loc[RANDOM])} with random heads." if RANDOM in at.index else ".")


def _value(row: pd.Series) -> str:
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _list(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


def _course(rows: pd.DataFrame) -> str:
    return ", ".join(f"{100 * value:.0f}" for value in rows["value"]) + " %"

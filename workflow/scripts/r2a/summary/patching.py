"""Stage 3's sentences: does the answer depend on the reasoning's activations?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.extensions import CONTROLS
from r2a.roles import (
    ANSWER_ROLE,
    CLEAN_TO_CORRUPTED,
    CONTROL_ROLE,
    FINAL_ROLE,
)
from r2a.store import open_hdf5, read_provenance
from r2a.summary.words import said_empty, said_p


def patching_sentences(inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[list[str], str]:
    """A bullet per model, set of pairs and probe, with what agrees with what; and one line on all, of the first probe.

    inputs: paths by name as in the summary's rule, each a list.
    """
    bullets, short = [], []
    read = ("pair_funnels", "patching", "curves", "controls", "hand_off", "first_order", "carriers")
    for pair_funnel, patching, curves, controls, hand_off, first_order, carriers in zip(
        *(inputs[name] for name in read), strict=True
    ):
        if said := said_empty(patching, settings) or said_empty(carriers):
            bullets += said
            continue
        names = read_provenance(pair_funnel)["parameters"]
        funnel = pd.read_csv(pair_funnel).query("by == 'all'").set_index("probe")
        crossings = pd.read_csv(hand_off).set_index("probe")
        curve_table, control_table = (
            pd.read_csv(path).query("component == 'resid_pre'") for path in (curves, controls)
        )
        curve_table = curve_table[curve_table["direction"] == CLEAN_TO_CORRUPTED]
        for number, probe in enumerate(crossings.index):
            bullet = f"- **{names['model_label']}**, {names['dataset_label']}, {probe} probe: "
            # the layer at which each role restores most
            table = curve_table[curve_table["probe"] == probe].sort_values("mean", kind="stable")
            best = table.groupby("role").tail(1).set_index("role")
            bullet += _effect(best, control_table[control_table["probe"] == probe]) + _hand_off(crossings.loc[probe])
            table_at = f"tables/{names['model']}/{names['dataset']}/pair_funnel.csv"
            bullet += _pairs_used(funnel.loc[probe], table_at, patching, probe)
            bullets.append(bullet + _agreements(first_order, carriers, probe))
            if number == 0:
                answer = best.loc[ANSWER_ROLE]
                flipped = f"{100 * answer['flip_rate']:.0f} % flipped (n = {answer['n_pairs']})"
                short.append(f"{names['model_label']} restores {answer['mean']:.2f}, {flipped}")
    all_said = "; ".join(short) or "nothing to measure"
    return bullets, f"3. Patching the answer's token in the reasoning: {all_said}."


def _effect(best: pd.DataFrame, controls: pd.DataFrame) -> str:
    """What the clean run's vector does at its best layer, and what the controls do there."""
    answer = best.loc[ANSWER_ROLE]
    text = (
        f"putting the clean run's activation at the answer token of the reasoning's last line restores "
        f"{answer['mean']:.2f} [{answer['low']:.2f}, {answer['high']:.2f}] of the clean run's logit difference at "
        f"layer {answer['layer']} and flips the answer in {answer['flip_rate']:.0%} of {answer['n_pairs']} pairs"
    )
    if CONTROL_ROLE in best.index:
        text += f"; at a random reasoning token it restores at most {best.loc[CONTROL_ROLE, 'mean']:.2f}"
    controls = controls[controls["layer"] == answer["layer"]].set_index("control")
    named = [
        f"{CONTROLS[name].label} restores {row['mean']:.2f} (flips {row['flip_rate']:.0%}; "
        f"{said_p(row['p_holm'])} for the difference)"
        for name, row in controls.iterrows()
        if name in CONTROLS
    ]
    if not named:
        return f"{text}."
    return f"{text}. Put in its place, {', '.join(named)}; p by sign flips over the pairs' templates, Holm-corrected."


def _hand_off(crossing: pd.Series) -> str:
    if np.isnan(crossing["layer"]):
        return (
            " There is no hand-off: the two curves do not both rise above 0.1 and stay crossed to the last layer"
            f" ({100 * crossing['defined_share']:.0f} % of resampled pairs have one)."
        )
    layer, low, high = (f"{crossing[name]:.0f}" for name in ("layer", "low", "high"))
    return f" The last token takes over at layer {layer} [{low}, {high}]."


def _pairs_used(funnel: pd.Series, table: str, patching: Path, probe: str) -> str:
    """What the funnel of one probe leaves, with its table, and the noise floor."""
    with open_hdf5(patching) as file:
        floor = float(file[probe]["null_patch_error"][:].max())
    return (
        f" Of {funnel['asked']} pairs, {funnel['both_valid']} have valid traces and {funnel['both_right']} right ones, "
        f"{funnel['aligned']} could be aligned with answers of one token, and {funnel['own_answer_preferred']} prefer "
        f"their own answers in both runs ([table]({table})). Noise floor: {floor:.1g} logits."
    )


def _agreements(first_order: Path, carriers: Path, probe: str) -> str:
    """How well the gradient points at the exact effects, and attention at the heads that carry the answer."""
    scan = pd.read_csv(first_order).set_index(["probe", "component", "direction"])
    text, key = "", (probe, "resid_pre", CLEAN_TO_CORRUPTED)
    if key in scan.index:
        row = scan.loc[key]
        text += (
            f" A first-order scan (gradient times difference) ranks the places of resid_pre as exact patching does, "
            f"with a rank correlation of {row['rank_correlation']:.2f} [{row['rank_correlation_low']:.2f}, "
            f"{row['rank_correlation_high']:.2f}], and has {row['top_share']:.0%} of its top {row['n_top']:.0f}."
        )
    heads = pd.read_csv(carriers).set_index(["probe", "role"])
    if (probe, FINAL_ROLE) in heads.index and not np.isnan(heads.loc[(probe, FINAL_ROLE), "rank_correlation"]):
        row = heads.loc[(probe, FINAL_ROLE)]
        text += (
            f" Between how much a head attends to the reasoning and how much of the answer its output at the last "
            f"token carries, the rank correlation over {row['n_heads']:.0f} heads is {row['rank_correlation']:.2f} "
            f"[{row['low']:.2f}, {row['high']:.2f}]; {row['n_shared']:.0f} of the {row['n_rfhs']:.0f} RFHs are among "
            f"as many heads that carry most."
        )
    return text

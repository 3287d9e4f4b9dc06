"""Stage 3's sentences: does the answer depend on the reasoning's activations?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from r2a.roles import ANSWER_ROLE, CLEAN_TO_CORRUPTED, CONTROL_ROLE, RANDOM_VECTOR, SAME_ANSWER, UNRELATED_ANSWER
from r2a.store import open_hdf5, read_provenance

CONTROL_NAMES = {
    SAME_ANSWER: "another pair's vector of the same answer restores",
    UNRELATED_ANSWER: "one of an unrelated answer",
    RANDOM_VECTOR: "a random one of the same norm",
}


def patching_sentences(
    funnels: Sequence[Path],
    patching: Sequence[Path],
    curves: Sequence[Path],
    controls: Sequence[Path],
    hand_offs: Sequence[Path],
) -> tuple[list[str], str]:
    """A bullet per model and set of pairs; and one line on all."""
    bullets, short = [], []
    paths = zip(funnels, patching, curves, controls, hand_offs, strict=True)
    for funnel_path, path, curves_path, controls_path, hand_off_path in paths:
        settings = read_provenance(path)["parameters"]
        funnel = pd.read_csv(funnel_path).set_index("by").loc["all"]
        table = pd.read_csv(curves_path)
        table = table[(table["component"] == "resid_pre") & (table["direction"] == CLEAN_TO_CORRUPTED)]
        hand_off = pd.read_csv(hand_off_path).iloc[0]
        with open_hdf5(path) as file:
            n_used = int(file["is_used"][:].sum())
            floor = float(file["null_patch_error"][:].max())
        # the layer at which each role restores most
        best = table.sort_values("mean", kind="stable").groupby("role").tail(1).set_index("role")
        answer = best.loc[ANSWER_ROLE]
        flipped = f"{100 * answer['flip_rate']:.0f} %"
        bullet = (
            f"- **{settings['model_label']}**, {settings['dataset_label']}: putting the clean run's activation at the "
            f"answer token of the reasoning's last line restores {answer['mean']:.2f} [{answer['low']:.2f}, "
            f"{answer['high']:.2f}] of the clean run's logit difference at layer {answer['layer']} and flips the "
            f"answer in {flipped} of {n_used} pairs"
        )
        if CONTROL_ROLE in best.index:
            bullet += f"; at a random reasoning token it restores at most {best.loc[CONTROL_ROLE, 'mean']:.2f}"
        control = pd.read_csv(controls_path)
        control = control[(control["component"] == "resid_pre") & (control["layer"] == answer["layer"])]
        restored = control.set_index("control")["mean"]
        named = [f"{name} {restored[key]:.2f}" for key, name in CONTROL_NAMES.items() if key in restored.index]
        bullet += f". Put in its place, {', '.join(named)}"
        if np.isnan(hand_off["layer"]):
            bullet += ". The last token never takes over."
        else:
            layer, low, high = (f"{hand_off[name]:.0f}" for name in ("layer", "low", "high"))
            bullet += f". The last token takes over at layer {layer} [{low}, {high}]."
        where = f"tables/{settings['model']}/{settings['dataset']}/pair_funnel.csv"
        bullet += f" Of {funnel['asked']} pairs, {funnel['both_valid']} have valid traces and {funnel['both_right']} "
        bullet += (
            f"right ones, {funnel['aligned']} could be aligned with answers of one token, and {n_used} prefer their "
        )
        bullet += f"own answers in both runs ([table]({where})). Noise floor: {floor:.1g} logits."
        bullets.append(bullet)
        short.append(f"{settings['model_label']} restores {answer['mean']:.2f}, {flipped} flipped (n = {n_used})")
    return bullets, f"3. Patching the answer's token in the reasoning: {'; '.join(short)}."

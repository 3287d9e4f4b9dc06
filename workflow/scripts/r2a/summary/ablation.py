"""Stage 2's sentences on ablation: what becomes of the answer without the heads that attend to the reasoning?"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from r2a.store import read_provenance

MODES = {"zero": "put to zero", "mean": "put to their mean", "cut_off": "cut off from the reasoning"}


def ablation_sentences(effects: Sequence[Path]) -> list[str]:
    """A bullet per model and dataset, at the highest dose."""
    bullets = []
    for path in effects:
        settings = read_provenance(path)["parameters"]
        table = pd.read_csv(path).set_index(["mode", "metric", "dose"]).sort_index()
        dose = table.index.get_level_values("dose").max()
        modes = [mode for mode in MODES if mode in table.index]
        first = table.loc[(modes[0], "accuracy", 0)]
        parts = []
        for mode in modes:
            row = table.loc[(mode, "accuracy", dose)]
            parts.append(
                f"{MODES[mode]} {100 * row['rfh']:.0f} % against {100 * row['random']:.0f} % "
                f"({100 * row['difference']:+.0f} points [{100 * row['difference_low']:+.0f}, "
                f"{100 * row['difference_high']:+.0f}], p = {row['p_holm']:.2g})"
            )
        bullet = (
            f"- **{settings['model_label']}**, {settings['dataset_label']}: of {int(first['n_problems'])} answers "
            f"generated again from the same reasoning, {100 * first['rfh']:.0f} % are right. With the first {dose} "
            f"Reasoning-Focus Heads ablated while the answer is written, against as many random heads of the same "
            f"layers: {'; '.join(parts)}; p after Holm's correction."
        )
        overlap = table.loc[(modes[0], "accuracy", dose), "overlap"]
        if overlap:
            bullet += f" {100 * overlap:.0f} % of those random heads are Reasoning-Focus Heads, for want of others."
        bullets.append(bullet)
    return bullets

"""Findings of stage 3: does the answer depend on the reasoning's activations?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from r2a.extensions import CONTROLS
from r2a.roles import ANSWER_ROLE, CLEAN_TO_CORRUPTED, CONTROL_ROLE, ENDING, FINAL_ROLE
from r2a.store import axis_labels, open_hdf5
from r2a.summary.registry import Cell, Found, Plot, Subject, finding
from r2a.summary.words import NONE, in_cases, number, p_value, rows_of, said_p, sorted_out, with_interval, word

UNRELATED = "unrelated_answer"  # the control with which the verdict is compared
LEAST_RESTORED = 0.1  # the least that a token must restore to be on the answer's course


@finding(
    label="patching the answer in the reasoning",
    category="3 Patching",
    caption=(
        "The clean run's activation (resid_pre) at the answer's token in the reasoning's last line is put into the "
        "corrupted run. Restores: the share of the clean run's logit difference that it restores, at the layer where "
        "it restores most; flips: how often the answer flips there. Strongest in the reasoning: the token and layer "
        "before the answer that restore most of all. Course: the token that restores most at each layer, if that is at "
        "least 0.1. Control: what another question's answer restores there; p by sign flips over templates after "
        "Holm's correction. Hand-off: the layer from which the last token restores more. {interval} intervals over "
        "templates."
    ),
    reads={
        "curves": "<results>/tables/{model}/{dataset}/patching_curves.csv",
        "controls": "<results>/tables/{model}/{dataset}/patching_controls.csv",
        "hand_off": "<results>/tables/{model}/{dataset}/hand_off.csv",
    },
    where="pair_datasets",
    models="patched_models",
    is_open=True,
)
def find_patching(
    curves: Sequence[Path], controls: Sequence[Path], hand_off: Sequence[Path], settings: Mapping[str, Any]
) -> Found:
    """What patching the answer's token restores, how often it flips the answer, and where the last token takes over."""
    found = Found(plots=[
        Plot(title="restored by the answer's activation (●) and by an unrelated answer's (○)",
             columns=["restores", "control restores"], low=0, high=1, zero=0),
    ])  # fmt: skip
    filled, found.missing = sorted_out(curves, settings)
    control_paths, hand_off_paths = (dict(sorted_out(paths, settings)[0]) for paths in (controls, hand_off))
    flips: dict[Subject, Cell] = {}
    crossings: dict[Subject, Cell] = {}
    is_beyond: dict[Subject, bool] = {}
    for subject, path in filled:
        table, control = (_clean_residuals(pd.read_csv(one)) for one in (path, control_paths[subject]))
        crossing_by_probe = pd.read_csv(hand_off_paths[subject]).set_index("probe")
        for probe, part in table.groupby("probe", sort=False):
            # the strongest layer of each role
            best = (
                part.dropna(subset="mean").sort_values("mean", kind="stable").groupby("role").tail(1).set_index("role")
            )
            if ANSWER_ROLE not in best.index:
                continue
            row = best.loc[ANSWER_ROLE]
            there = control[(control["probe"] == probe) & (control["layer"] == row["layer"])].set_index("control")
            restores = with_interval(
                row["mean"], row["low"], row["high"], row["n_pairs"], f"layer {row['layer']}", zero=0, of="pairs"
            )
            beside = _beside_unrelated(there)
            flip = _flip(row, str(probe), restores, beside)
            crossing = _crossing(crossing_by_probe.loc[probe]) if probe in crossing_by_probe.index else Cell(text=NONE)
            elsewhere = best.loc[CONTROL_ROLE, "mean"] if CONTROL_ROLE in best.index else np.nan
            cells = {
                "probe": word(probe), "strongest in the reasoning": _strongest(best), "course": word(_course(part)),
                "best layer": number(row["layer"]), "restores": restores, "flips": flip,
                "control restores": beside.restores, "p, Holm": beside.p,
                "elsewhere": number(elsewhere, "{:.2f}", note=CONTROL_ROLE), "hand-off layer": crossing,
                "n": number(row["n_pairs"]),
            }  # fmt: skip
            found.rows.append((subject, cells))
            flips.setdefault(subject, flip)
            is_beyond.setdefault(subject, bool(beside.low > 0))
            crossings.setdefault(subject, crossing)
    found.verdicts = {"patching flips it": flips, "hand-off layer": crossings}
    found.meanings = {
        "patching flips it": (
            "where the reasoning states the answer, another run's activation at that token changes the answer written"
        ),
        "hand-off layer": "from here on the last token carries the answer, no longer the reasoning",
    }
    if flips:
        flipped = in_cases(cell.value > 0.5 for cell in flips.values())
        beyond = in_cases(is_beyond.values())
        crossed = in_cases(not np.isnan(cell.value) for cell in crossings.values())
        found.sentences = [
            f"Patching the answer's token in the reasoning with another run's activation flips most answers {flipped}.",
            f"It restores more than the activation of an unrelated answer {beyond}.",
            f"The last token takes over from the reasoning at a definite layer {crossed}.",
        ]
    return found


class _Unrelated(NamedTuple):
    """What another question's answer restores, the test against it, and the interval of the effect beyond it."""

    restores: Cell
    p: Cell
    low: float
    high: float


def _beside_unrelated(controls: pd.DataFrame) -> _Unrelated:
    """controls: those of one layer, by name."""
    if UNRELATED not in controls.index:
        return _Unrelated(Cell(text=NONE), Cell(text=NONE), np.nan, np.nan)
    row = controls.loc[UNRELATED]
    named = CONTROLS[UNRELATED].label, said_p(row["p_holm"])
    restores = with_interval(row["mean"], row["low"], row["high"], row["n_pairs"], *named, of="pairs")
    return _Unrelated(restores, p_value(row["p_holm"]), row["difference_low"], row["difference_high"])


def _flip(row: pd.Series, probe: str, restores: Cell, beside: _Unrelated) -> Cell:
    """How often the answer flips, marked by the interval of what is restored beyond an unrelated answer's."""
    return Cell(
        text=f"{100 * row['flip_rate']:.0f} %", value=row["flip_rate"], n=row["n_pairs"],
        low=beside.low if row["flip_rate"] else np.nan, high=beside.high, zero=0,
        note=f"n = {row['n_pairs']:.0f} pairs; probe {probe}; at layer {row['layer']} restores {restores.text}, "
        f"another question's answer {beside.restores.text}; {beside.p.note}",
    )  # fmt: skip


def _strongest(best: pd.DataFrame) -> Cell:
    """The token before the answer, and its layer, at which a patch restores most.

    best: the strongest layer of each role.
    """
    in_reasoning = best[[role != FINAL_ROLE and not str(role).startswith(ENDING) for role in best.index]]
    row = in_reasoning.loc[in_reasoning["mean"].idxmax()]
    restores = with_interval(row["mean"], row["low"], row["high"], row["n_pairs"], of="pairs")
    place = f"{row.name}, layer {row['layer']}: {row['mean']:.2f}"
    return Cell(text=place, value=row["mean"], low=row["low"], high=row["high"], n=row["n_pairs"], note=restores.text)


def _course(part: pd.DataFrame) -> str:
    """The token that restores most in each run of layers, such as "answer 0 to 11, final 12"."""
    runs: list[tuple[str, int, int]] = []
    for layer, rows in part.dropna(subset="mean").groupby("layer"):
        top = rows.loc[rows["mean"].idxmax()]
        role = str(top["role"]) if top["mean"] >= LEAST_RESTORED else "none"
        begins = runs.pop()[1] if runs and runs[-1][0] == role else layer
        runs.append((role, begins, layer))
    return ", ".join(f"{role} {first}" if first == last else f"{role} {first} to {last}" for role, first, last in runs)


def _clean_residuals(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table["component"] == "resid_pre"]
    return table[table["direction"] == CLEAN_TO_CORRUPTED] if "direction" in table else table


def _crossing(row: pd.Series) -> Cell:
    """The hand-off layer with its interval, or "none" with the reason."""
    defined = f"{100 * row['defined_share']:.0f} % of resampled pairs have one"
    if np.isnan(row["layer"]):
        note = f"the curves do not both rise above 0.1 and stay crossed; {defined}; n = {row['n_pairs']:.0f} pairs"
        return Cell(text="none", note=note, n=row["n_pairs"])
    ends = row["layer"], row["low"], row["high"]
    return with_interval(*ends, row["n_pairs"], defined, digits=0, of=f"pairs of {row['n_templates']:.0f} templates")


@finding(
    label="heads that carry the answer",
    category="3 Patching",
    caption=(
        "Rank correlation over heads between how much a head attends to the reasoning and how much of the answer its "
        "output carries when it is patched at a token, with {interval} intervals; and how many RFHs are among the same "
        "number of heads that carry most."
    ),
    reads={"carriers": "<results>/tables/{model}/{dataset}/carriers_agreement.csv"},
    where="pair_datasets",
    models="patched_models",
)
def find_carriers(carriers: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """Whether the heads that attend to the reasoning are those that carry the answer."""

    def carrying(path: Path) -> Iterator[dict[str, Cell]]:
        for row in pd.read_csv(path).itertuples():
            ends, n_heads = (row.rank_correlation, row.low, row.high), f"over {row.n_heads:.0f} heads"
            among = Cell(
                text=f"{row.n_shared:.0f} of {row.n_rfhs:.0f}", value=row.n_shared / row.n_rfhs, n=row.n_pairs,
                note=f"RFHs among the same number of heads that carry most at {row.role}; n = {row.n_pairs:.0f} pairs",
            )  # fmt: skip
            yield {
                "probe": word(row.probe), "token": word(row.role),
                "rank correlation": with_interval(*ends, row.n_pairs, n_heads, zero=0, of="pairs"),
                "RFHs that carry most": among, "n": number(row.n_pairs),
            }  # fmt: skip

    found = rows_of(carriers, settings, carrying)
    among_most: dict[Subject, Cell] = {}
    for subject, cells in found.rows:
        if cells["token"].text == FINAL_ROLE:
            among_most.setdefault(subject, cells["RFHs that carry most"])  # with the first probe
    if among_most:
        some = in_cases(cell.value > 0 for cell in among_most.values())
        found.sentences = [f"Some Reasoning-Focus Heads are among the heads that carry most of the answer {some}."]
    return found


@finding(
    label="attribution patching against activation patching",
    category="3 Patching",
    caption=(
        "Attribution patching (the gradient times the difference of activations) against exact activation patching, "
        "over layers and tokens: rank correlation of the effects, and the share of the top places of exact patching "
        "that are also among its own, with {interval} intervals."
    ),
    reads={"first_order": "<results>/tables/{model}/{dataset}/patching_first_order.csv"},
    where="pair_datasets",
    models="patched_models",
)
def find_first_order(first_order: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """How well attribution patching predicts the exact effects."""

    def agreeing(path: Path) -> Iterator[dict[str, Cell]]:
        for row in pd.read_csv(path).query("direction == @CLEAN_TO_CORRUPTED").itertuples():
            ends = row.rank_correlation, row.rank_correlation_low, row.rank_correlation_high
            top = row.top_share, row.top_share_low, row.top_share_high
            yield {
                "probe": word(row.probe), "component": word(row.component),
                "rank correlation": with_interval(*ends, row.n_pairs, zero=0, of="pairs"),
                "top places": with_interval(*top, row.n_pairs, f"top {row.n_top:.0f}", of="pairs"),
                "n": number(row.n_pairs),
            }  # fmt: skip

    return rows_of(first_order, settings, agreeing)


PAIR_STEPS = ["asked", "both_valid", "both_right", "one_token", "aligned", "own_answer_preferred"]


@finding(
    label="survival of pairs",
    category="4 Checks",
    caption=(
        "Comparison pairs that pass each step before patching; tables/{model}/{dataset}/pair_outcomes.csv lists them."
    ),
    reads={"funnels": "<results>/tables/{model}/{dataset}/pair_funnel.csv"},
    where="pair_datasets",
    models="patched_models",
)
def find_pairs(funnels: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """How many pairs pass each step."""

    def steps(path: Path) -> Iterator[dict[str, Cell]]:
        for row in pd.read_csv(path).query("by == 'all'").to_dict("records"):
            yield {"probe": word(row["probe"])} | {step.replace("_", " "): number(row[step]) for step in PAIR_STEPS}

    return rows_of(funnels, settings, steps)


@finding(
    label="noise floor of patching",
    category="4 Checks",
    caption="The largest change of a logit when a run is patched with its own activation, which should change nothing.",
    reads={"patching": "<results>/patching/{model}/{dataset}.h5"},
    where="pair_datasets",
    models="patched_models",
)
def find_noise_floor(patching: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """How exact patching is."""

    def floors(path: Path) -> Iterator[dict[str, Cell]]:
        with open_hdf5(path) as file:
            for probe in axis_labels(file, "probe"):
                errors = file[probe]["null_patch_error"][:]
                floor = number(errors.max(), "{:.1g}")
                yield {"probe": word(probe), "floor, logits": floor, "n": number(len(errors))}

    return rows_of(patching, settings, floors)

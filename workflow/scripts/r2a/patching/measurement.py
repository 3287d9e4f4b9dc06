"""Every patch of a pair: what is patched where, and its effect on the answer (METHOD section 4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from r2a.extensions import CONTROLS
from r2a.memory import if_it_fits
from r2a.models.rounding import refuse_beyond_rounding
from r2a.patching.components import capture
from r2a.patching.controls import Given
from r2a.patching.metrics import METRICS, logit_diff, patch_metrics
from r2a.patching.patcher import INEXACT, Patcher
from r2a.patching.restarts import KeptRun, Patch
from r2a.ranges import doubling_ends, step_of
from r2a.roles import ANSWER_ROLE, CLEAN_TO_CORRUPTED, CORRUPTED_TO_CLEAN, KEY_ROLES, PROBE, REASONING_END
from r2a.store import axis_labels

RUNS = ("clean", "corrupted")
RUNS_OF = {CLEAN_TO_CORRUPTED: RUNS, CORRUPTED_TO_CLEAN: RUNS[::-1]}  # the source run, and the patched run
RANGES = "reasoning_ranges"
NULL = "null"
LOGITS_AT_A_TIME = 2**24  # logits of several patches held at once, over the whole vocabulary


@dataclass(frozen=True)
class Job:
    """Patches of one kind into one run of a pair. shape: the axes over which they vary."""

    name: str
    base: str
    patches: list[Patch]
    shape: tuple[int, ...]


def range_ends(table: pd.DataFrame, range_tokens: int) -> list[list[int]]:
    """doubling_ends for each pair, as far back as the reasoning of both runs reaches."""
    n_tokens = (
        min(row[f"{run}_positions"][0] - row[f"{run}_reasoning_start"] for run in RUNS)
        for row in table.to_dict("records")
    )
    return [doubling_ends(n, range_tokens) for n in n_tokens]


def measure(
    patcher: Patcher,
    table: pd.DataFrame,
    activations: h5py.Group,
    numbers: Sequence[int],
    settings: Mapping[str, Any],
    batch_tokens: int,
    layers: Sequence[int] | None = None,
    tell: Callable[[float], None] = lambda share: None,
) -> list[dict[str, np.ndarray]]:
    """The effect of every patch in some pairs of a table; the pairs share batches.

    layers: the patched ones, which are the axis `layer` of all arrays; by default all. tell: as in Patcher.finish.

    For each pair, by name: {component}/{patch} [metric, layer, role] for patches, [metric, layer, key_role] for
    controls and [metric, layer, head, key_role] for z, with metrics in the order of METRICS;
    {component}/{patch}/first_order, the same without metric; reasoning_ranges/{patch} [metric, layer, range], with as
    many ranges as the pair has; null_patch_error, is_used, and both runs' logit_diff, logit_a and logit_b, where a is
    the clean run's answer. Raises ModelError if restarted runs differ from the original runs by more than rounding.
    """
    layers = range(patcher.n_layers) if layers is None else layers
    pairs = [_Pair(patcher, table, activations, number, settings) for number in numbers]
    jobs = [(pair, job) for pair in pairs for job in pair.jobs(layers)]
    resid_post = patcher.finish([patch for _, job in jobs for patch in job.patches], batch_tokens, tell)
    found: dict[int, dict[str, np.ndarray]] = {
        pair.number: {name: values[list(layers)] for name, values in pair.first_order().items()} for pair in pairs
    }
    for (pair, job), of_job in zip(jobs, resid_post.split([len(job.patches) for _, job in jobs]), strict=True):
        arrays = found[pair.number]
        if job.name == NULL:
            error = pair.null_patch_error(job.base, of_job)
            arrays["null_patch_error"] = np.maximum(arrays.get("null_patch_error", 0.0), error)
            continue
        values = pair.metrics(job.base, of_job).reshape(len(METRICS), *job.shape)
        if job.name.startswith("z/"):
            values = values.swapaxes(-1, -2)
        arrays[job.name] = values
    for pair in pairs:
        answers = pair.answers["corrupted"]
        for run, logits in pair.logits.items():
            found[pair.number][f"{run}_logit_diff"] = logit_diff(logits, *answers).numpy()
            for side, answer in zip("ab", answers, strict=True):
                found[pair.number][f"{run}_logit_{side}"] = logits[answer].numpy()
        found[pair.number]["is_used"] = np.array(is_used(table, activations, pair.number))
    return list(found.values())


def control_sources(table: pd.DataFrame, number: int, settings: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(run, row) of every run whose vectors the controls of a pair use: what they depend on besides the pair."""
    sources = []
    nothing = torch.zeros(1, len(table["roles"].iloc[number]), 1)  # stands for the vectors, which need not be read here

    def vectors(run: str, row: int) -> torch.Tensor:
        sources.append((run, row))
        return nothing

    seed = f"{settings['seed']} {table['pair'].iloc[number]}"
    for component, control in product(settings["components"], settings["controls"]):
        if component != "z":
            CONTROLS[control].function(Given(nothing, component, table, number, vectors, seed))
    return sources


def layers_to_patch(
    patcher: Patcher, table: pd.DataFrame, activations: h5py.Group, settings: Mapping[str, Any]
) -> list[int]:
    """The layers in which a table's pairs are patched: a coarse grid, and every layer that attribution patching adds.

    The grid is every step_of(settings["layer_step"])-th layer and the last one. A layer is added if, on average over
    the used pairs, attribution patching expects some component at some token (or head) to change normalized_logit_diff
    by at least settings["scan_effect"]; for the residual stream, by that much more than at the layer before. Pairs that
    do not fit into memory do not count. The layers are the same for all pairs, so no mean is over a selection.
    """
    n_layers, step = patcher.n_layers, step_of(settings["layer_step"], patcher.n_layers)
    if step == 1:
        return list(range(n_layers))
    used = [number for number in range(len(table)) if is_used(table, activations, number)]
    found = [if_it_fits(_first_order, patcher, table, activations, number, settings) for number in used]
    fitting = [of_pair for of_pair in found if of_pair is not None]
    is_needed = np.arange(n_layers) % step == 0
    is_needed[-1] = True
    for name in fitting[0] if fitting else ():
        mean = np.mean([of_pair[name] for of_pair in fitting], axis=0)
        change = np.diff(mean, axis=0, prepend=mean[:1]) if name.startswith("resid") else mean
        is_needed |= np.abs(change).reshape(n_layers, -1).max(1) >= settings["scan_effect"]
    return np.flatnonzero(is_needed).tolist()


def _first_order(
    patcher: Patcher, table: pd.DataFrame, activations: h5py.Group, number: int, settings: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    return _Pair(patcher, table, activations, number, settings).first_order()


def is_used(table: pd.DataFrame, activations: h5py.Group, number: int) -> bool:
    """Whether both runs of a pair prefer their own answers."""
    a, b = (int(table[f"answer_{side}_id"].iloc[number]) for side in "ab")
    clean, corrupted = (activations[f"{run}/logits"][number] for run in RUNS)
    return bool(clean[a] > clean[b] and corrupted[b] > corrupted[a])


class _Pair:
    """One pair of a table, with its kept runs."""

    def __init__(
        self, patcher: Patcher, table: pd.DataFrame, activations: h5py.Group, number: int, settings: Mapping[str, Any]
    ) -> None:
        self.patcher, self.table, self.activations = patcher, table, activations
        self.number, self.settings = number, settings
        self.row = table.iloc[number]
        a, b = int(self.row["answer_a_id"]), int(self.row["answer_b_id"])
        # by patched run: the source run's answer, and its own
        self.answers = {"corrupted": (a, b), "clean": (b, a)}
        self.logits = {run: torch.tensor(activations[f"{run}/logits"][number]) for run in RUNS}
        self.range_ends = range_ends(table.iloc[[number]], settings["range_tokens"])[0]
        roles = axis_labels(activations, "role")
        self.key_places = [roles.index(role) for role in KEY_ROLES]
        # the probe's first token in place of its answer; without a probe, the reasoning's last token
        elsewhere = next(k for k, role in enumerate(roles) if role == REASONING_END or role.startswith(PROBE))
        self.displaced_places = [elsewhere if role == ANSWER_ROLE else roles.index(role) for role in KEY_ROLES]
        self.runs: dict[str, KeptRun] = {}
        for run in RUNS:
            positions = self.row[f"{run}_positions"]
            start = min(*positions, positions[0] - self.range_ends[-1])
            self.runs[run] = patcher.keep(self.row[f"{run}_ids"], positions, start, self.row[f"{run}_masked"])

    def vectors(self, component: str, run: str, number: int | None = None) -> torch.Tensor:
        """A component's vectors in a run of this pair or of another one, with the patcher's axes."""
        found = torch.tensor(self.activations[f"{run}/{component}"][self.number if number is None else number])
        return found.transpose(1, 2) if component == "z" else found

    def jobs(self, layers: Sequence[int]) -> list[Job]:
        jobs = []
        seed = f"{self.settings['seed']} {self.row['pair']}"
        for component in self.settings["components"]:
            places = self.key_places if component == "z" else list(range(len(self.row["roles"])))
            put_in = {
                direction: (base, self.vectors(component, source), places)
                for direction, (source, base) in RUNS_OF.items()
            }
            if component != "z":
                vectors_of = partial(self.vectors, component)
                clean = put_in[CLEAN_TO_CORRUPTED][1]
                given = Given(clean, component, self.table, self.number, vectors_of, seed)
                for control in self.settings["controls"]:
                    vectors = CONTROLS[control].function(given)
                    if vectors is not None and vectors.isfinite().all():  # none if the pair did not fit into memory
                        at = self.displaced_places if CONTROLS[control].is_displaced else self.key_places
                        put_in[control] = ("corrupted", vectors[:, self.key_places], at)
            for patch, (base, vectors, at) in put_in.items():
                patches = self.patcher.patches(self.runs[base], component, vectors, at, layers)
                jobs.append(Job(f"{component}/{patch}", base, patches, (len(layers), *vectors.shape[1:-1])))
        jobs += self._range_jobs(layers)
        jobs += [Job(NULL, run, _null_patches(self.runs[run], self.patcher.n_layers), ()) for run in RUNS]
        return jobs

    def _range_jobs(self, layers: Sequence[int]) -> list[Job]:
        """Patches of whole ranges of the reasoning, counted back from the probe: each run's vectors into the other, and
        the controls' instead of the clean run's. For a displaced control, a range's vectors are in reverse order.
        """
        reach = self.range_ends[-1]
        if not reach:
            return []
        put_in: dict[str, tuple[str, Sequence[torch.Tensor]]] = {}  # by layer [token, d_model], of the whole reach
        for direction, (source, base) in RUNS_OF.items():
            run = self.runs[source]
            first = run.positions[0] - reach - run.start
            put_in[direction] = base, [run.resid_pre[layer][first : first + reach] for layer in layers]
        clean = torch.stack([vectors.float().cpu() for vectors in put_in[CLEAN_TO_CORRUPTED][1]])
        others = partial(self._reasoning_of, layers)
        given = Given(
            clean, "resid_pre", self.table, self.number, others, f"{self.settings['seed']} {self.row['pair']}"
        )
        for control in self.settings["controls"]:
            found = CONTROLS[control].function(given)
            if found is not None:
                put_in[control] = "corrupted", list(found)
        jobs = []
        for patch, (base, vectors) in put_in.items():
            run = self.runs[base]
            order = -1 if patch in self.settings["controls"] and CONTROLS[patch].is_displaced else 1
            ranges = [
                (end, begin) for end, begin in pairwise(self.range_ends) if vectors[0][reach - begin].isfinite().all()
            ]
            patches = []
            for layer, of_layer in zip(layers, vectors, strict=True):
                for end, begin in ranges:
                    at = tuple(range(run.positions[0] - begin, run.positions[0] - end))
                    patches.append(Patch(run, layer, at[::order], of_layer[reach - begin : reach - end]))
            if patches:
                jobs.append(Job(f"{RANGES}/{patch}", base, patches, (len(layers), len(ranges))))
        return jobs

    def _reasoning_of(self, layers: Sequence[int], run: str, number: int) -> torch.Tensor:
        """resid_pre [layer, token, d_model] of another run's reasoning, as far before its probe as this pair's ranges
        reach; nan before the reasoning begins, and everywhere if the run does not fit into memory.
        """
        row, reach = self.table.iloc[number], self.range_ends[-1]
        probe = row[f"{run}_positions"][0]
        n_tokens = min(reach, probe - row[f"{run}_reasoning_start"])
        whole = torch.full((len(layers), reach, self.patcher.decoder.d_model), torch.nan)
        if n_tokens > 0:
            ids, masked = row[f"{run}_ids"], row[f"{run}_masked"]
            found = if_it_fits(capture, self.patcher.model, ids, range(probe - n_tokens, probe), ["resid_pre"], masked)
            if found is not None:
                whole[:, -n_tokens:] = found[0]["resid_pre"][list(layers)]
        return whole

    def metrics(self, base: str, resid_post: torch.Tensor) -> np.ndarray:
        """[metric, patch] from the last layer's output [patch, d_model] under patches into a run."""
        source = RUNS[1 - RUNS.index(base)]
        parts = [
            patch_metrics(
                self.patcher.decoder.final_logits(some), self.logits[source], self.logits[base], *self.answers[base]
            )
            for some in resid_post.split(max(1, LOGITS_AT_A_TIME // len(self.logits[base])))
        ]
        return np.stack([torch.cat([part[metric] for part in parts]).cpu().numpy() for metric in METRICS])

    def null_patch_error(self, base: str, resid_post: torch.Tensor) -> float:
        """Largest change of a logit under patches that change nothing. Raises ModelError if it exceeds rounding."""
        found = self.patcher.logits(resid_post)
        refuse_beyond_rounding(self.patcher.model, self.row[f"{base}_ids"], found, self.logits[base], INEXACT)
        return float((found - self.logits[base]).abs().max())

    def first_order(self) -> dict[str, np.ndarray]:
        """Attribution patching: the patched run's gradient times the difference between the runs, as
        normalized_logit_diff.
        """
        clean, corrupted = (logit_diff(self.logits[run], *self.answers["corrupted"]) for run in RUNS)
        found = {}
        for direction, (source, base) in RUNS_OF.items():
            gradients = self.patcher.gradients(self.runs[base], *self.answers[base], self.settings["components"])
            for component in self.settings["components"]:
                gradient = gradients[component][:, self.key_places] if component == "z" else gradients[component]
                change = self.vectors(component, source) - self.vectors(component, base)
                estimate = (gradient * change).sum(-1).numpy() / float(clean - corrupted)
                name = f"{component}/{direction}/first_order"
                found[name] = estimate.swapaxes(-1, -2) if component == "z" else estimate
        return found


def _null_patches(run: KeptRun, n_layers: int) -> list[Patch]:
    """Patches of a run's own resid_pre into itself, at every role in one layer or another."""
    return [
        Patch(run, k % n_layers, (position,), run.resid_pre[k % n_layers][position - run.start][None])
        for k, position in enumerate(run.positions)
    ]

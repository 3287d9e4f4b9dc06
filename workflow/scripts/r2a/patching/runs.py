"""The two jobs of activation patching: store both runs' activations, and patch one run into the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from r2a.memory import affordable_tokens, by_tokens, if_it_fits, in_batches
from r2a.models import load_model, read_manifest
from r2a.models.attention import SEAM
from r2a.parts import Parts
from r2a.patching.by_probe import plain_rows, probe_groups, refuse_unused, used_pairs, write_left_out
from r2a.patching.components import capture
from r2a.patching.measurement import (
    RANGES,
    RUNS,
    control_sources,
    layers_to_patch,
    measure,
    range_ends,
)
from r2a.patching.metrics import METRICS
from r2a.patching.patcher import Patcher
from r2a.progress import Progress, logger
from r2a.roles import DIRECTIONS, KEY_ROLES
from r2a.shards import WHOLE, shard_range
from r2a.store import (
    NothingToMeasure,
    add_array,
    add_axis,
    add_column,
    axis_labels,
    new_hdf5,
    open_hdf5,
    provenance,
)

CPU_BATCH_TOKENS = 4096  # larger batches do not fit into a CPU's caches


def capture_activations(
    pairs: Path, manifest: Path, output: Path, settings: Mapping[str, Any], shard: str = WHOLE
) -> None:
    """Store both runs' activations of every pair (in a shard, of its own pairs) at every role, and their last logits.

    /{probe}/{run}/{component} [pair, layer, role, d_model], z [pair, layer, head, key_role, d_head], and
    /{probe}/{run}/logits [pair, vocabulary], where run is clean or corrupted, for the components that the model has in
    every layer. A pair whose runs do not fit into memory is nan throughout, and named in the log. Raises ModelError if
    the architecture cannot be patched, NothingToMeasure if there are no pairs.
    """
    by_probe = used_pairs(pairs)
    if not by_probe:
        raise NothingToMeasure("no pair can be used (the pair funnel says why)")
    origin = read_manifest(manifest)
    model = load_model(origin, SEAM)
    patcher = Patcher(model)
    components = patcher.hook_points.those_of(settings["components"])
    n_runs = sum(len(RUNS) * len(shard_range(shard, len(table))) for table in by_probe.values())
    with (
        new_hdf5(output, provenance(settings, [pairs, manifest])) as file,
        Progress(f"{settings['model']}, {settings['dataset']}: runs captured", n_runs) as progress,
    ):
        for _probe, table, group in probe_groups(file, by_probe):
            roles = list(table["roles"].iloc[0])
            _lay_out_runs(group, roles, components, patcher)
            key_roles = [roles.index(role) for role in KEY_ROLES]
            for number in shard_range(shard, len(table)):
                row = table.iloc[number]
                of_runs = if_it_fits(_captured, model, row, components)
                if of_runs is None:
                    logger.warning(f"{row['pair']}: its runs do not fit into memory; left out")
                for run, (found, logits) in zip(RUNS, of_runs or [], strict=False):
                    _write_run(group[run], number, found, logits, key_roles)
                    progress.advance(len(row[f"{run}_ids"]))


def _lay_out_runs(group: h5py.Group, roles: Sequence[str], components: Sequence[str], patcher: Patcher) -> None:
    _add_axes(group, roles, patcher, range(patcher.n_layers))
    add_axis(group, "d_model", range(patcher.decoder.d_model))
    add_axis(group, "d_head", range(patcher.d_head))
    add_axis(group, "vocabulary", range(patcher.decoder.config.vocab_size))
    for run in RUNS:
        for component in components:
            axes = ("head", "key_role", "d_head") if component == "z" else ("role", "d_model")
            add_array(group, f"{run}/{component}", ("pair", "layer", *axes), "activation")
        add_array(group, f"{run}/logits", ("pair", "vocabulary"), "logit")


def _write_run(
    group: h5py.Group, number: int, activations: Mapping[str, torch.Tensor], logits: torch.Tensor,
    key_roles: Sequence[int],
) -> None:  # fmt: skip
    """Write a run's activations [layer, role, ...], those of z at the key roles, and its last logits [vocabulary]."""
    for component, vectors in activations.items():
        group[component][number] = vectors[:, key_roles].transpose(1, 2) if component == "z" else vectors
    group["logits"][number] = logits


def _captured(
    model: Any, pair: pd.Series, components: Sequence[str]
) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """The activations and last logits of both runs of a pair, as `capture` returns them."""
    of_runs = [[pair[f"{run}_{what}"] for what in ("ids", "positions", "masked")] for run in RUNS]
    return [capture(model, ids, positions, components, masked) for ids, positions, masked in of_runs]


def patch_pairs(
    pairs: Path,
    activations: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    batch_tokens: int,
    shard: str = WHOLE,
) -> None:
    """Patch one run's activations into the other, one (layer, role) at a time, and likewise the controls' vectors.

    A shard patches its own pairs; its controls may take vectors from any pair.

    /{probe}/{component}/{patch}/{metric} [pair, layer, role], for z [pair, layer, head, key_role], for every metric of
    METRICS. The patches clean_to_corrupted and corrupted_to_clean put one run of a pair into the other; in a metric's
    name, `a` is the answer of the source run and `b` that of the patched run. Next to the metrics is first_order, the
    normalized_logit_diff that attribution patching expects. Controls [pair, layer, key_role], for components other than
    z, put other vectors into the corrupted run instead of the clean run's; nan if no pair has such vectors.

    /{probe}/reasoning_ranges/{patch}/{metric} [pair, layer, range]: the same patches of resid_pre over a whole range of
    the reasoning, equally far before the probe in all runs. A range's label is the distance in tokens from its end to
    the probe (measurement.range_ends gives its start). nan if a control's reasoning is shorter.

    The axis `layer` has the patched layers (measurement.layers_to_patch).

    /{probe}/template [pair]: which pairs were made alike.

    /{probe}/clean_logit_diff, clean_logit_a, clean_logit_b [pair], and the same for the corrupted run: unpatched, where
    a is the clean run's answer.

    /{probe}/is_used [pair]: 0 if a run does not prefer its own answer, or if the pair does not fit into memory
    (is_left_out [pair] is then 1). null_patch_error [pair]: the largest change of a logit when a run's own vectors are
    patched in, the noise floor.

    Finished pairs are kept beside the output (Parts). Raises ModelError if restarted runs differ from the model's own,
    NothingToMeasure if no pair is left.
    """
    by_probe = used_pairs(pairs)
    batch_tokens = batch_tokens if torch.cuda.is_available() else min(batch_tokens, CPU_BATCH_TOKENS)
    origin = provenance(settings, [pairs, activations])
    own = {probe: shard_range(shard, len(table)) for probe, table in by_probe.items()}
    with open_hdf5(activations) as kept:
        refuse_unused(by_probe, kept)
        patcher = Patcher(load_model(read_manifest(manifest), SEAM))
        of_model = {**settings, "components": patcher.hook_points.those_of(settings["components"])}
        batch_tokens = affordable_tokens(batch_tokens, patcher.bytes_per_token, "patching")
        layers = {probe: layers_to_patch(patcher, table, kept[probe], of_model) for probe, table in by_probe.items()}
        for probe, patched in layers.items():
            logger.info(f"{probe}: {len(patched)} of {patcher.n_layers} layers are patched")
        parts = Parts(output, origin, _part_dependences(by_probe, layers, settings))
        missing = {probe: [n for n in numbers if f"{probe}-{n}" not in parts] for probe, numbers in own.items()}
        n_own, n_missing = (sum(map(len, of.values())) for of in (own, missing))
        logger.info(f"{output}: {n_own} pairs, by probe; {n_own - n_missing} of them already computed")
        with Progress(f"{settings['model']}, {settings['dataset']}: pairs patched", n_missing) as progress:
            for probe, table in by_probe.items():
                job = _Patching(patcher, probe, table, kept[probe], of_model, batch_tokens, layers[probe])
                job.add_missing(missing[probe], parts, progress)
        with new_hdf5(output, origin) as file:
            for probe, table, group in probe_groups(file, by_probe):
                found = {n: parts[f"{probe}-{n}"] for n in own[probe] if f"{probe}-{n}" in parts}
                _add_axes(group, axis_labels(kept[probe], "role"), patcher, layers[probe])
                add_column(group, "template", "pair", list(table["template"]))
                most = max(range_ends(table, settings["range_tokens"]), key=len)
                add_axis(group, "range", most[:-1])
                _write(group, found, of_model["components"], settings["controls"])
                write_left_out(group, probe, own[probe], found)
                floor = max((float(arrays["null_patch_error"]) for arrays in found.values()), default=np.nan)
                logger.info(f"{probe}: noise floor {floor:.2g}")


@dataclass(frozen=True)
class _Patching:
    """What the patches of one probe's pairs share. layers: the patched ones."""

    patcher: Patcher
    probe: str
    table: pd.DataFrame
    activations: h5py.Group
    settings: Mapping[str, Any]
    batch_tokens: int
    layers: Sequence[int]

    def add_missing(self, missing: Sequence[int], parts: Parts, progress: Progress) -> None:
        """Patch the missing pairs whose activations were captured, and add the effects to the parts."""
        lengths = list(self.table["clean_ids"].str.len() + self.table["corrupted_ids"].str.len())
        fits = np.isfinite(self.activations[f"{RUNS[0]}/logits"][:, 0])

        def measured(numbers: Sequence[int], _budget: int) -> Any:
            return measure(
                self.patcher, self.table, self.activations, numbers, self.settings, self.batch_tokens, self.layers,
                progress.within,
            )  # fmt: skip

        # pairs that share batches keep a GPU busy; on a CPU each is kept and reported as soon as it is done
        shared_tokens = self.batch_tokens if torch.cuda.is_available() else 0
        fitting = [number for number in missing if fits[number]]
        for numbers, found in in_batches(fitting, by_tokens(lengths), shared_tokens, measured):
            if found is None:
                logger.warning(f"{self.table['pair'].iloc[numbers[0]]}: does not fit into memory; left out")
            for number, arrays in zip(numbers, found or [], strict=False):
                parts.add(f"{self.probe}-{number}", arrays)
                progress.advance()


def _part_dependences(
    by_probe: Mapping[str, pd.DataFrame], layers: Mapping[str, list[int]], settings: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """What the part of each pair depends on, by the part's name: the pair, the pairs whose vectors its controls use,
    and the patched layers.
    """
    found = {}
    for probe, table in by_probe.items():
        rows = plain_rows(table)
        for number in range(len(table)):
            sources = [[run, rows[row]] for run, row in control_sources(table, number, settings)]
            found[f"{probe}-{number}"] = [rows[number], sources, layers[probe]]
    return found


def _add_axes(group: h5py.Group, roles: Sequence[str], patcher: Patcher, layers: Sequence[int]) -> None:
    """Add the axes that both stores share."""
    add_axis(group, "layer", layers)
    add_axis(group, "head", range(patcher.n_heads))
    add_axis(group, "role", roles)
    add_axis(group, "key_role", KEY_ROLES)


def _write(
    group: h5py.Group,
    measured: Mapping[int, Mapping[str, np.ndarray]],
    components: Sequence[str],
    controls: Sequence[str],
) -> None:
    """Write what `measure` found for some pairs of a probe, by their numbers, into its arrays."""

    every_role, key_roles, heads = (
        ("pair", "layer", *rest) for rest in (("role",), ("key_role",), ("head", "key_role"))
    )

    def write(name: str, part: str, at: Any, axes: tuple[str, ...], unit: str) -> None:
        values = np.full([len(group[axis]) for axis in axes], np.nan, np.float32)
        for number, arrays in measured.items():
            if part in arrays:
                found = arrays[part][at]  # may have fewer ranges than other pairs
                place: tuple[int | slice, ...] = (number, *(slice(n) for n in found.shape))
                values[place] = found
        add_array(group, name, axes, unit)[:] = values

    for component in components:
        patches = dict.fromkeys(DIRECTIONS, heads if component == "z" else every_role)
        if component != "z":
            patches |= dict.fromkeys(controls, key_roles)
        for patch, axes in patches.items():
            part = f"{component}/{patch}"
            for k, (metric, unit) in enumerate(METRICS.items()):
                write(f"{part}/{metric}", part, k, axes, unit)
        for patch in DIRECTIONS:
            name = f"{component}/{patch}/first_order"
            write(name, name, ..., patches[patch], "expected normalized_logit_diff")
    for patch in (*DIRECTIONS, *controls) if len(group["range"]) else ():
        for k, (metric, unit) in enumerate(METRICS.items()):
            write(f"{RANGES}/{patch}/{metric}", f"{RANGES}/{patch}", k, ("pair", "layer", "range"), unit)
    of_runs = [f"{run}_{logit}" for run in RUNS for logit in ("logit_diff", "logit_a", "logit_b")]
    for name in ("null_patch_error", *of_runs):
        write(name, name, ..., ("pair",), "logit")
    used = add_array(group, "is_used", ("pair",), "1 where both runs prefer their own answer", "int8", 0)
    for number, arrays in measured.items():
        used[number] = arrays["is_used"]

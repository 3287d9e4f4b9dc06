"""How the reasoning determines the answer: through which heads and MLPs, and at which layers (METHOD section 4)."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from r2a.head_sets import Head, heads_by, matched_heads
from r2a.memory import affordable_tokens, if_it_fits
from r2a.models import load_model, read_manifest
from r2a.models.attention import SEAM
from r2a.parts import Parts
from r2a.patching.attribution import direct_attribution
from r2a.patching.by_probe import plain_rows, probe_groups, refuse_unused, used_pairs, write_left_out
from r2a.patching.components import as_heads
from r2a.patching.measurement import LOGITS_AT_A_TIME, RUNS, is_used
from r2a.patching.metrics import patch_metrics
from r2a.patching.patcher import Patcher
from r2a.patching.restarts import KeptRun, Patch, PatchPath
from r2a.progress import Progress, logger
from r2a.roles import ANSWER_ROLE, CLOSE_ROLE, FINAL_ROLE, KEY_ROLES, PATHS, PROBE, REASONING_END
from r2a.shards import WHOLE, shard_range
from r2a.store import (
    add_array,
    add_axis,
    add_column,
    axis_labels,
    new_hdf5,
    open_hdf5,
    provenance,
    read_parquet,
)

# metrics of patches and of the logit lens, with their units
METRICS = {
    "normalized_logit_diff": "0 nothing changed, 1 the clean answer fully restored",
    "logit_a": "logit of the clean run's answer",
    "logit_b": "logit of the corrupted run's answer",
    "probability_a": "probability of the clean run's answer",
    "probability_b": "probability of the corrupted run's answer",
}
# every array of a pair: its axes after `pair`, and its unit
RUN_ARRAYS = {
    "{run}/logit_a": ((), METRICS["logit_a"]),
    "{run}/logit_b": ((), METRICS["logit_b"]),
    **{f"lens/{{run}}/{metric}": (("layer", "key_role"), unit) for metric, unit in METRICS.items()},
    "attribution/{run}/constant": ((), "logit"),
    "attribution/{run}/embedding": ((), "logit"),
    "attribution/{run}/attention": (("layer",), "logit"),
    "attribution/{run}/mlp": (("layer",), "logit"),
    "attribution/{run}/heads": (("layer", "head"), "logit"),
}
ARRAYS = {
    **{name.format(run=run): of for run in RUNS for name, of in RUN_ARRAYS.items()},
    **{f"paths/{metric}": (("path", "layer"), unit) for metric, unit in METRICS.items()},
    "paths/without_mlp": (("layer",), METRICS["normalized_logit_diff"]),
    "changes/stream": (("layer", "later_layer"), "share of the difference between the runs"),
    "changes/heads": (("layer", "later_layer", "head"), "share of the difference between the runs"),
}


def follow_patches(
    pairs: Path,
    activations: Path,
    ranks: Path,
    manifest: Path,
    output: Path,
    settings: Mapping[str, Any],
    batch_tokens: int,
    shard: str = WHOLE,
) -> None:
    """Store how the end of the reasoning reaches the answer, for pairs in which both runs prefer their own answers.

    The patch puts the clean run's resid_pre of one layer into the corrupted run, at the last tokens of the reasoning:
    those of the probe (without one, the last token) and the range_tokens before them, or as many as both runs have.
    Arrays are nan for other pairs, a is the clean run's answer, and axes and units are those of ARRAYS:

    /{probe}/{run}: both answers' logits in the unpatched run.

    /{probe}/lens/{run}: the logits that the final norm and the head read off the stored resid_pre (logit lens).

    /{probe}/attribution/{run}: what each part adds directly to logit(a) - logit(b); see direct_attribution.

    /{probe}/paths [path, layer]: the patch, reaching the answer's tokens only through the heads of each of PATHS: all
    heads, the Reasoning-Focus Heads, as many matched heads, and all but the Reasoning-Focus Heads. Other heads see the
    corrupted run's reasoning. without_mlp [layer]: through the Reasoning-Focus Heads, with this layer's MLP fixed to
    its output in the corrupted run; the patch is in layer 0.

    /{probe}/changes [layer, later_layer]: what a patch in one layer changes in the output of a later one at the last
    token, and in the z of each head there, projected on the difference between the runs; heads are relative to the
    difference of the whole layer.

    /{probe}/is_used [pair]: 1 for pairs in which both runs prefer their own answers and that fit into memory;
    is_left_out [pair]: 1 for those of them that do not fit, which are named in the log.

    Finished pairs are kept beside the output (Parts). Raises NothingToMeasure if no pair is left.
    """
    by_probe = used_pairs(pairs)
    patcher = Patcher(load_model(read_manifest(manifest), SEAM))
    batch_tokens = affordable_tokens(batch_tokens, patcher.bytes_per_token, "path patching")
    heads = read_parquet(ranks)
    origin = provenance(settings, [pairs, activations, ranks])
    features = heads[["layer", "head", "rank", "output_share", "a2bos"]].to_json(orient="values")
    depends = {
        f"{probe}-{number}": [row, features]
        for probe, table in by_probe.items()
        for number, row in enumerate(plain_rows(table))
    }
    parts = Parts(output, origin, depends)
    with open_hdf5(activations) as kept:
        refuse_unused(by_probe, kept)
        own = {
            probe: [n for n in shard_range(shard, len(table)) if is_used(table, kept[probe], n)]
            for probe, table in by_probe.items()
        }
        _measure_missing(patcher, by_probe, kept, own, heads, settings, batch_tokens, parts)
        with new_hdf5(output, origin) as file:
            for probe, table, group in probe_groups(file, by_probe):
                add_column(group, "template", "pair", list(table["template"]))
                found = {n: parts[f"{probe}-{n}"] for n in own[probe] if f"{probe}-{n}" in parts}
                _write(group, found, patcher)
                write_left_out(group, probe, own[probe], found)


def _measure_missing(
    patcher: Patcher, by_probe: Mapping[str, pd.DataFrame], activations: h5py.File, own: Mapping[str, Sequence[int]],
    heads: pd.DataFrame, settings: Mapping[str, Any], batch_tokens: int, parts: Parts,
) -> None:  # fmt: skip
    """Follow the patches of a shard's own pairs that are not among the parts, and add them. heads: with their ranks."""
    rfhs = heads_by(heads["rank"], heads)[: settings["n_top_heads"]]
    missing = [(probe, number) for probe in own for number in own[probe] if f"{probe}-{number}" not in parts]
    with Progress(f"{settings['model']}, {settings['dataset']}: pairs followed", len(missing)) as progress:
        for probe, number in missing:
            row = by_probe[probe].iloc[number]
            rng = random.Random(f"{settings['seed']} {row['pair']}")
            sets = {"rfh": rfhs, "matched": matched_heads(rfhs, heads, rng)}
            of_pair = patcher, row, activations[probe], number, settings["range_tokens"], sets, batch_tokens
            arrays = if_it_fits(_measured, *of_pair)
            if arrays is None:
                logger.warning(f"{row['pair']}, {probe}: does not fit into memory; left out")
            else:
                parts.add(f"{probe}-{number}", arrays)
            progress.advance()


def _write(group: h5py.Group, found: Mapping[int, Mapping[str, np.ndarray]], patcher: Patcher) -> None:
    """Write what was found for the pairs of a probe, by their numbers, with the arrays' axes."""
    for axis in ("layer", "later_layer"):
        add_axis(group, axis, range(patcher.n_layers))
    add_axis(group, "head", range(patcher.n_heads))
    add_axis(group, "key_role", KEY_ROLES)
    add_axis(group, "path", PATHS)
    used = add_array(group, "is_used", ("pair",), "1 where both runs prefer their own answer", "int8", 0)
    for number in found:
        used[number] = 1
    for name, (axes, unit) in ARRAYS.items():
        array = add_array(group, name, ("pair", *axes), unit)
        for number, arrays in found.items():
            array[number] = arrays[name.replace("/", ".")]


def _measured(
    patcher: Patcher, row: pd.Series, activations: h5py.Group, number: int, range_tokens: int,
    sets: Mapping[str, tuple[Head, ...]], batch_tokens: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    return _Pair(patcher, row, activations, number, range_tokens).measure(sets, batch_tokens)


class _Pair:
    """A pair of runs, and the effect that a patch of the end of the reasoning has between them."""

    def __init__(
        self, patcher: Patcher, row: pd.Series, activations: h5py.Group, number: int, range_tokens: int
    ) -> None:
        self.patcher, self.activations, self.number = patcher, activations, number
        self.answers = int(row["answer_a_id"]), int(row["answer_b_id"])
        roles = list(row["roles"])
        self.key_places = [axis_labels(activations, "role").index(role) for role in KEY_ROLES]
        ends = [REASONING_END] if REASONING_END in roles else [ANSWER_ROLE, *(r for r in roles if r.startswith(PROBE))]
        probe = [roles.index(role) for role in ends]
        self.runs: dict[str, KeptRun] = {}
        self.logits = {run: torch.tensor(activations[f"{run}/logits"][number]) for run in RUNS}
        first, last = ({run: end(row[f"{run}_positions"][k] for k in probe) for run in RUNS} for end in (min, max))
        reach = min(range_tokens, *(first[run] - row[f"{run}_reasoning_start"] for run in RUNS))
        for run in RUNS:
            at = [*range(first[run] - reach, last[run] + 1), row[f"{run}_positions"][roles.index(FINAL_ROLE)]]
            after = row[f"{run}_positions"][roles.index(CLOSE_ROLE)] + 1
            self.runs[run] = patcher.keep(row[f"{run}_ids"], at, None, row[f"{run}_masked"], after)

    def measure(self, sets: Mapping[str, tuple[Head, ...]], batch_tokens: int) -> dict[str, np.ndarray]:
        """Every array of ARRAYS, under its name."""
        found: dict[str, Any] = {}
        for run in RUNS:
            for side, answer in zip("ab", self.answers, strict=True):
                found[f"{run}/logit_{side}"] = self.logits[run][answer]
            stored = torch.tensor(self.activations[f"{run}/resid_pre"][self.number])[:, self.key_places]
            found |= {f"lens/{run}/{metric}": values for metric, values in self._metrics(stored).items()}
            shares = direct_attribution(self.patcher, self.runs[run], *self.answers)
            found |= {f"attribution/{run}/{part}": values for part, values in shares._asdict().items()}
        paths = self._paths(sets)
        whole = [self._patch(layer) for layer in range(self.patcher.n_layers)]
        patches = [self._patch(layer, path) for path in paths for layer in range(self.patcher.n_layers)]
        past = [self._patch(0, self._path(sets["rfh"], layer)) for layer in range(self.patcher.n_layers)]
        resid_post = self.patcher.finish([*patches, *past], batch_tokens)
        by_path = resid_post[: len(patches)].unflatten(0, (len(paths), -1))
        found |= {f"paths/{metric}": values for metric, values in self._metrics(by_path).items()}
        found["paths/without_mlp"] = self._metrics(resid_post[len(patches) :])["normalized_logit_diff"]
        found["changes/stream"], found["changes/heads"] = self._changes(whole, batch_tokens)
        return {name.replace("/", "."): np.asarray(values, np.float32) for name, values in found.items()}

    def _paths(self, sets: Mapping[str, tuple[Head, ...]]) -> list[PatchPath | None]:
        """The paths in the order of PATHS; the first one is unrestricted, None."""
        layers, heads = range(self.patcher.n_layers), range(self.patcher.n_heads)
        rest = tuple((layer, head) for layer in layers for head in heads if (layer, head) not in sets["rfh"])
        return [None, *(self._path(of) for of in (sets["rfh"], sets["matched"], rest))]

    def _path(self, heads: tuple[Head, ...], past_mlp: int | None = None) -> PatchPath:
        on_path = torch.zeros(self.patcher.n_layers, self.patcher.n_heads, dtype=torch.bool)
        for place in heads:
            on_path[place] = True
        return PatchPath(on_path, torch.arange(self.patcher.n_layers) != (-1 if past_mlp is None else past_mlp))

    def _patch(self, layer: int, path: PatchPath | None = None) -> Patch:
        clean, corrupted = (self.runs[run] for run in RUNS)
        source, target = (run.positions[:-1] for run in (clean, corrupted))
        vectors = clean.resid_pre[layer][[position - clean.start for position in source]]
        return Patch(corrupted, layer, tuple(target), vectors, path)

    def _changes(self, patches: list[Patch], batch_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        stream, heads = self.patcher.follow(patches, batch_tokens)
        clean, corrupted = (self.runs[run] for run in RUNS)
        of_stream = torch.stack(
            [(a[-1] - b[-1]).float().cpu() for a, b in zip(clean.resid_pre[1:], corrupted.resid_pre[1:], strict=True)]
        )
        of_heads = torch.stack(
            [
                as_heads(self.patcher.decoder, (a[-1] - b[-1]).float().cpu())
                for a, b in zip(clean.z, corrupted.z, strict=True)
            ]
        )
        # where both runs are equal, the share is undefined: 0 / 0
        return (
            (stream * of_stream).sum(-1) / of_stream.square().sum(-1),
            (heads * of_heads).sum(-1) / of_heads.square().sum((-1, -2))[:, None],
        )

    def _metrics(self, resid_post: torch.Tensor) -> dict[str, torch.Tensor]:
        """METRICS [...] of the last layer's output [..., d_model]."""
        flat = resid_post.reshape(-1, resid_post.shape[-1])
        parts = [
            patch_metrics(
                self.patcher.logits(some), self.logits["clean"], self.logits["corrupted"], *self.answers
            )
            for some in flat.split(max(1, LOGITS_AT_A_TIME // len(self.logits["clean"])))
        ]  # fmt: skip
        return {metric: torch.cat([p[metric] for p in parts]).reshape(resid_post.shape[:-1]) for metric in METRICS}

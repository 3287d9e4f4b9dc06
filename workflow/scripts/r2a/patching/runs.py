"""The two jobs of stage 3: keep both runs' activations, and patch one into the other."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from r2a.models import load_model, read_manifest
from r2a.patching.controls import control_sources, random_like
from r2a.patching.engine import Engine, KeptRun, Patch, capture, refuse_deviating
from r2a.patching.metrics import METRICS, logit_diff, patch_metrics
from r2a.progress import Progress, logger
from r2a.roles import CLEAN_TO_CORRUPTED, CONTROLS, CORRUPTED_TO_CLEAN, RANDOM_VECTOR
from r2a.store import add_array, add_axis, axis_labels, new_hdf5, open_hdf5, provenance, read_parquet

RUNS = ("clean", "corrupted")
LOGITS_AT_A_TIME = 64  # patches whose logits over the whole vocabulary are held


class PatchingError(Exception):
    """Patching cannot go on; the message says why, with numbers."""


def used_pairs(pairs: Path) -> pd.DataFrame:
    """The pairs that were not left out; all of one set of roles."""
    table = read_parquet(pairs)
    table = table[table["left_out"] == ""].reset_index(drop=True)
    return table.astype({"answer_a_id": int, "answer_b_id": int})  # floats where a pair that is left out has none


def capture_activations(pairs: Path, manifest: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Store both runs' activations at every role, and their last logits.

    /{run}/{component} [pair, layer, role, d_model] and /{run}/logits [pair, vocabulary], run being clean or
    corrupted. Raises ModelError for an architecture that patching does not work on.
    """
    table = used_pairs(pairs)
    origin = read_manifest(manifest)
    model = load_model(origin, "sdpa")
    Engine(model)
    components = settings["components"]
    with new_hdf5(output, provenance(settings, [pairs, manifest])) as file:
        add_axis(file, "pair", list(table["pair"]))
        add_axis(file, "layer", range(origin["n_layers"]))
        add_axis(file, "role", list(table["roles"].iloc[0]))
        add_axis(file, "d_model", range(model.config.hidden_size))
        add_axis(file, "vocabulary", range(model.config.vocab_size))
        for run in RUNS:
            for component in components:
                add_array(file, f"{run}/{component}", ("pair", "layer", "role", "d_model"), "activation")
            add_array(file, f"{run}/logits", ("pair", "vocabulary"), "logit")
        with Progress(f"{settings['model']}, {settings['dataset']}: activations", len(table)) as progress:
            for number, row in enumerate(table.to_dict("records")):
                for run in RUNS:
                    found, logits = capture(
                        model, row[f"{run}_ids"], row[f"{run}_positions"], components, row[f"{run}_hidden"]
                    )
                    for component, vectors in found.items():
                        file[f"{run}/{component}"][number] = vectors
                    file[f"{run}/logits"][number] = logits
                progress.advance(len(row["clean_ids"]) + len(row["corrupted_ids"]))


def patch_pairs(
    pairs: Path, activations: Path, manifest: Path, output: Path, settings: Mapping[str, Any], batch_tokens: int
) -> None:
    """Patch one run's activations into the other, one (layer, role) at a time, and the controls' beside them.

    /{component}/{patch}/{metric} [pair, layer, role], for every metric of METRICS. Patches: clean_to_corrupted and
    corrupted_to_clean put one run of a pair into the other; `a` in a metric's name is the answer of the run that
    vectors come from, `b` that of the run they are put into. CONTROLS put other vectors into the corrupted run
    in place of the clean run's, measured as these are; nan where no other pair has such vectors.
    /is_used [pair] is 0 for pairs one of whose runs does not prefer its own answer. /null_patch_error [pair] is the
    largest change of a logit when a run's own vectors are put in: the noise floor.
    Raises ModelError where restarted runs are not the model's own, PatchingError where no pair is left.
    """
    table = used_pairs(pairs)
    engine = Engine(load_model(read_manifest(manifest), "sdpa"))
    with open_hdf5(activations) as kept, new_hdf5(output, provenance(settings, [pairs, activations])) as file:
        for axis in ("pair", "layer", "role"):
            add_axis(file, axis, axis_labels(kept, axis))
        patches = (CLEAN_TO_CORRUPTED, CORRUPTED_TO_CLEAN, *CONTROLS)
        arrays = {
            (component, patch, metric): add_array(
                file, f"{component}/{patch}/{metric}", ("pair", "layer", "role"), unit
            )
            for component in settings["components"]
            for patch in patches
            for metric, unit in METRICS.items()
        }
        floor = add_array(file, "null_patch_error", ("pair",), "logit")
        used = add_array(file, "is_used", ("pair",), "1 where both runs prefer their own answer", "int8", 0)
        differences = {run: add_array(file, f"{run}_logit_diff", ("pair",), "logit") for run in RUNS}
        with Progress(f"{settings['model']}, {settings['dataset']}: pairs patched", len(table)) as progress:
            for number, row in enumerate(table.to_dict("records")):
                logits = {run: torch.tensor(kept[f"{run}/logits"][number]) for run in RUNS}
                a, b = row["answer_a_id"], row["answer_b_id"]
                for run in RUNS:
                    differences[run][number] = logit_diff(logits[run], a, b)
                used[number] = bool(logit_diff(logits["clean"], a, b) > 0 > logit_diff(logits["corrupted"], a, b))
                runs = {
                    run: engine.keep(row[f"{run}_ids"], row[f"{run}_positions"], row[f"{run}_hidden"]) for run in RUNS
                }
                floor[number] = max(_null_patch_error(engine, runs[run], logits[run], batch_tokens) for run in RUNS)
                sources = control_sources(table, number, f"{settings['seed']} {row['pair']}")
                for component in settings["components"]:
                    vectors = {run: torch.tensor(kept[f"{run}/{component}"][number]) for run in RUNS}
                    put_in = {CLEAN_TO_CORRUPTED: vectors["clean"], CORRUPTED_TO_CLEAN: vectors["corrupted"]}
                    for control, (run, other) in sources.items():
                        put_in[control] = torch.tensor(kept[f"{run}/{component}"][other])
                    seed = random.Random(f"{settings['seed']} {row['pair']} {component}").getrandbits(32)
                    put_in[RANDOM_VECTOR] = random_like(vectors["clean"], seed)
                    for patch, values in put_in.items():
                        base, source = ("clean", "corrupted") if patch == CORRUPTED_TO_CLEAN else ("corrupted", "clean")
                        answers = (b, a) if patch == CORRUPTED_TO_CLEAN else (a, b)
                        left = engine.patch(runs[base], component, values, batch_tokens)
                        parts = [
                            patch_metrics(engine.logits(some), logits[source], logits[base], *answers)
                            for some in left.flatten(0, 1).split(LOGITS_AT_A_TIME)
                        ]
                        for metric in METRICS:
                            found = torch.cat([part[metric] for part in parts])
                            arrays[component, patch, metric][number] = found.reshape(left.shape[:2])
                progress.advance()
        n_used = int(used[:].sum())
        logger.info(
            f"{n_used} of {len(table)} pairs prefer their own answers in both runs; noise floor {floor[:].max():.2g}"
        )
        if n_used == 0:
            raise PatchingError(f"{pairs}: in no pair do both runs prefer their own answers; nothing can be measured")


def _null_patch_error(engine: Engine, run: KeptRun, logits: torch.Tensor, batch_tokens: int) -> float:
    """Largest change of a logit when a run's own resid_pre is put in, at every role in one layer or another.

    logits: [vocabulary], the model's own. Raises ModelError where the change is more than rounding.
    """
    patches = []
    for k, position in enumerate(run.positions):
        layer = k % engine.n_layers
        patches.append(Patch(layer, (position,), run.resid_pre[layer][position - run.start][None]))
    found = engine.logits(engine.finish(run, patches, batch_tokens))
    refuse_deviating(type(engine.model).__name__, found, logits, engine.model.dtype)
    return float((found - logits).abs().max())

"""The two jobs of stage 3: keep both runs' activations, and patch one into the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import torch

from r2a.models import load_model, read_manifest
from r2a.patching.engine import capture_resid_pre, patch_resid_pre
from r2a.patching.metrics import METRICS, logit_diff, patch_metrics
from r2a.progress import Progress, logger
from r2a.store import add_array, add_axis, axis_labels, new_hdf5, provenance, read_parquet

RUNS = ("clean", "corrupted")


class PatchingError(Exception):
    """Patching cannot go on; the message says why, with numbers."""


def used_pairs(pairs: Path) -> pd.DataFrame:
    """The pairs that were not left out; all of one set of roles."""
    table = read_parquet(pairs)
    return table[table["left_out"] == ""].reset_index(drop=True)


def capture_activations(pairs: Path, manifest: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Store both runs' resid_pre at every role, and their last logits.

    /clean/resid_pre and /corrupted/resid_pre [pair, layer, role, d_model], /{run}/logits [pair, vocabulary].
    """
    table = used_pairs(pairs)
    origin = read_manifest(manifest)
    model = load_model(origin, "sdpa")
    with new_hdf5(output, provenance(settings, [pairs, manifest])) as file:
        add_axis(file, "pair", list(table["pair"]))
        add_axis(file, "layer", range(origin["n_layers"]))
        add_axis(file, "role", list(table["roles"].iloc[0]))
        add_axis(file, "d_model", range(model.config.hidden_size))
        add_axis(file, "vocabulary", range(model.config.vocab_size))
        for run in RUNS:
            add_array(file, f"{run}/resid_pre", ("pair", "layer", "role", "d_model"), "activation")
            add_array(file, f"{run}/logits", ("pair", "vocabulary"), "logit")
        with Progress(f"{settings['model']}, {settings['dataset']}: activations", len(table)) as progress:
            for number, row in enumerate(table.to_dict("records")):
                for run in RUNS:
                    vectors, logits = capture_resid_pre(model, row[f"{run}_ids"], row[f"{run}_positions"])
                    file[f"{run}/resid_pre"][number], file[f"{run}/logits"][number] = vectors, logits
                progress.advance(len(row["clean_ids"]) + len(row["corrupted_ids"]))


def patch_pairs(
    pairs: Path, activations: Path, manifest: Path, output: Path, settings: Mapping[str, Any], batch_tokens: int
) -> None:
    """Patch the clean run's resid_pre into the corrupted run, one (layer, role) at a time.

    Every metric of METRICS as [pair, layer, role]; /is_used [pair] is 0 for pairs one of whose runs does not
    prefer its own answer. /null_patch_error [pair] is the largest change of a logit when the corrupted run's
    own vectors are put in: the noise floor. Raises PatchingError where no pair is left.
    """
    table = used_pairs(pairs)
    model = load_model(read_manifest(manifest), "sdpa")
    with h5py.File(activations) as kept, new_hdf5(output, provenance(settings, [pairs, activations])) as file:
        for axis in ("pair", "layer", "role"):
            add_axis(file, axis, axis_labels(kept, axis))
        arrays = {name: add_array(file, name, ("pair", "layer", "role"), unit) for name, unit in METRICS.items()}
        floor = add_array(file, "null_patch_error", ("pair",), "logit")
        used = add_array(file, "is_used", ("pair",), "1 where both runs prefer their own answer", "int8", 0)
        differences = {run: add_array(file, f"{run}_logit_diff", ("pair",), "logit") for run in RUNS}
        with Progress(f"{settings['model']}, {settings['dataset']}: pairs patched", len(table)) as progress:
            for number, row in enumerate(table.to_dict("records")):
                clean, corrupted = (torch.tensor(kept[f"{run}/logits"][number]) for run in RUNS)
                a, b = row["answer_a_id"], row["answer_b_id"]
                for run, logits in zip(RUNS, (clean, corrupted), strict=True):
                    differences[run][number] = logit_diff(logits, a, b)
                used[number] = bool(logit_diff(clean, a, b) > 0 > logit_diff(corrupted, a, b))
                ids, positions = row["corrupted_ids"], row["corrupted_positions"]
                vectors = {run: torch.tensor(kept[f"{run}/resid_pre"][number]) for run in RUNS}
                patched = patch_resid_pre(model, ids, positions, vectors["clean"], batch_tokens)
                for name, values in patch_metrics(patched, clean, corrupted, a, b).items():
                    arrays[name][number] = values
                own = patch_resid_pre(model, ids, positions[-1:], vectors["corrupted"][:, -1:], batch_tokens)
                floor[number] = (own - corrupted).abs().max()
                progress.advance(len(ids) * patched.shape[0] * patched.shape[1])
        n_used = int(used[:].sum())
        logger.info(
            f"{n_used} of {len(table)} pairs prefer their own answers in both runs; noise floor {floor[:].max():.2g}"
        )
        if n_used == 0:
            raise PatchingError(f"{pairs}: in no pair do both runs prefer their own answers; nothing can be measured")

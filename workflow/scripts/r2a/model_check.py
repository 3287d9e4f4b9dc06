"""Whether each stage is exact for a model, tried on random tokens before anything is generated.

A stage holds if it gives what the model's own forward pass gives, at every position, in traces that share a pass, and
beyond every length at which the model itself changes: windows, chunks, the original length of its positions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2a.ablation.arms import Arm
from r2a.ablation.decoding import Rows, read
from r2a.attention.reference import rerun_eager
from r2a.attention.rerun import TOLERANCE as ATTENTION_TOLERANCES
from r2a.attention.rerun import check_masses, rerun_traces
from r2a.attention.segments import segment_mass
from r2a.devices import DeviceError
from r2a.models import ModelError, load_model, read_manifest
from r2a.models.attention import SEAM, AttentionError, attention_kernel
from r2a.models.decoder import Decoder
from r2a.models.rounding import distance, own_logits, refuse_beyond_rounding, rounding
from r2a.patching.components import COMPONENTS, capture, hook_points_of
from r2a.patching.patcher import Patcher
from r2a.progress import logger, tell
from r2a.roles import UNABLATED
from r2a.sentences.branches import Branch, Branches, keep_run
from r2a.store import provenance, write_json
from r2a.traces import Bounds

SHORT = 48  # tokens of the short traces
BEYOND = 40  # tokens of the long one beyond the last switch
LONGEST = 8192  # switches beyond this are not tried, because whole attention would not fit
MOST_WEIGHTS = 2**29  # attention weights are compared up to this number; for longer traces, logits are
N_DECODED = 4  # answer tokens decoded one by one

Stage = Callable[[Any, Sequence[Sequence[int]], Mapping[str, Any]], tuple[float, float]]


def check_model(manifest: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Try every stage that settings["stages"] names on a model, and write which of them hold.

    For each stage, the file has `holds`, `deviation` (the largest from the model's own, in the unit of the stage's own
    check), `tolerance`, `reason` if it does not hold, and `n_tokens` of the longest trace; and `left_out`, the
    components that the model does not have in every layer. The log says which stages hold and which do not;
    refuse_failed keeps the latter from running, and the rest of the study continues.
    """
    origin = read_manifest(manifest)
    (identity,) = origin["models"].values()
    name, left_out = settings["model"], list[str]()
    try:
        model = load_model(origin, SEAM)
        present = hook_points_of(model).components
        left_out = [component for component in COMPONENTS if component not in present]
        found = stages_that_hold(model, settings["stages"], origin["n_positions"], identity["dtype"], present)
    except DeviceError:  # which says nothing about the model
        raise
    except Exception as error:  # a model that cannot be inspected still has answers
        reason = f"{type(error).__name__}: {error}"
        found = [{"stage": stage, "holds": False, "reason": reason} for stage in settings["stages"]]
    for stage in found:
        logger.info(f"{name}: {_in_words(stage)}")
    if left_out:
        logger.warning(f"{name}: has no {', '.join(left_out)} in every layer, so patching leaves it out for this model")
    failed = [stage for stage in found if not stage["holds"]]
    if failed:
        holding = ", ".join(["answers", "perturbation", *(stage["stage"] for stage in found if stage["holds"])])
        tell(
            f"{name}: {'; '.join(map(_in_words, failed))}. What holds is studied: {holding}. Stores of the rest, where "
            "the study asks for them, are written empty, with the reason; the study continues. To try again, e.g. with "
            f"more memory or a newer transformers: snakemake --forcerun {output}"
        )
    write_json(output, provenance(settings, [manifest]) | {"stages": found, "left_out": left_out})


def stages_that_hold(
    model: Any, stages: Iterable[str], n_positions: int, dtype: str, components: Sequence[str]
) -> list[dict[str, Any]]:
    """What check_model writes for each stage; if a stage raises an error, that is the reason why it does not hold."""
    decoder = Decoder(model)
    lengths = [SHORT, long_length(decoder.config, n_positions), SHORT + 9]
    random = torch.Generator().manual_seed(0)
    ids = [torch.randint(decoder.config.vocab_size, (n,), generator=random).tolist() for n in lengths]
    found = []
    for stage in stages:
        deviation, tolerance, reason = None, None, ""
        try:
            deviation, tolerance = STAGES[stage](model, ids, {"dtype": dtype, "components": components})
            if not deviation <= tolerance:
                reason = f"{deviation:.2g} away from the model's own, and {tolerance:.2g} is rounding"
        except Exception as error:
            reason = str(error) or type(error).__name__
        found.append(
            {
                "stage": stage, "holds": not reason, "deviation": deviation, "tolerance": tolerance, "reason": reason,
                "n_tokens": max(lengths),
            }
        )  # fmt: skip
    return found


def long_length(config: Any, n_positions: int) -> int:
    """The length of a trace that exceeds every length at which the model changes, as far as it has positions."""
    switches = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    rotary = getattr(config, "rope_parameters", None) or {}
    for part in (rotary, *rotary.values()):
        if isinstance(part, Mapping):
            switches.append(part.get("original_max_position_embeddings"))
    most = min(n_positions, LONGEST)
    reached = [switch + BEYOND for switch in switches if isinstance(switch, int) and switch + BEYOND <= most]
    return min(n_positions, max(2 * SHORT, *reached, 0))


def _in_words(stage: Mapping[str, Any]) -> str:
    if stage["holds"]:
        return f"{stage['stage']} holds ({stage['deviation']:.2g} away from the model's own)"
    return f"{stage['stage']} does not hold: {stage['reason']}"


def _bounds(n: int) -> Bounds:
    return Bounds(0, 1, n // 4, n // 4 + 1, n // 2, n // 2 + 1, n - 1, n)


@torch.no_grad()
def _attention(model: Any, ids: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> tuple[float, float]:
    """Traces that share passes, against eager attention to each: largest difference of a mass (mean in 16 bits)."""
    decoder, dtype, deviations = Decoder(model), settings["dtype"], []
    if not decoder.attending:
        raise ModelError("none of its layers has softmax attention")
    bounds = [_bounds(len(trace)) for trace in ids]
    reruns = list(rerun_traces(model, ids, bounds, sum(map(len, ids))))
    for trace, of, rerun in zip(ids, bounds, reruns, strict=True):
        if rerun is None:
            raise AttentionError(f"{len(trace)} tokens do not fit into memory; use a larger device, or models.*.gpus")
        fused, hidden = rerun
        mass = segment_mass(fused, of)[decoder.attending]
        check_masses(mass, dtype, "random tokens", decoder.has_sinks)
        if decoder.n_layers * decoder.n_heads * len(trace) ** 2 <= MOST_WEIGHTS:
            with attention_kernel(model, "eager"):
                expected = segment_mass(rerun_eager(model, trace, of)[0], of)[decoder.attending]
            difference = np.abs(mass - expected)
            deviations.append(float(difference.max() if dtype == "float32" else difference.mean()))
        logits, own = decoder.logits(hidden[-1:])[0].float().cpu(), own_logits(model, trace)
        refuse_beyond_rounding(model, trace, logits, own, "attention reruns are not the model's own passes")
    return float(np.max(deviations)), ATTENTION_TOLERANCES[dtype]


@torch.no_grad()
def _patching(model: Any, ids: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> tuple[float, float]:
    """Patches of one run into another against whole passes with hooks: root mean square, relative to the logits'."""
    patcher = Patcher(model)
    hook_points = patcher.hook_points
    components = hook_points.those_of(settings["components"])
    base, n_tokens = ids[1], len(ids[1])
    positions, layers = [n_tokens // 3, n_tokens - 2], sorted({0, patcher.n_layers // 2, patcher.n_layers - 1})
    vectors, _ = capture(model, list(reversed(base)), positions, components)
    kept = patcher.keep(base, positions)
    deviations = [distance(patcher.logits(kept.resid_pre[-1])[0], own_logits(model, base))]
    for component in components:
        logits = patcher.logits(patcher.patch(kept, component, vectors[component], 4 * n_tokens, layers))
        for number, layer in enumerate(layers):
            for place, position in enumerate(positions):
                vector = vectors[component][layer, place]

                put = partial(_put, component, position, vector, patcher.n_heads)
                with hook_points.hooked(layer, component, put):
                    expected = own_logits(model, base)
                patched = logits[number, place, 0] if component == "z" else logits[number, place]
                deviations.append(distance(patched, expected))
    return max(deviations), rounding(model, base)


def _put(component: str, position: int, vector: torch.Tensor, n_heads: int, found: torch.Tensor) -> torch.Tensor:
    """A component [1, token, ...] with a vector in place of one position's; for z, in place of its first head's."""
    changed = found.clone()
    if component == "z":
        heads = changed.unflatten(-1, (n_heads, -1))
        heads[0, position, 0] = vector[0, : heads.shape[-1]].to(heads)
    else:
        changed[0, position] = vector.to(changed)
    return changed


def _ablation(model: Any, ids: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> tuple[float, float]:
    """Unablated answers of short and long traces, decoded together: the largest mean distance."""
    decoder = Decoder(model)
    if decoder.apart:
        raise ModelError(f"its heads cannot be ablated: {decoder.apart}")
    nothing = Arm(UNABLATED, UNABLATED, 0, ())
    cuts = [len(trace) - N_DECODED for trace in ids]
    readings = [
        (read(model, trace[:cut], Bounds(0, 1, 2, 3, cut - 1, cut, cut, cut)), nothing)
        for trace, cut in zip(ids, cuts, strict=True)
    ]
    rows, deviations = Rows(model, readings), np.zeros((N_DECODED, len(ids)))
    for step in range(N_DECODED):
        tokens = torch.tensor([trace[cut + step] for trace, cut in zip(ids, cuts, strict=True)], device=model.device)
        found = rows.step(tokens)
        for row, (trace, cut) in enumerate(zip(ids, cuts, strict=True)):
            deviations[step, row] = distance(found[row], own_logits(model, trace[: cut + step + 1]))
    return float(deviations.mean(0).max()), max(rounding(model, trace) for trace in ids)


@torch.no_grad()
def _sentences(model: Any, ids: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> tuple[float, float]:
    """Deviation of runs continued from several positions: root mean square, relative to the logits' spread."""
    trace = ids[1]
    starts = [1, len(trace) // 2, len(trace) - 2]
    kept = keep_run(model, trace[:-1])
    endings = [tuple(trace[start:]) for start in starts]
    read = Branches(model, kept, [Branch(start, e) for start, e in zip(starts, endings, strict=True)]).read()
    own = own_logits(model, trace)
    logits = Decoder(model).final_logits(torch.stack([states[-1] for states in read])).cpu()
    return distance(logits, own), rounding(model, trace)


STAGES: dict[str, Stage] = {
    "attention": _attention, "patching": _patching, "ablation": _ablation, "sentences": _sentences
}  # fmt: skip

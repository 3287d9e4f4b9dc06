"""What a study will need, printed before it starts: disk space by stage, and GPU hours, within about a factor of two.

Read at every start of Snakemake: no heavy import here.
"""

import contextlib
import csv
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from logging import Logger
from pathlib import Path
from typing import NamedTuple

from r2a.extensions import PERTURBATION_KINDS
from r2a.ranges import doubling_ends, step_of
from r2a.speeds import CPU_CORE, GPUS, Device, corrected, measured
from r2a.study import CONDITIONS, Dataset, Model, Study

# the job that reads a file reports what is wrong with it; the estimate continues without it
UNREADABLE = OSError, ValueError, KeyError, TypeError, csv.Error


class Geometry(NamedTuple):
    n_layers: int
    n_heads: int
    d_model: int
    vocabulary: int


# the usual shape of a model that is not here yet, by billions of weights as given in its name
USUAL = {
    0.6: Geometry(28, 16, 1024, 151_936),
    1.5: Geometry(28, 12, 1536, 151_936),
    7: Geometry(28, 28, 3584, 152_064),
    8: Geometry(32, 32, 4096, 128_256),
    14: Geometry(48, 40, 5120, 152_064),
    32: Geometry(64, 40, 5120, 152_064),
    70: Geometry(80, 64, 8192, 128_256),
}
USUAL_SIZE, USUAL_PROBLEMS = 8, 1000
# mean lengths as shares of the length limit: about those of the paper's traces, and of the tiny study's
LENGTHS = dict(zip(CONDITIONS, (0.25, 0.07), strict=True))
PROMPT_TOKENS, SENTENCE_TOKENS = 40, 10
N_ROLES, N_KEY_ROLES, N_METRICS = 20, 3, 11
# measured bytes: of a compressed number, a chunk's place in HDF5's index, a row's keys in Parquet and ledger, and an
# array of a part besides its numbers
ACTIVATION, ATTENTION, METRIC, CHUNK, ROW, PART = 3.5, 3, 2.4, 35, 200, 250
# bytes of a sentence's text and greedy answer; its number of values; bytes of an empty store of sentences
SENTENCE, N_SENTENCE_MEASURES, SENTENCE_STORE = 60, 10, 12_000
N_ARMS = 3  # of heads that sentences are hidden from
ROWS = 0.55  # what compression leaves of attention rows
TAIL_TOKENS = 15  # recomputed by a patch of the probe or of the answer's first token
LESS_BY = {
    "traces": "datasets.*.n_problems or generation.max_new_tokens", "attention": "datasets.*.n_problems",
    "perturbation": "perturbation.n_problems", "ablation": "ablation.n_problems or ablation.doses",
    "diagnostics": "diagnostics.lengths", "patching": "patching.layer_step, patching.probes or datasets.*.n_problems",
    "sentences": "sentences.n_problems", "hints": "hints.n_problems",
    "resampling": "resampling.n_rollouts or resampling.n_sentences",
}  # fmt: skip
SHOWN = 8 / 3  # bytes of a number in the explorer: 16 bits in base64
FIGURES = 5e6  # and tables and their part of the summary, for each model and dataset


class Reckoning:
    """A study's sizes and, in words, what had to be assumed about models and datasets that are not here yet."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.results = Path("results", study.study)
        self.assumed: list[str] = []
        self.n_problems = {name: self._count(name, dataset) for name, dataset in study.datasets.items()}
        self.geometries = {name: self._geometry(name, study.models[name]) for name in study.weighted_models}
        limit = study.generation.max_new_tokens
        self.n_reasoned, self.n_answer = (round(share * limit) for share in LENGTHS.values())

    def bytes_by_stage(self) -> Counter[str]:
        """The stores' bytes under results/{study}, by stage, if every trace is valid."""
        found: Counter[str] = Counter()
        for name, model in self.study.models.items():
            geometry = self.geometries.get(name)
            # a token as a number in the ledger, and about two bytes in Parquet
            token = 2 + len(str(self.geometries.get(model.variant_of or name, USUAL[USUAL_SIZE]).vocabulary))
            for dataset in self.study.datasets:
                stores = [self._answers(dataset, token)]
                if geometry:
                    stores.append(self._attention(dataset, geometry))
                if name in self.study.ablated_models and dataset in self.study.graded_datasets:
                    stores.append(self._ablation(dataset, token))
                if name in self.study.parsed_models and dataset in self.study.graded_datasets:
                    stores.append(self._sentences(dataset))
                if name in self.study.parsed_models and dataset in self.study.resampled_datasets:
                    written = self.n_reasoned / 2 + self.n_answer  # in the ledger; the table's prompts repeat
                    stores.append({"resampling": self._n_rollouts(dataset) * (ROW + token * written)})
                if geometry and name in self.study.patched_models and dataset in self.study.pair_datasets:
                    stores.append(self._patching(dataset, geometry))
                for sizes in stores:
                    found += Counter({stage: round(size) for stage, size in sizes.items()})
        return found

    def new_tokens(self) -> float:
        """Tokens that a model generates in all its traces, in traces with a hint, and from perturbed reasonings."""
        n_traces = sum(self.n_problems.values()) * self._n_samples()
        n_traces += sum(map(self._n_hinted, self.study.hinted_datasets))
        in_traces = n_traces * (self.n_reasoned + self.n_answer)
        in_rollouts = sum(map(self._n_rollouts, self.study.resampled_datasets)) * (self.n_reasoned / 2 + self.n_answer)
        return in_traces + in_rollouts + sum(map(self._n_perturbed_tokens, self.study.perturbed_datasets))

    def hours_by_stage(self, name: str, device: Device) -> dict[str, float]:
        """About how many hours a model with weights takes on one device, by stage, the longest first."""
        operations = self.operations_by_stage(name, device.stepwise)
        return {stage: n / device.rate / 3600 for stage, n in operations.most_common() if n}

    def operations_by_stage(self, name: str, stepwise: float = CPU_CORE.stepwise) -> Counter[str]:
        """How many operations a model takes by stage, if all were in large products.

        stepwise: how much longer a generated token takes than one that is read.
        """
        study, geometry = self.study, self.geometries[name]
        n_layers, d_model = geometry.n_layers, geometry.d_model
        body, head = 2 * 12 * n_layers * d_model**2, 2 * d_model * geometry.vocabulary  # of a token
        read, written = PROMPT_TOKENS + self.n_reasoned + self.n_answer, round(stepwise * (body + head))
        found: Counter[str] = Counter()
        if not study.models[name].endpoint:
            found["traces"] = sum(self.n_problems.values()) * self._n_samples() * (read - PROMPT_TOKENS) * written
        for dataset, n_problems in self.n_problems.items():
            n_rerun = n_problems * study.decodings[study.attention.decoding].n_samples
            found["attention"] += n_rerun * (read + PROMPT_TOKENS + self.n_answer) * body
            if dataset in study.hinted_datasets and not study.models[name].endpoint:
                found["hints"] += self._n_hinted(dataset) * (read - PROMPT_TOKENS) * written
            if dataset in study.perturbed_datasets and not study.models[name].endpoint:
                found["perturbation"] += self._n_perturbed(dataset) * (read * body + self.n_answer * written)
            if name in study.parsed_models and dataset in study.graded_datasets:
                # the kept run, a tail for each sentence and answer, and what comes after each sentence in each arm
                n_parsed, n_sentences = self._n_parsed(dataset), self.n_reasoned / SENTENCE_TOKENS
                after = N_ARMS * (self.n_reasoned / 2 + TAIL_TOKENS)
                found["sentences"] += round(n_parsed * (read + n_sentences * (2 * TAIL_TOKENS + after)) * body)
            if name in study.parsed_models and dataset in study.resampled_datasets:
                n_written = round(self._n_rollouts(dataset) * (self.n_reasoned / 2 + self.n_answer))
                found["resampling"] += n_written * written
            if name in study.ablated_models and dataset in study.graded_datasets:
                n_traces, n_arms = self._ablated(dataset)
                found["ablation"] += n_traces * n_arms * self.n_answer * written // 2
            if name in study.patched_models and dataset in study.pair_datasets:
                found["patching"] += round(self._patches(dataset, geometry) * (TAIL_TOKENS * body / 2 + head))
                n_runs = n_problems // 2 * len(study.patching.probes)
                n_restarts = n_runs * self._patched_layers(n_layers) * (2 + len(study.patching.controls))
                found["patching"] += round(n_restarts * sum(self._range_ends()) * body / 2)
        shown = study.diagnostics
        for length in shown.lengths:
            n_prompts = len(shown.needles) * len(shown.depths)
            # read twice: to write the needle, and to see what the heads attend to meanwhile
            found["diagnostics"] += 2 * n_prompts * length * (body + 2 * length * d_model * n_layers)
        return found

    def _range_ends(self) -> list[int]:
        return doubling_ends(self.n_reasoned, self.study.patching.range_tokens)

    def _patched_layers(self, n_layers: int) -> float:
        """How many layers are patched, assuming that the scan adds half as many."""
        step = step_of(self.study.patching.layer_step, n_layers)
        return n_layers if step == 1 else min(n_layers, 1.5 * n_layers / step + 1)

    def _patches(self, dataset: str, geometry: Geometry) -> float:
        """The number of patches of single vectors in all pairs of a dataset."""
        settings, n_controls = self.study.patching, len(self.study.patching.controls)
        n_components, has_heads = len({*settings.components} - {"z"}), "z" in settings.components
        a_layer = (
            n_components * (2 * N_ROLES + n_controls * N_KEY_ROLES) + 2 * N_KEY_ROLES * geometry.n_heads * has_heads
        )
        n_runs = self.n_problems[dataset] // 2 * len(settings.probes)
        return n_runs * self._patched_layers(geometry.n_layers) * a_layer

    def _answers(self, dataset: str, token: int) -> dict[str, float]:
        """Bytes of a model's answers to a dataset, including figures."""
        n_traces, n_tokens = self.n_problems[dataset] * self._n_samples(), self.n_reasoned + self.n_answer
        sizes = {"traces": n_traces * (2 * ROW + token * (2 * PROMPT_TOKENS + n_tokens)), "the rest": FIGURES}
        n_shown = min(self.n_problems[dataset], self.study.explorer.n_problems)
        sizes["explorer"] = n_shown * (2 * ROW + token * (2 * PROMPT_TOKENS + n_tokens))
        if dataset in self.study.perturbed_datasets:
            answer = ROW + token / 2 * (PROMPT_TOKENS + self.n_reasoned)
            sizes["perturbation"] = self._n_perturbed(dataset) * answer + token * self._n_perturbed_tokens(dataset)
        if dataset in self.study.hinted_datasets:
            sizes["hints"] = self._n_hinted(dataset) * (2 * ROW + token * (2 * PROMPT_TOKENS + n_tokens))
        return sizes

    def _attention(self, dataset: str, geometry: Geometry) -> dict[str, float]:
        """Bytes of a dataset's attention stores, and of what the explorer shows from them."""
        settings, n_problems = self.study.attention, self.n_problems[dataset]
        n_heads, n_sentences = geometry.n_layers * geometry.n_heads, self.n_reasoned // SENTENCE_TOKENS
        n_rerun = n_problems * self.study.decodings[settings.decoding].n_samples
        n_kept = (n_heads if settings.row_heads == "all" else settings.n_top_heads) + 2
        itemsize = {"float16": 2, "float32": 4}[settings.row_dtype]
        rows = n_kept * self.n_answer * (PROMPT_TOKENS + self.n_reasoned) * itemsize
        case = min(rows, settings.case_megabytes * 1e6)
        n_cases = len(settings.case_uids.get(dataset, [])) or min(settings.n_cases, n_problems)
        n_shown = min(n_problems, self.study.explorer.n_problems)
        numbers = ATTENTION * n_heads * (2 * 17 + n_sentences + 1)
        return {
            "attention": n_rerun * (2 * numbers + 2 * 10 * CHUNK + 2 * 9 * PART),  # the store, and its parts
            "attention_rows": n_cases * (ROWS * case + 300 * CHUNK),
            "explorer": SHOWN * (n_shown * n_heads * (n_sentences + 1) + n_cases * case / itemsize),
        }

    def _ablated(self, dataset: str) -> tuple[int, int]:
        """The number of ablated traces of a dataset, and the number of arms of each."""
        settings = self.study.ablation
        n_drawn = len({"random", "matched"} & set(settings.selections))
        n_selected = 1 + len(settings.selections) + n_drawn * (settings.n_draws - 1)
        n_arms = 1 + len(settings.doses) * (len(settings.modes) * n_selected + ("cut_off" in settings.modes))
        n_ablated = min(self.n_problems[dataset], settings.n_problems or self.n_problems[dataset])
        return n_ablated, n_arms

    def _ablation(self, dataset: str, token: int) -> dict[str, float]:
        n_ablated, n_arms = self._ablated(dataset)
        return {"ablation": n_ablated * n_arms * (ROW + token * self.n_answer)}

    def _sentences(self, dataset: str) -> dict[str, float]:
        settings, n_sentences = self.study.sentences, self.n_reasoned / SENTENCE_TOKENS
        n_traces = self._n_parsed(dataset)
        by_sentence = SENTENCE + METRIC * N_SENTENCE_MEASURES
        matrices = min(n_traces, settings.n_matrices) * METRIC * n_sentences**2 / 2
        of_trace = n_sentences * by_sentence + 10 * CHUNK + 8 * PART
        return {"sentences": n_traces * of_trace + matrices + SENTENCE_STORE}

    def _n_parsed(self, dataset: str) -> int:
        """The number of a dataset's traces that are studied sentence by sentence."""
        return min(self.n_problems[dataset], self.study.sentences.n_problems or self.n_problems[dataset])

    def _patching(self, dataset: str, geometry: Geometry) -> dict[str, float]:
        """Bytes of a dataset's activations and patches, and of what the explorer shows from them."""
        settings, n_layers = self.study.patching, geometry.n_layers
        n_pairs, n_controls = self.n_problems[dataset] // 2, len(settings.controls)
        n_vectors = len({*settings.components} - {"z"}) * n_layers
        n_key_vectors = N_KEY_ROLES * n_layers * ("z" in settings.components)  # all heads' together are one
        numbers = (n_vectors * N_ROLES + n_key_vectors) * geometry.d_model + geometry.vocabulary
        n_patches = 2 * (n_vectors * N_ROLES + n_key_vectors * geometry.n_heads) + n_controls * n_vectors * N_KEY_ROLES
        n_patches += n_layers * (len(self._range_ends()) - 1) * (2 + n_controls)
        n_kinds = (2 + n_controls) * len(settings.components) + 1
        n_runs = n_pairs * len(settings.probes)
        n_followed = n_layers * (n_layers + 2) * (geometry.n_heads + 1) + 60 * n_layers
        return {
            "activations": n_runs * 2 * ACTIVATION * numbers,
            "patching": n_runs * (2 * METRIC * N_METRICS * n_patches + (CHUNK * N_METRICS + PART) * n_kinds),
            "mechanism": n_runs * (2 * METRIC * n_followed + 40 * (CHUNK + PART)),
            "explorer": SHOWN * n_pairs * n_vectors * N_ROLES * (2 + n_controls),
        }

    def _n_samples(self) -> int:
        return sum(decoding.n_samples for decoding in self.study.decodings.values())

    def _n_perturbed_tokens(self, dataset: str) -> float:
        """Tokens of these answers; a resampled reasoning is assumed to be half new on average."""
        kinds = self.study.perturbation.kinds
        n_open = self._n_perturbed(dataset, [kind for kind in kinds if PERTURBATION_KINDS[kind].leaves_open])
        return self._n_perturbed(dataset) * self.n_answer + n_open * self.n_reasoned / 2

    def _n_rollouts(self, dataset: str) -> float:
        """The number of rollouts from a dataset's traces; on average, each rewrites half of the reasoning."""
        chosen, n_sentences = self.study.resampling, self.n_reasoned / SENTENCE_TOKENS
        n_cuts = min(n_sentences + 1, 2 * (chosen.n_sentences or n_sentences))
        return min(self.n_problems[dataset], chosen.n_problems) * n_cuts * chosen.n_rollouts

    def _n_hinted(self, dataset: str) -> int:
        """The number of traces of a dataset's questions with a hint."""
        chosen = self.study.hints
        n_problems = min(self.n_problems[dataset], chosen.n_problems or self.n_problems[dataset])
        n_hints = len(chosen.kinds) * len(chosen.points_at)
        return n_problems * n_hints * self.study.decodings[chosen.decoding].n_samples

    def _n_perturbed(self, dataset: str, kinds: Sequence[str] | None = None) -> int:
        """The number of answers that a model gives from a dataset's perturbed reasonings, of some kinds or of all."""
        chosen = self.study.perturbation
        levels = [PERTURBATION_KINDS[kind].levels for kind in (chosen.kinds if kinds is None else kinds)]
        n_ways = sum(len(getattr(chosen, name)) if name else 1 for name in levels)
        n_problems = min(self.n_problems[dataset], chosen.n_problems or self.n_problems[dataset])
        return n_problems * n_ways * self.study.decodings[chosen.decoding].n_samples

    def _count(self, name: str, dataset: Dataset) -> int:
        """The number of a dataset's problems, two per pair, before areas and filters."""
        table, suffix = self.results / "datasets" / f"{name}.parquet", Path(dataset.path or "").suffix
        n_rows, n_sides = USUAL_PROBLEMS, 2 if dataset.kind == "comparison_pairs" else 1
        with contextlib.suppress(*UNREADABLE):
            if table.exists():
                from pyarrow.parquet import read_metadata

                return read_metadata(table).num_rows
        with contextlib.suppress(*UNREADABLE):
            if dataset.path and suffix in (".jsonl", ".csv"):
                with open(dataset.path, newline="", errors="replace") as file:
                    n_rows = sum(1 for _ in (csv.DictReader(file) if suffix == ".csv" else file))
                return n_sides * min(n_rows, dataset.n_problems or n_rows)
        if (dataset.n_problems or math.inf) > n_rows:
            self.assumed.append(f"{name} of {n_rows} problems")
        return n_sides * min(n_rows, dataset.n_problems or n_rows)

    def _geometry(self, name: str, model: Model) -> Geometry:
        """What the model's config.json says, if the model is local or downloaded."""
        with contextlib.suppress(*UNREADABLE):
            manifest = self.results / "models" / f"{name}.json"
            folder = model.path or json.loads(manifest.read_text())["folder"]
            found = json.loads((Path(folder) / "config.json").read_text())
            keys = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
            return Geometry(*(int(found[key]) for key in keys))
        said = re.findall(r"(\d+(?:\.\d+)?)b\b", str(model.hub or model.path).lower())
        size = min(USUAL, key=lambda size: abs(math.log(size / float(said[-1] if said else USUAL_SIZE))))
        self.assumed.append(f"{name} of {USUAL[size].n_layers} layers and {USUAL[size].d_model} dimensions")
        return USUAL[size]


def announce(study: Study, log: Logger) -> None:
    """Log what the study takes: one line on disk space, one on hours for each model, and one on what had to be assumed;
    and a warning if the disk has less space left.
    """
    reckoning = Reckoning(study)
    sizes = reckoning.bytes_by_stage()
    total = sizes.total()
    parts = ", ".join(f"{name} {_in_words(size)}" for name, size in sizes.most_common())
    log.info(
        f"The whole study takes about {_in_words(total)} in {reckoning.results}, reasoned traces taken to have "
        f"{reckoning.n_reasoned} tokens: {parts}."
    )
    hours = [
        f"{name} {reckoning.new_tokens() / model.tokens_per_second / 3600 * model.gpus:.1f}"
        for name, model in study.models.items()
        if model.tokens_per_second and model.gpus
    ]
    if hours:
        log.info(f"GPU hours of generation: {', '.join(hours)}.")
    for line in _hours_in_words(reckoning):
        log.info(line)
    if reckoning.assumed:
        log.info(f"Assumed until downloaded: {', '.join(reckoning.assumed)}.")
    there = next(folder for folder in (reckoning.results, *reckoning.results.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    stored = sum(path.stat().st_size for path in reckoning.results.glob("*/*/*.h5"))
    if free < total - stored:
        log.warning(
            f"WARNING: {there.resolve()} has {_in_words(free)} left, and what is still missing of the study takes "
            f"about {_in_words(total - stored)}: make room, or make results a link to a larger disk."
        )


def _hours_in_words(reckoning: Reckoning) -> Iterator[str]:
    """One line per model that is not a toy: hours by stage on its kind of device, corrected by the study's own jobs."""
    study = reckoning.study
    names = [name for name in reckoning.geometries if not study.models[name].is_toy]
    spent = {name: measured(study, name) for name in names}
    for kind, devices, own in (("GPU", GPUS, "A100"), ("CPU", {"one core": CPU_CORE}, "one core")):
        of_kind = [name for name in names if bool(study.models[name].gpus) == (kind == "GPU")]
        on_own = {name: reckoning.hours_by_stage(name, devices[own]) for name in of_kind}
        by_jobs = corrected(on_own, {name: spent[name] for name in of_kind})
        is_corrected = any(spent[name] for name in of_kind)
        for name, hours in by_jobs.items():
            if is_corrected:
                n_spent = sum(taken for taken, _ in spent[name].values())
                how, columns = f"by the study's jobs that ended, {n_spent:.1f} of them spent", [hours]
            else:
                how = f"if every trace and pair can be used, within a factor of two or so, on {' / '.join(devices)}"
                columns = [reckoning.hours_by_stage(name, device) for device in devices.values()]
            told = [stage for stage in hours if max(column[stage] for column in columns) >= 0.05]
            parts = ", ".join(f"{stage} {_side_by_side([column[stage] for column in columns])}" for stage in told)
            total = _side_by_side([sum(column.values()) for column in columns])
            remedy = LESS_BY[max(hours, key=hours.__getitem__)]
            n_threads = min(study.models[name].threads or 1, os.cpu_count() or 1)
            is_shared = kind == "CPU" and n_threads > 1
            here = f", {sum(columns[0].values()) / n_threads:.1f} on {n_threads} cores" if is_shared else ""
            yield f"{kind} hours of {name}, {how}: {total}{here} ({parts or 'minutes'}). Less by {remedy}."


def _side_by_side(hours: Sequence[float]) -> str:
    return " / ".join(f"{each:.1f}" for each in hours)


def _in_words(size: float) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= unit or unit == 1e3
    )
    return f"{size / unit:.{0 if size >= 10 * unit else 1}f} {name}"

"""Reads a study's configuration and reports everything that is wrong with it.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import copy
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from r2a.config_file import ANSWERS, heads_in_words, read_config, refused_stages
from r2a.extensions import PERTURBATION_KINDS
from r2a.formats import FORMATS
from r2a.roles import CUT
from r2a.study.misread import misread_in_words
from r2a.study.schema import Study
from r2a.study.section import PATTERNS, Section, section_in
from r2a.study.subjects import VARIED, Endpoint, Model

SHIPPED_JUDGES = {"weights": "path or hub", "endpoint": "endpoint", "batch": "batch"}  # the keys that ask for them
RENAMED = {"probes": "diagnostics"}  # keys of earlier versions
NOT_QUOTED = (type(None), list, dict)  # what is no text even in quotes
MOST_PASSES = 5  # over the errors; correcting one may reveal more, at most as many times as sections are nested


class ConfigError(Exception):
    """The configuration cannot be used; the message lists every error, one per line."""


def load_study(config: dict[str, Any], origin: str = "the configuration", files: Sequence[Path | str] = ()) -> Study:
    """The study that a parsed configuration describes. Raises ConfigError with every error, in words.

    files: those that it was parsed from, which are searched for what YAML reads otherwise than it looks.
    """
    where = " ({})" * (len(files) > 1)
    lines = [words + where.format(file) for file in files for words in misread_in_words(file)]
    lines += _variants_in_words(config)
    config = _with_variants(config)
    study, errors = _as_far_as_possible(config)
    lines = [_in_words(error) for error in errors] + lines
    if study is not None:
        at_fault = [_place(error) for error in errors if error["type"] != "extra_forbidden"]
        lines += [
            f"{place}: {words}" for place, words in _relations_in_words(study) if not _touches_any(place, at_fault)
        ]
    if lines or study is None:
        raise ConfigError(f"{origin} has {len(lines)} error{'s' * (len(lines) > 1)}:\n  " + "\n  ".join(lines))
    return study


def left_out_in_words(study: Study) -> Iterator[str]:
    """One line per model whose config.json, if it is at hand, shows that it or some of its stages will be refused.

    And one if perturbed answers have nothing to be tested against.
    """
    if study.perturbed_datasets and not (CUT in study.perturbation.kinds and 100 in study.perturbation.cuts):
        yield (
            "perturbation: no answers are tested against those after the whole reasoning; name cut among kinds, and "
            "100 among cuts"
        )
    for name in study.weighted_models:
        model = study.models[name]
        config = read_config(model.path, model.hub, model.revision)
        reason, refused = refused_stages(config) if config else ("", ())
        asked = ["attention"]
        asked += ["ablation"] * (name in study.ablated_models and bool(study.graded_datasets))
        asked += ["patching"] * (name in study.patched_models and bool(study.pair_datasets))
        asked += ["sentences"] * (name in study.parsed_models and bool(study.graded_datasets))
        empty = [stage for stage in asked if stage in refused]
        if ANSWERS in refused:
            yield f"models.{name}: {reason}, so resolve_model will refuse it; remove it, or study another checkpoint"
        elif empty:
            *held, last = ["answers", "perturbation", *(stage for stage in asked if stage not in refused)]
            left_out = f" (leave_out: [{', '.join(empty)}] takes them out of the study)"
            yield (
                f"models.{name}: {reason}, so its {', '.join(held)} and {last} are studied; the stores of "
                f"{', '.join(empty)} will be empty{'' if 'attention' in empty else left_out}"
            )


def _as_far_as_possible(config: dict[str, Any]) -> tuple[Study | None, Sequence[Any]]:
    """The study and pydantic's errors. If there are errors, defaults or stand-ins replace the wrong values; the study
    is None where nothing can stand in.
    """
    config = copy.deepcopy(config)
    first: Sequence[Any] = ()
    for _ in range(MOST_PASSES):
        try:
            return Study.model_validate(config), first
        except ValidationError as error:
            errors = _without_types(error.errors())
        first = first or errors
        for fault in errors:
            _put_right(config, fault)
    return None, first


def _without_types(errors: Sequence[Any]) -> Sequence[Any]:
    """The errors in a value that may be a name or a section, reduced to those of the type that was given."""
    found = []
    for error in errors:
        before, is_member, after = error["loc"], False, ()
        if "reasoning_format" in before[:-1]:
            k = before.index("reasoning_format") + 1
            before, is_member, after = before[:k], True, before[k + 1 :]
        if not is_member or after or not isinstance(error["input"], dict):
            found.append({**error, "loc": (*before, *after)})
    return found


def _put_right(config: dict[str, Any], error: Any) -> None:
    """Remove the value that an error is about; if a key that takes a plain value is missing, put a stand-in there."""
    *path, last = [part for part in error["loc"] if part != "[key]"]
    place: Any = config
    section: type[Section] | None = Study
    for part in path:
        if not isinstance(place, dict | list) or isinstance(place[part], str | int | float | None):
            last = part  # one of the types that a value may have
            break
        place = place[part]
        if section is not None and part in section.model_fields:
            section = section_in(section.model_fields[part].annotation)
    if error["type"] != "missing":
        place.pop(last, None) if isinstance(place, dict) else place.__setitem__(slice(None), [])
    elif section is not None and not section_in(section.model_fields[last].annotation):
        kind: Any = section.model_fields[last].annotation
        place[last] = next(iter(get_args(kind)), {int: 1, float: 0}.get(kind, "missing"))


def _place(error: Any) -> str:
    """The key that an error is about; a name that YAML did not read as a text as what it was read as."""
    parts = [str(part) for part in error["loc"]]
    return ".".join([*parts[:-2], str(error["input"])] if parts[-1] == "[key]" else parts)


def _touches_any(place: str, others: Sequence[str]) -> bool:
    """Whether a place equals one of the others, contains one, or lies inside one."""
    return any(f"{place}.".startswith(f"{other}.") or f"{other}.".startswith(f"{place}.") for other in others)


def _with_variants(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with every variant completed from its base's entry, except for its label and the keys it sets
    itself.
    """
    models = _model_entries(config)
    if not any("variant_of" in entry for entry in models.values()):
        return config
    bases = {name: {k: v for k, v in entry.items() if k != "label"} for name, entry in models.items()}
    complete = {name: {**bases.get(str(entry.get("variant_of")), {}), **entry} for name, entry in models.items()}
    return {**config, "models": {**config["models"], **complete}}


def _model_entries(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = config.get("models")
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _variants_in_words(config: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a variant as written, given the model that it varies."""
    models = _model_entries(config)
    mains = [name for name, entry in models.items() if "variant_of" not in entry]
    defaults = {key: Model.model_fields[key].default for key in VARIED}
    for name, entry in models.items():
        place = f"models.{name}.variant_of"
        if "variant_of" not in entry:
            if entry.get("think_tags") == "pieces":
                yield f"models.{name}.think_tags: only variants spell tags in pieces; set variant_of"
            continue
        if entry["variant_of"] not in mains:
            yield f"{place}: {entry['variant_of']!r} is not one of the models that can be varied ({', '.join(mains)})"
            continue
        base = defaults | models[entry["variant_of"]]
        if all(entry.get(key, base[key]) == base[key] for key in VARIED):
            yield f"{place}: nothing is varied; change {', '.join(VARIED[:-1])} or {VARIED[-1]}"
        own = [key for key in ("path", "hub", "revision") if key in entry]
        if own:
            yield f"{place}: a variant has its base's weights; remove {' and '.join(own)}"
        if entry.get("think_tags") == "pieces" and not (base.get("path") or base.get("hub")):
            yield f"models.{name}.think_tags: {entry['variant_of']} is sent text, which its server tokenizes"


def _relations_in_words(study: Study) -> Iterator[tuple[str, str]]:
    """What no single key shows, each with its place: files that do not exist, names that nothing has."""
    yield from _sources_in_words(study)
    for name, model in study.models.items():
        if model.endpoint:
            yield from _endpoint_in_words(f"models.{name}", model, model.endpoint)
        options = [key for key in ("repetition", "reasoning_budget") if getattr(study.generation, key) is not None]
        if options and model.endpoint:
            asked = f"{' and '.join(options)} cannot be requested from models.{name}.endpoint"
            yield "generation", f"{asked}; put the server's own fields into its body"
        yield from _format_in_words(f"models.{name}", model)
    for section in ("models", "datasets", "judges"):
        yield from _alike_in_words(section, getattr(study, section))
    for name, dataset in study.datasets.items():
        if study.judges and dataset.kind == "open_ended" and not dataset.fields.checklist:
            yield f"datasets.{name}.fields.checklist", "missing; judges work through it, so name its column"
        if dataset.single_turn and not dataset.fields.conversation:
            yield f"datasets.{name}.single_turn", "needs fields.conversation, the column that holds the turns"
    yield from _decodings_in_words(study)
    for name in study.attention.case_uids:
        if name not in study.datasets:
            yield "attention.case_uids", f"{name!r} is not one of the datasets ({', '.join(study.datasets)})"
    if not Path(study.diagnostics.haystack).is_file():
        yield (
            "diagnostics.haystack",
            f"{study.diagnostics.haystack} is not a file; paths are relative to the repository",
        )
    for kind in study.perturbation.kinds:
        for other in PERTURBATION_KINDS[kind].compared_with:
            plain = [name for name, known in PERTURBATION_KINDS.items() if not known.levels]
            if other not in plain:
                words = f"{kind} is compared with {other}, which is not a kind without levels"
                yield "perturbation.kinds", f"{words}; {closest(other, plain)}"
    if "paraphrase_by_model" in study.perturbation.kinds and study.perturbation.paraphraser is None:
        words = "missing; paraphrase_by_model needs it. The kind paraphrase works by rules and needs no server"
        yield "perturbation.paraphraser", words
    if "resid_pre" not in study.patching.components:
        yield "patching.components", "resid_pre is missing; figures and the hand-off layer need it"
    if "none" in study.patching.probes and not study.patching.keep_reasoning:
        yield (
            "patching.keep_reasoning",
            "probe none patches the model's own reasoning; set it to true, or leave none out",
        )


def _alike_in_words(section: str, entries: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Which entries tables would count as one, because they share a label, or which some file systems would."""
    labels = Counter(str(entry.label) for entry in entries.values())
    shared = sorted(label for label, n_entries in labels.items() if n_entries > 1)
    if shared:
        yield section, f"several have the label {', '.join(shared)}; give each one its own"
    names = Counter(map(str.lower, entries))
    alike = [name for name in entries if names[name.lower()] > 1]
    if alike:
        yield section, f"{', '.join(alike)} differ in case alone, so some file systems mix up their files; rename them"


def _format_in_words(place: str, model: Model) -> Iterator[tuple[str, str]]:
    """What is wrong with how a model's reasoning is recognized, or with how it is asked not to think."""
    name = model.reasoning_format
    if isinstance(name, str) and name not in list(FORMATS):
        yield f"{place}.reasoning_format", f"{name!r} is not a known reasoning format; known: {', '.join(FORMATS)}"
    elif isinstance(name, str) and model.without_reasoning == "native" and not FORMATS[name].function().no_think:
        words = f"{name} cannot be asked not to think; use finished or empty"
        if not {"without_reasoning"} & {*model.template_arguments, *model.system_turn}:
            yield f"{place}.without_reasoning", f"{words}, or say how in template_arguments.without_reasoning"
    if model.prompt == "raw":
        for key in ("template_arguments", "system_turn"):
            if getattr(model, key):
                yield f"{place}.{key}", "a raw prompt has no chat template; set prompt: chat"
        if model.without_reasoning == "native":
            yield f"{place}.without_reasoning", "native needs the chat template; set prompt: chat"


def _sources_in_words(study: Study) -> Iterator[tuple[str, str]]:
    """What is wrong with where models, datasets and judges are."""
    for section in ("models", "datasets", "judges"):
        for name, entry in getattr(study, section).items():
            ways = ["path", "hub", "endpoint", "batch", "kind"] if section == "judges" else ["path", "hub"]
            n_given = sum(getattr(entry, way) is not None for way in ways)
            served = section == "models" and entry.endpoint is not None
            if n_given != 1 and not (served and n_given == 0):
                words = "path (local) and hub (an id on the Hugging Face hub)"
                words += ", or an endpoint" if section == "models" else ""
                words = "path, hub, endpoint, batch and kind" if section == "judges" else words
                yield f"{section}.{name}", f"give exactly one of {words}"
            elif section == "judges" and entry.kind in SHIPPED_JUDGES:
                yield f"{section}.{name}.kind", f"for kind {entry.kind}, set {SHIPPED_JUDGES[entry.kind]} instead"
            if entry.path is not None and not Path(entry.path).exists():
                yield f"{section}.{name}.path", f"{entry.path} does not exist; paths are relative to the repository"
            elif entry.path is not None and set("{}") & set(entry.path):
                yield (
                    f"{section}.{name}.path",
                    f"{entry.path} has braces, which Snakemake takes for wildcards; rename it",
                )
            elif entry.path is not None and section != "datasets" and not Path(entry.path).is_dir():
                yield f"{section}.{name}.path", f"{entry.path} is no folder; name the one with its *.safetensors files"
            if section != "datasets" and not entry.endpoint:
                unsplit = heads_in_words(read_config(entry.path, entry.hub, entry.revision) or {}, entry.gpus)
                if unsplit:
                    yield f"{section}.{name}.gpus", unsplit


def _endpoint_in_words(place: str, model: Model, endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    """What is wrong between a model's endpoint and the rest of its entry."""
    if model.path or model.hub:
        if endpoint.kind == "chat":
            yield f"{place}.endpoint.kind", "with path or hub, tokens are sent, so use completions"
        return
    if model.shards != 1:
        yield f"{place}.shards", "a single job queries an endpoint; raise endpoint.max_concurrency instead"
    if endpoint.kind != {"raw": "completions", "chat": "chat"}[model.prompt]:
        words = "without path or hub, prompt raw goes with completions, and prompt chat with chat"
        yield f"{place}.endpoint.kind", words


def _decodings_in_words(study: Study) -> Iterator[tuple[str, str]]:
    """What is wrong with the decodings, and with the stages that read the traces of one of them."""
    for name, decoding in study.decodings.items():
        if decoding.temperature == 0 and decoding.n_samples != 1:
            yield f"decodings.{name}.n_samples", "greedy decoding gives the same text each time; set it to 1"
    needs_greedy = {
        "patching": "pairs need greedy decoding (temperature 0)",
        "ablation": "ablated answers are decoded greedily",
    }
    for stage, section in study:
        used = getattr(section, "decoding", None)
        if used is not None and used not in study.decodings:
            yield f"{stage}.decoding", f"{used!r} is not one of the decodings ({', '.join(study.decodings)})"
        elif used is not None and stage in needs_greedy and study.decodings[used].temperature != 0:
            yield f"{stage}.decoding", f"{used!r} samples, but {needs_greedy[stage]}"


def _in_words(error: Any) -> str:
    """One of pydantic's errors, as a sentence that names the key and the remedy."""
    place, kind = _place(error), error["type"]
    if kind == "extra_forbidden" and place in RENAMED:
        return f"{place}: is now called {RENAMED[place]}; rename the key"
    if kind == "extra_forbidden":
        return f"{place}: unknown key; {closest(str(error['loc'][-1]), _known_keys(error['loc'][:-1]))}"
    if kind == "missing":
        return f"{place}: missing; see config/README.md"
    if kind == "string_pattern_mismatch":
        return f"{place}: {PATTERNS[error['ctx']['pattern']]}"
    if kind == "too_short":
        return f"{place}: needs at least one entry"
    if kind == "value_error":
        return f"{place}: {error['ctx']['error']}"
    if kind in ("model_type", "dict_type") and error["input"] is None:
        return f"{place}: is empty; remove it, or give it keys from config/README.md"
    quote = "; put it in quotes" if kind == "string_type" and not isinstance(error["input"], NOT_QUOTED) else ""
    return f"{place}: {error['msg'][0].lower()}{error['msg'][1:]} (found {error['input']!r}{quote})"


def closest(key: str, known: Sequence[str]) -> str:
    """The known keys that may be meant, or all of them."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    section: type[Section] = Study
    for part in location:
        field = section.model_fields.get(part)
        section = (field and section_in(field.annotation)) or section
    return list(section.model_fields)

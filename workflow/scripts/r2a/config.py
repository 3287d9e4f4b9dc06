"""The study's configuration: its schema, its checks, and what each stage depends on.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Bumped when a stage's results change; part of the stage's params, so Snakemake reruns it.
STAGE_VERSIONS = {
    "datasets": 1,
    "models": 1,
    "traces": 1,
    "grades": 1,
    "evaluation": 1,
    "disagreements": 1,
    "attention": 1,
    "attention_rows": 1,
    "heads": 1,
    "pairs": 1,
    "activations": 1,
    "patching": 1,
    "explorer": 1,
    "figures": 1,
    "summary": 1,
}
MODEL_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")
DATASET_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".md")  # a dataset's README.md names its subsets' files
CONDITIONS = ("with_reasoning", "without_reasoning")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class ConfigError(Exception):
    """The configuration cannot be used; the message lists every error, one a line."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Source(Section):
    """Something on disk or on the Hugging Face hub."""

    path: str | None = Field(None, description="Local file or folder, relative to the repository.")
    hub: str | None = Field(None, description="Id on the Hugging Face hub, in place of path.")
    revision: str | None = Field(None, description="Commit, tag or branch on the hub.")


class Endpoint(Section):
    """A server with OpenAI's interface that generates a model's traces."""

    base_url: str = Field(pattern=r"^https?://[^\s@]+$", description="Address up to /v1, without a key in it.")
    model: str = Field(description="The server's name for the model.")
    kind: Literal["completions", "chat"] = Field(
        "completions",
        description="completions: the whole prompt as tokens, or as text where the model has neither path nor hub. "
        "chat: question and opened reasoning as two messages, for servers that complete the second.",
    )
    api_key_variable: str | None = Field(None, description="Environment variable that holds the key, if any.")
    max_concurrency: int = Field(16, gt=0, description="Requests under way at a time.")
    timeout_seconds: int = Field(1800, gt=0, description="Wall time of one request; then it is sent again.")
    body: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of every request, e.g. {return_token_ids: true}."
    )
    prefill: dict[str, Any] = Field(
        default_factory=dict,
        description="Further fields of the message that opens the reasoning (kind chat), e.g. {prefix: true}.",
    )


class Model(Source):
    label: str | None = Field(None, description="Name in figures and tables; the key by default.")
    prompt: Literal["raw", "chat"] = Field(
        "raw", description="raw: the paper's format. chat: the model's own template."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="Weights and activations, in vLLM and in reruns."
    )
    is_toy: bool = Field(False, description="Marks every page that shows this model's results as a toy's.")
    endpoint: Endpoint | None = Field(
        None, description="Generates the traces, in place of vLLM here. Without path or hub there is nothing else."
    )
    gpus: int = Field(0, ge=0, description="GPUs a job of this model asks for; vLLM splits the model over them.")
    threads: int = Field(1, gt=0, description="CPU threads a job of this model uses.")
    memory_mb: int = Field(4000, gt=0, description="Main memory a job of this model asks for, in MB.")
    runtime_minutes: int = Field(60, gt=0, description="Wall time a job of this model asks for, in minutes.")


class Fields(Section):
    """Where a row holds what; dots reach into nested values, e.g. conversation.0.content."""

    uid: str | None = Field("uid", description="Unique name of the problem; null numbers the rows.")
    problem: str = Field("problem", description="The problem's text.")
    answer: str | None = Field("answer", description="Reference answer; null where the data has none.")
    answer_after: str | None = Field(
        None, description="The reference is what follows the last of these in the answer, e.g. '####'."
    )
    wrong_answers: list[str] = Field(
        [],
        description="Columns of wrong answers. With the right one, in an order drawn by the study's seed, they are "
        "appended to the problem as choices (A), (B) and so on; the reference is the right one's letter.",
    )
    area: str | None = Field("area", description="Area that results are shown by.")
    level: str | None = Field("level", description="Level of difficulty.")


class Dataset(Source):
    kind: Literal["problems", "comparison_pairs", "open_ended"] = Field(
        description="problems: with reference answers. comparison_pairs: two questions a row. open_ended: no answers."
    )
    label: str | None = Field(None, description="Name in figures and tables; the key by default.")
    subset: str | None = Field(None, description="Configuration of a dataset on the hub or in a folder.")
    split: str = Field("test", description="Split of a dataset on the hub or in a folder.")
    instruction: str = Field("", description="Appended to each problem, as it is.")
    fields: Fields = Field(
        default_factory=Fields, description="Names of the columns, for kinds other than comparison_pairs."
    )
    areas: dict[str, str | None] | None = Field(None, description="Renames areas; null leaves the area's problems out.")
    filter: dict[Literal["area", "level"], list[str | int]] = Field(
        {}, description="Only problems of these areas (as renamed) and levels, e.g. {level: [4, 5]}."
    )
    n_problems: int | None = Field(
        None, gt=0, description="Only so many of the problems (or pairs) left, drawn by the study's seed."
    )


class Decoding(Section):
    temperature: float = Field(ge=0, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus; by default the model's own generation config.")
    n_samples: int = Field(1, gt=0, description="Completions a problem and condition.")


class Generation(Section):
    max_new_tokens: int = Field(10_000, gt=0, description="Length limit of a completion, in tokens (paper: 10,000).")
    without_reasoning: Literal["finished", "empty"] = Field(
        "finished", description="How the reasoning is closed beforehand (METHOD section 1)."
    )
    gpu_memory_percent: int = Field(
        90, gt=0, le=100, description="Share of a GPU's memory that vLLM may use, in percent."
    )
    cpu_cache_mb: int = Field(256, gt=0, description="Key-value cache of vLLM on a CPU, in MB.")


class Grading(Section):
    graders: list[Literal["policy", "math_verify", "paper"]] = Field(
        ["policy"],
        min_length=1,
        description="How answers are judged: policy (METHOD section 2), math_verify as it comes, or as in the paper. "
        "The first's verdicts are the study's; a table lists where the others differ.",
    )
    seconds: float = Field(10, gt=0, description="Wall time for one answer; beyond it the verdict is timeout.")
    memory_mb: int = Field(2000, gt=0, description="Memory of a grading process, in MB.")


class Statistics(Section):
    n_resamples: int = Field(10_000, ge=100, description="Bootstrap and permutation draws.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of every interval.")


class Attention(Section):
    decoding: str = Field("greedy", description="The decoding whose traces are rerun.")
    n_top_heads: int = Field(10, gt=0, description="Reasoning-Focus Heads per model (paper: 10).")
    kernel: Literal["fused", "eager"] = Field(
        "fused", description="fused: at a forward pass's price. eager: transformers' own, the slow reference."
    )
    cue_words: list[Annotated[str, Field(min_length=1)]] = Field(
        ["Wait", "Alternatively", "Hmm", "check"],
        min_length=1,
        description="Words of self-reflection in the reasoning; whole words, in either case.",
    )
    batch_tokens: int = Field(
        16_384, gt=0, description="Tokens that one forward pass may hold; halved when memory runs out."
    )
    n_cases: int = Field(
        3, gt=0, description="Traces with reasoning whose attention rows are kept, drawn by the study's seed."
    )
    case_uids: dict[Name, Annotated[list[str], Field(min_length=1)]] = Field(
        {}, description="The traces of these problems in their place, e.g. {my-problems: [first, second]}."
    )
    row_heads: Literal["rfhs", "all"] = Field("rfhs", description="Heads whose rows are kept one by one.")
    row_dtype: Literal["float16", "float32"] = Field("float16", description="What rows are stored as.")
    case_megabytes: float = Field(
        8,
        gt=0,
        description="What a case's rows may take before compression; beyond it, answer tokens are left out evenly.",
    )


class Patching(Section):
    decoding: str = Field("greedy", description="The decoding whose traces make the pairs.")
    probe: Literal["plain", "boxed"] = Field(
        "plain", description="plain: 'Final answer is X.' (v0); boxed: X in a box (v1)."
    )
    keep_reasoning: bool = Field(
        True, description="Keep the model's own reasoning before the probe; else the probe alone."
    )
    components: list[Literal["resid_pre", "resid_mid", "attn_out", "mlp_out"]] = Field(
        ["resid_pre", "attn_out", "mlp_out"],
        description="What is patched; resid_pre, which figures and the hand-off layer show, must be among them.",
    )
    batch_tokens: int = Field(4096, gt=0, description="Tokens that are computed at a time.")


class Explorer(Section):
    decoding: str = Field("greedy", description="The decoding whose traces the trace explorer shows.")
    n_problems: int = Field(
        100, gt=0, description="Problems of each model and dataset that it shows, those with attention rows first."
    )


class Study(Section):
    """A study: models x datasets x conditions x decodings, and the settings of its stages."""

    study: Name = Field(description="Results go to results/{study}.")
    seed: int = Field(description="Every random choice derives from it.")
    models: dict[Name, Model] = Field(min_length=1, description="The models, by name.")
    datasets: dict[Name, Dataset] = Field(min_length=1, description="The datasets, by name.")
    decodings: dict[Name, Decoding] = Field(min_length=1, description="The decodings, by name.")
    generation: Generation = Field(default_factory=Generation)
    grading: Grading = Field(default_factory=Grading)
    statistics: Statistics = Field(default_factory=Statistics)
    attention: Attention = Field(default_factory=Attention)
    patching: Patching = Field(default_factory=Patching)
    explorer: Explorer = Field(default_factory=Explorer)

    @property
    def environment(self) -> str:
        """Name of the lock in envs/ that the study's jobs need."""
        return "gpu" if any(model.gpus for model in self.models.values()) else "cpu"

    @property
    def graded_datasets(self) -> list[str]:
        """The datasets whose answers have a reference."""
        return [name for name, dataset in self.datasets.items() if dataset.kind != "open_ended"]

    @property
    def pair_datasets(self) -> list[str]:
        """The datasets that patching runs on."""
        return [name for name, dataset in self.datasets.items() if dataset.kind == "comparison_pairs"]

    @property
    def weighted_models(self) -> list[str]:
        """The models whose weights are known, and so their attention and activations."""
        return [name for name, model in self.models.items() if model.path or model.hub]

    def endpoint_resources(self, model: str) -> dict[str, str | int]:
        """Where a model's endpoint is and how fast to ask it, which changes no results; empty without one."""
        endpoint = self.models[model].endpoint
        if endpoint is None:
            return {"base_url": "", "api_key_variable": "", "max_concurrency": 0, "timeout_seconds": 0}
        names = {"base_url", "api_key_variable", "max_concurrency", "timeout_seconds"}
        return {key: value or "" for key, value in endpoint.model_dump(include=names).items()}

    def source_files(self, entry: Source) -> list[str]:
        """The files that a local model or dataset is read from; none for one on the hub."""
        if entry.path is None:
            return []
        path = Path(entry.path)
        if not path.is_dir():
            return [str(path)]
        if isinstance(entry, Model):
            return sorted(str(file) for file in path.iterdir() if file.suffix in MODEL_SUFFIXES)
        return sorted(str(file) for file in path.rglob("*") if file.suffix in DATASET_SUFFIXES)

    def model_label(self, name: str) -> str:
        return self.models[name].label or name

    def dataset_label(self, name: str) -> str:
        return self.datasets[name].label or name

    def stage(self, name: str, model: str | None = None, dataset: str | None = None) -> dict[str, Any]:
        """Plain values that a stage's results depend on: its version, the seed and its settings.

        Settings that change how fast a result comes, not what it is, are left out.
        """
        params: dict[str, Any] = {
            "stage": name,
            "version": STAGE_VERSIONS[name],
            "study": self.study,
            "seed": self.seed,
        }
        if name == "explorer":
            params |= self.explorer.model_dump()
        if name in ("explorer", "figures", "summary"):
            params["is_toy"] = any(entry.is_toy for entry in self.models.values())
        if model is not None:
            settings = self.models[model]
            params |= {"model": model, "model_label": self.model_label(model), "is_toy": settings.is_toy}
            params |= {"source": settings.model_dump(include={"path", "hub", "revision"})}
            params |= {"dtype": settings.dtype, "prompt": settings.prompt}
            if name in ("models", "traces"):
                fields = {"model", "kind", "body", "prefill"}
                params["endpoint"] = settings.endpoint and settings.endpoint.model_dump(include=fields)
        if dataset is not None:
            params |= {
                "dataset": dataset,
                "dataset_label": self.dataset_label(dataset),
                "kind": self.datasets[dataset].kind,
            }
        if name == "datasets" and dataset is not None:
            params |= self.datasets[dataset].model_dump(exclude={"label", "instruction"})
        if name == "traces" and dataset is not None:
            params["instruction"] = self.datasets[dataset].instruction
            params["decodings"] = {key: decoding.model_dump() for key, decoding in self.decodings.items()}
            params |= self.generation.model_dump(include={"max_new_tokens", "without_reasoning"})
        if name == "grades":
            params |= self.grading.model_dump()
        if name == "disagreements":
            params["graders"] = self.grading.graders
        if name in ("evaluation", "heads", "patching", "figures"):
            params |= self.statistics.model_dump()
        if name == "attention":
            params |= self.attention.model_dump(include={"decoding", "kernel", "cue_words"})
            params["is_greedy"] = self.decodings[self.attention.decoding].temperature == 0
        if name == "attention_rows" and dataset is not None:
            fields = {"decoding", "kernel", "cue_words", "n_cases", "row_heads", "row_dtype", "case_megabytes"}
            params |= self.attention.model_dump(include=fields)
            params["uids"] = self.attention.case_uids.get(dataset, [])
        if name == "heads":
            params |= self.attention.model_dump(include={"n_top_heads"})
        if name in ("pairs", "patching"):
            params |= self.patching.model_dump(exclude={"batch_tokens", "components"})
        if name in ("activations", "patching"):
            params["components"] = self.patching.components
        return params


def load_study(config: dict[str, Any], origin: str = "the configuration") -> Study:
    """The study that a parsed configuration describes. Raises ConfigError with every error, in words."""
    lines = _relations_in_words(config)
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        lines = [_in_words(item) for item in error.errors()] + lines
    if lines:
        raise ConfigError(f"{origin} has {len(lines)} error{'s' * (len(lines) > 1)}:\n  " + "\n  ".join(lines))
    return study


def _relations_in_words(config: dict[str, Any]) -> list[str]:
    """What no single key can tell: places that don't exist, names that nothing bears."""

    def entries(section: str) -> dict[str, dict[str, Any]]:
        found = config.get(section)
        return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}

    lines = []
    for section in ("models", "datasets"):
        for name, entry in entries(section).items():
            path, hub = entry.get("path"), entry.get("hub")
            endpoint = entry.get("endpoint") if section == "models" else None
            if (path is None) == (hub is None) and not (endpoint and path is None):
                lines.append(
                    f"{section}.{name}: give exactly one of path (local) and hub (an id on the Hugging Face hub)"
                    + (", or an endpoint" if section == "models" else "")
                )
            if isinstance(endpoint, dict):
                lines += _endpoint_in_words(name, entry, endpoint)
            if isinstance(path, str) and not Path(path).exists():
                lines.append(f"{section}.{name}.path: {path} does not exist; paths start at the repository's root")
    grading = config.get("grading")
    graders = grading.get("graders") if isinstance(grading, dict) else None
    if isinstance(graders, list) and any(graders.count(grader) > 1 for grader in graders):
        lines.append("grading.graders: a grader is named twice")
    decodings = entries("decodings")
    for name, decoding in decodings.items():
        if decoding.get("temperature") == 0 and decoding.get("n_samples", 1) != 1:
            lines.append(f"decodings.{name}.n_samples: greedy decoding gives the same text each time; set it to 1")
    for stage in ("attention", "patching", "explorer"):
        used = config.get(stage)
        used = used.get("decoding", "greedy") if isinstance(used, dict) else "greedy"
        if used not in decodings:
            lines.append(f"{stage}.decoding: {used!r} is none of the decodings ({', '.join(decodings)})")
        elif stage == "patching" and decodings[used].get("temperature") != 0:
            lines.append(f"patching.decoding: {used!r} samples; pairs need a greedy decoding (temperature 0)")
    attention = config.get("attention")
    case_uids = attention.get("case_uids") if isinstance(attention, dict) else None
    for name in case_uids if isinstance(case_uids, dict) else ():
        if name not in entries("datasets"):
            lines.append(f"attention.case_uids: {name!r} is none of the datasets ({', '.join(entries('datasets'))})")
    patching = config.get("patching")
    components = patching.get("components") if isinstance(patching, dict) else None
    if isinstance(components, list) and "resid_pre" not in components:
        lines.append("patching.components: resid_pre is missing; figures and the hand-off layer are read from it")
    return lines


def _endpoint_in_words(name: str, entry: dict[str, Any], endpoint: dict[str, Any]) -> list[str]:
    """What is wrong between a model's endpoint and the rest of its entry."""
    kind, place = endpoint.get("kind", "completions"), f"models.{name}.endpoint.kind"
    if entry.get("path") or entry.get("hub"):
        return [f"{place}: with path or hub, tokens are sent; use completions"] if kind == "chat" else []
    fitting = {"raw": "completions", "chat": "chat"}.get(entry.get("prompt", "raw"))
    if fitting and kind != fitting:
        return [f"{place}: without path or hub, prompt raw goes with completions, and prompt chat with chat"]
    return []


def _in_words(item: Any) -> str:
    """One of pydantic's errors, as a sentence that names the key and the remedy."""
    place = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"{place}: unknown key; " + (f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}")
    if item["type"] == "missing":
        return f"{place}: missing; see config/README.md"
    if item["type"] == "string_pattern_mismatch":
        return f"{place}: a name has letters, digits, '-', '_' and '.' only, and starts with a letter or digit"
    if item["type"] == "too_short":
        return f"{place}: needs at least one entry"
    return f"{place}: {item['msg'][0].lower()}{item['msg'][1:]} (found {item['input']!r})"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Study
    by_key: dict[str, type[BaseModel]] = {
        "models": Model,
        "datasets": Dataset,
        "decodings": Decoding,
        "fields": Fields,
        "endpoint": Endpoint,
    }
    for part in location:
        field = section.model_fields.get(part)
        if part in by_key:
            section = by_key[part]
        elif field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
    return list(section.model_fields)

"""The study's configuration: its schema, its checks, and what each stage depends on.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import csv
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from r2a.engine import heads_in_words

# Bumped when a stage's results change; part of the stage's params, so Snakemake reruns it.
STAGE_VERSIONS = {
    "datasets": 2,
    "models": 1,
    "judges": 1,
    "traces": 1,
    "grades": 1,
    "judgements": 1,
    "perturbation": 1,
    "evaluation": 3,
    "judge_tables": 1,
    "disagreements": 1,
    "attention": 1,
    "attention_rows": 1,
    "probes": 1,
    "heads": 2,
    "attention_quality": 1,
    "ablation": 1,
    "ablation_effect": 2,
    "pairs": 2,
    "activations": 2,
    "patching": 2,
    "explorer": 2,
    "figures": 1,
    "summary": 2,
}
MODEL_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")
DATASET_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".md")  # a dataset's README.md names its subsets' files
CONDITIONS = ("with_reasoning", "without_reasoning")
VARIED = ("prompt", "without_reasoning", "think_tags", "dtype")  # what a variant may have otherwise than its base
PAPER_NUMBERS = "resources/paper_numbers.csv"
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


class Server(Section):
    """A server with OpenAI's interface."""

    base_url: str = Field(pattern=r"^https?://[^\s@]+$", description="Address up to /v1, without a key in it.")
    model: str = Field(description="The server's name for the model.")
    api_key_variable: str | None = Field(None, description="Environment variable that holds the key, if any.")
    max_concurrency: int = Field(16, gt=0, description="Requests under way at a time.")
    timeout_seconds: int = Field(1800, gt=0, description="Wall time of one request; then it is sent again.")
    body: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of every request, e.g. {return_token_ids: true}."
    )


class Endpoint(Server):
    """A server that generates a model's traces."""

    kind: Literal["completions", "chat"] = Field(
        "completions",
        description="completions: the whole prompt as tokens, or as text where the model has neither path nor hub. "
        "chat: question and opened reasoning as two messages, for servers that complete the second.",
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
    without_reasoning: Literal["finished", "empty"] = Field(
        "finished", description="How the reasoning is closed beforehand (METHOD section 1)."
    )
    think_tags: Literal["token", "pieces"] = Field(
        "token",
        description="token: <think> and </think> are one token each. pieces: the prompt spells them in several tokens, "
        "and the answer begins where the model has spelled </think>, in whatever tokens (variants only).",
    )
    variant_of: Name | None = Field(
        None,
        description="Another model whose weights and settings this one takes, but for the keys given here, e.g. "
        "{variant_of: my-model, prompt: chat}. It has traces, grades and tables, and a comparison with that model.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="Weights and activations, in vLLM and in reruns."
    )
    is_toy: bool = Field(False, description="Marks every page that shows this model's results as a toy's.")
    endpoint: Endpoint | None = Field(
        None, description="Generates the traces, in place of vLLM here. Without path or hub there is nothing else."
    )
    gpus: int = Field(
        0, ge=0, description="GPUs a job of this model asks for; vLLM and reruns split the model over them."
    )
    shards: int = Field(
        1,
        gt=0,
        description="Jobs that share a dataset's traces, attention, ablation, activations and patching; so one model "
        "uses shards x gpus GPUs. Results do not depend on it. When it is changed, finished traces are found again, "
        "and other stores made again (not with Snakemake's --rerun-triggers mtime).",
    )
    threads: int = Field(1, gt=0, description="CPU threads a job of this model uses.")
    memory_mb: int = Field(4000, gt=0, description="Main memory a job of this model asks for, in MB.")
    runtime_minutes: int = Field(60, gt=0, description="Wall time a job of this model asks for, in minutes.")
    tokens_per_second: float | None = Field(
        None, gt=0, description="What it generates in all on its GPUs, for the estimate of GPU hours before a run."
    )


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
    conversation: str | None = Field(
        None,
        description="In place of problem: a list of turns {role, content} that ends with the user's. Earlier turns "
        "stand before the last one in the problem's text, so a judge sees what the model was asked.",
    )
    checklist: str | None = Field(
        None, description="What a judge goes through (kind open_ended): a list of texts, or one text."
    )


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
    single_turn: bool = Field(False, description="Leaves out conversations that have earlier turns.")
    n_problems: int | None = Field(
        None, gt=0, description="Only so many of the problems (or pairs) left, drawn by the study's seed."
    )


class Decoding(Section):
    temperature: float = Field(ge=0, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus; by default the model's own generation config.")
    n_samples: int = Field(1, gt=0, description="Completions a problem and condition.")


class Repetition(Section):
    """A completion that ends in the same tokens again and again is stopped; it counts as unfinished."""

    min_pattern_size: int = Field(1, gt=0, description="Shortest run of tokens that is looked for.")
    max_pattern_size: int = Field(gt=0, description="Longest run of tokens that is looked for.")
    min_count: int = Field(ge=2, description="How often the run must follow on itself.")

    @model_validator(mode="after")
    def _sizes_in_order(self) -> "Repetition":
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError("min_pattern_size is more than max_pattern_size")
        return self


class Generation(Section):
    max_new_tokens: int = Field(10_000, gt=0, description="Length limit of a completion, in tokens (paper: 10,000).")
    repetition: Repetition | None = Field(
        None, description="Stops completions that repeat themselves; off by default, and in the paper."
    )
    reasoning_budget: int | None = Field(
        None,
        gt=0,
        description="Tokens of reasoning, counted from <think>, after which </think> is put in the model's mouth; off "
        "by default, and in the paper.",
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


class Batch(Section):
    """A judge that is asked by files, as OpenAI's batch interface takes them."""

    model: str = Field(description="The service's name for the model.")
    replies: str = Field(description="Folder in which the service's output files (.jsonl) are put, under any name.")
    body: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of every request, e.g. {response_format: {...}}."
    )


class Judge(Source):
    """A model that scores open-ended answers: weights for vLLM here (path or hub), an endpoint, or batch files."""

    label: str | None = Field(None, description="Name in figures and tables; the key by default.")
    endpoint: Server | None = Field(None, description="Asked in place of vLLM here.")
    batch: Batch | None = Field(None, description="Asked by files, which people carry to the service and back.")
    temperature: float = Field(0, ge=0, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus; not sent by default.")
    max_tokens: int = Field(
        1024, gt=0, description="Length limit of a reply, in tokens; doubled once for one that cannot be read."
    )
    n_problems: int | None = Field(
        None,
        gt=0,
        description="Only so many problems of each dataset, drawn by the study's seed: enough of a second judge to see "
        "whether two agree.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Weights and activations in vLLM.")
    gpus: int = Field(0, ge=0, description="GPUs a job of this judge asks for; vLLM splits the judge over them.")
    threads: int = Field(1, gt=0, description="CPU threads a job of this judge uses.")
    memory_mb: int = Field(4000, gt=0, description="Main memory a job of this judge asks for, in MB.")
    runtime_minutes: int = Field(60, gt=0, description="Wall time a job of this judge asks for, in minutes.")


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


class Ablation(Section):
    decoding: str = Field("greedy", description="The decoding whose answers are generated again; a greedy one.")
    n_problems: int | None = Field(
        100, gt=0, description="Only so many traces of a dataset, drawn by the study's seed; null takes all."
    )
    modes: list[Literal["zero", "mean", "cut_off"]] = Field(
        ["zero", "mean", "cut_off"],
        min_length=1,
        description="A head's output is put to zero or its mean over answer tokens, or its attention to the reasoning "
        "is cut off and the rest normalised again.",
    )
    doses: list[Annotated[int, Field(gt=0)]] = Field(
        [1, 2, 5, 10, 20], min_length=1, description="Heads that are ablated at a time, by their rank."
    )
    n_draws: int = Field(
        5, gt=0, description="Draws of equally many random heads of the same layers, each trace its own."
    )
    extra_tokens: int = Field(64, ge=0, description="Tokens that an answer may be longer than the original one.")
    batch_tokens: int = Field(16_384, gt=0, description="Tokens whose keys and values are held at a time.")


class Needle(Section):
    needle: str = Field(min_length=1, description="A sentence or line that the haystack does not hold.")
    question: str = Field(
        min_length=1, description="Text after the haystack, up to where the model goes on by copying the needle."
    )


class Probes(Section):
    """What each model is shown, beside the study's traces, to find its induction and retrieval heads."""

    n_repeats: int = Field(10, gt=0, description="Random token blocks, each shown twice in a row (METHOD section 3).")
    repeat_tokens: int = Field(50, ge=2, description="Tokens of such a block, all different.")
    induction_prompts: list[Annotated[str, Field(min_length=1)]] = Field(
        [
            "one two three four one two three four one two three four",
            "7 3 9 1 5 7 3 9 1 5 7 3 9 1 5",
            "quiet rivers carry old boats; quiet rivers do not carry old bridges",
        ],
        min_length=1,
        description="Texts that repeat themselves, for the paper's form of the induction score.",
    )
    haystack: str = Field(
        "resources/haystacks/everyday.txt",
        description="Text file in which needles are hidden, at ends of sentences or lines; repeated where it is short.",
    )
    needles: list[Needle] = Field(
        [
            Needle(
                needle="Every morning the lighthouse keeper of Port Sorrel feeds seven gray gulls.",
                question="\n\nQuestion: What does the lighthouse keeper of Port Sorrel do, as the text says?\nAnswer:",
            ),
            Needle(
                needle="The spare key to the observatory hangs behind the copper barometer.",
                question="\n\nQuestion: Where is the spare key to the observatory, as the text says?\nAnswer:",
            ),
            Needle(
                needle="Mira won the village race wearing her grandfather's wooden shoes.",
                question="\n\nQuestion: What was Mira wearing in the village race, as the text says?\nAnswer:",
            ),
        ],
        min_length=1,
        description="What is hidden, one at a time, and asked for, without a chat template.",
    )
    lengths: list[Annotated[int, Field(gt=0)]] = Field(
        [1000, 2000, 4000, 8000], min_length=1, description="Tokens of a prompt with its haystack, at most."
    )
    depths: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.0, 0.25, 0.5, 0.75, 1.0], min_length=1, description="Where the needle is put, as a share of the haystack."
    )


class Perturbation(Section):
    """Answers re-generated from a perturbed reasoning."""

    decoding: str = Field("greedy", description="The decoding whose traces are perturbed, and of the new answers.")
    kinds: list[Literal["cut", "filler", "other_reasoning", "first_result", "last_result"]] = Field(
        ["cut", "filler", "other_reasoning", "first_result", "last_result"],
        description="What is done to the reasoning: cut off; filler of equal length in its place; the reasoning of a "
        "problem with another answer in its place; its last result replaced by another value, or, as a control, its "
        "first. A result is a mention of one of the pair's candidates, of a word that is a reference answer of the "
        "same area, or, where the reference is no word, an integer. Empty: nothing is perturbed.",
    )
    cuts: list[Annotated[int, Field(ge=0, le=100)]] = Field(
        [0, 25, 50, 75, 100], description="Percent of the reasoning's tokens that a cut keeps; 100 is the control."
    )
    filler: str = Field(" ...", min_length=1, description="The filler, repeated to the reasoning's length in tokens.")
    n_problems: int | None = Field(
        None, gt=0, description="Only so many problems of each dataset, drawn by the study's seed."
    )


class Patching(Section):
    decoding: str = Field("greedy", description="The decoding whose traces make the pairs.")
    probes: list[Literal["plain", "boxed"]] = Field(
        ["plain", "boxed"], min_length=1, description="plain: 'Final answer is X.' (v0); boxed: X in a box (v1)."
    )
    keep_reasoning: bool = Field(
        True, description="Keep the model's own reasoning before the probe; else the probe alone."
    )
    alignment: Literal["role", "pad", "pad_visible"] = Field(
        "role",
        description="How a pair's positions are matched. role: by role, each run as it is. pad: both padded to equal "
        "length segment by segment, hidden from attention. pad_visible: attention sees the padding, as in the paper.",
    )
    components: list[Literal["resid_pre", "resid_mid", "attn_out", "mlp_out", "z"]] = Field(
        ["resid_pre", "attn_out", "mlp_out", "z"],
        description="What is patched; resid_pre, which figures and the hand-off layer show, must be among them. "
        "z is each head by itself, at the answer's, the </think> and the last token.",
    )
    range_tokens: int = Field(
        50, gt=0, description="Length of the ranges that the reasoning before the probe is patched in, in tokens."
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
    judges: dict[Name, Judge] = Field(
        {}, description="What scores the answers of open_ended datasets, by name; without any, they have no scores."
    )
    statistics: Statistics = Field(default_factory=Statistics)
    attention: Attention = Field(default_factory=Attention)
    ablation: Ablation = Field(default_factory=Ablation)
    probes: Probes = Field(default_factory=Probes)
    perturbation: Perturbation = Field(default_factory=Perturbation)
    patching: Patching = Field(default_factory=Patching)
    explorer: Explorer = Field(default_factory=Explorer)

    @property
    def environment(self) -> str:
        """Name of the lock in envs/ that the study's jobs need."""
        n_gpus = [model.gpus for model in self.models.values()] + [judge.gpus for judge in self.judges.values()]
        return "gpu" if any(n_gpus) else "cpu"

    @property
    def graded_datasets(self) -> list[str]:
        """The datasets whose answers have a reference."""
        return [name for name, dataset in self.datasets.items() if dataset.kind != "open_ended"]

    @property
    def judged_datasets(self) -> list[str]:
        """The datasets whose answers are scored by judges."""
        return [name for name in self.datasets if name not in self.graded_datasets and self.judges]

    @property
    def perturbed_datasets(self) -> list[str]:
        """The datasets whose traces are perturbed."""
        return self.graded_datasets if self.perturbation.kinds else []

    @property
    def pair_datasets(self) -> list[str]:
        """The datasets that patching runs on."""
        return [name for name, dataset in self.datasets.items() if dataset.kind == "comparison_pairs"]

    @property
    def weighted_models(self) -> list[str]:
        """The models whose weights are known, and so their attention and activations; variants have their bases'."""
        return [name for name, model in self.models.items() if (model.path or model.hub) and not model.variant_of]

    @property
    def sharded_models(self) -> list[str]:
        """The models whose work on a dataset is done by several jobs."""
        return [name for name, model in self.models.items() if model.shards > 1]

    def shards(self, model: str) -> list[str]:
        """Names of a model's shards, in their order."""
        n_shards = self.models[model].shards
        return [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]

    @property
    def variants(self) -> dict[str, dict[str, str]]:
        """The variants by label: their base's label, and in words what is changed."""
        found = {}
        for name, model in self.models.items():
            if model.variant_of:
                base = self.models[model.variant_of]
                changes = (
                    f"{key}: {getattr(model, key)}" for key in VARIED if getattr(model, key) != getattr(base, key)
                )
                labels = {"base": self.model_label(model.variant_of), "change": ", ".join(changes)}
                found[self.model_label(name)] = labels
        return found

    @property
    def has_papers_numbers(self) -> bool:
        """Whether the paper has numbers of one of the study's models on one of its datasets, by their labels."""
        labels = {*map(self.model_label, self.models)}, {*map(self.dataset_label, self.graded_datasets)}
        with open(PAPER_NUMBERS) as file:
            return any(row["model"] in labels[0] and row["dataset"] in labels[1] for row in csv.DictReader(file))

    def endpoint_resources(self, model: str) -> dict[str, str | int]:
        """Where a model's endpoint is and how fast to ask it, which changes no results; empty without one."""
        return _server_resources(self.models[model].endpoint)

    def judge_resources(self, judge: str) -> dict[str, str | int]:
        """Where a judge is asked and how fast, which changes no results; empty for one in vLLM here."""
        batch = self.judges[judge].batch
        return _server_resources(self.judges[judge].endpoint) | {"replies": batch.replies if batch else ""}

    def source_files(self, entry: Source) -> list[str]:
        """The files that a local model, dataset or judge is read from; none for one that is elsewhere."""
        if entry.path is None:
            return []
        path = Path(entry.path)
        if not path.is_dir():
            return [str(path)]
        if isinstance(entry, Dataset):
            return sorted(str(file) for file in path.rglob("*") if file.suffix in DATASET_SUFFIXES)
        return sorted(str(file) for file in path.iterdir() if file.suffix in MODEL_SUFFIXES)

    def model_label(self, name: str) -> str:
        return self.models[name].label or name

    def dataset_label(self, name: str) -> str:
        return self.datasets[name].label or name

    def stage(
        self, name: str, model: str | None = None, dataset: str | None = None, judge: str | None = None
    ) -> dict[str, Any]:
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
            if name in ("traces", "perturbation"):
                params |= settings.model_dump(include={"without_reasoning", "think_tags"})
            if name in ("models", "traces", "perturbation"):
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
        if name in ("traces", "perturbation") and dataset is not None:
            params["instruction"] = self.datasets[dataset].instruction
            params["decodings"] = {key: decoding.model_dump() for key, decoding in self.decodings.items()}
            params |= self.generation.model_dump(include={"max_new_tokens", "repetition", "reasoning_budget"})
        if name == "perturbation":
            params |= self.perturbation.model_dump()
        if name == "grades":
            params |= self.grading.model_dump()
        if judge is not None:
            chosen = self.judges[judge]
            params |= {"judge": judge, "judge_label": chosen.label or judge}
            params |= {"source": chosen.model_dump(include={"path", "hub", "revision"}), "dtype": chosen.dtype}
            if name == "judgements":
                params |= chosen.model_dump(include={"temperature", "top_p", "max_tokens", "n_problems"})
                asked = chosen.endpoint or chosen.batch
                params["request"] = asked and asked.model_dump(include={"model", "body"})
                params["by_file"] = chosen.batch is not None
        if name == "disagreements":
            params["graders"] = self.grading.graders
        if name in ("evaluation", "judge_tables", "heads", "ablation_effect", "patching", "figures"):
            params |= self.statistics.model_dump()
        if name in ("evaluation", "figures") and model is None:
            params["variants"] = self.variants
        if name == "attention":
            params |= self.attention.model_dump(include={"decoding", "kernel", "cue_words"})
            params["is_greedy"] = self.decodings[self.attention.decoding].temperature == 0
        if name == "attention_rows" and dataset is not None:
            fields = {"decoding", "kernel", "cue_words", "n_cases", "row_heads", "row_dtype", "case_megabytes"}
            params |= self.attention.model_dump(include=fields)
            params["uids"] = self.attention.case_uids.get(dataset, [])
        if name == "probes":
            params |= self.probes.model_dump()
        if name == "heads":
            params |= self.attention.model_dump(include={"n_top_heads"})
        if name == "ablation":
            params |= self.ablation.model_dump(exclude={"batch_tokens"})
        if name == "ablation_effect":
            params |= {"grader": self.grading.graders[0], **self.grading.model_dump(exclude={"graders"})}
        if name in ("pairs", "patching"):
            params |= self.patching.model_dump(include={"decoding", "probes", "keep_reasoning", "alignment"})
        if name in ("activations", "patching"):
            params["components"] = self.patching.components
        if name == "patching":
            params["range_tokens"] = self.patching.range_tokens
        return params


def _server_resources(server: Server | None) -> dict[str, str | int]:
    if server is None:
        return {"base_url": "", "api_key_variable": "", "max_concurrency": 0, "timeout_seconds": 0}
    names = {"base_url", "api_key_variable", "max_concurrency", "timeout_seconds"}
    return {key: value or "" for key, value in server.model_dump(include=names).items()}


def load_study(config: dict[str, Any], origin: str = "the configuration") -> Study:
    """The study that a parsed configuration describes. Raises ConfigError with every error, in words."""
    lines = _variants_in_words(config)
    config = _with_variants(config)
    lines += _relations_in_words(config)
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        lines = [_in_words(item) for item in error.errors()] + lines
    if lines:
        raise ConfigError(f"{origin} has {len(lines)} error{'s' * (len(lines) > 1)}:\n  " + "\n  ".join(lines))
    return study


def _entries(config: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
    found = config.get(section)
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _with_variants(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with every variant complete: its base's entry, but for its label and the keys of its own."""
    models = _entries(config, "models")
    if not any("variant_of" in entry for entry in models.values()):
        return config
    bases = {name: {k: v for k, v in entry.items() if k != "label"} for name, entry in models.items()}
    complete = {name: {**bases.get(str(entry.get("variant_of")), {}), **entry} for name, entry in models.items()}
    return {**config, "models": {**config["models"], **complete}}


def _variants_in_words(config: dict[str, Any]) -> list[str]:
    """What is wrong between a variant and the model that it varies."""
    models, lines = _entries(config, "models"), []
    mains = [name for name, entry in models.items() if "variant_of" not in entry]
    defaults = {key: Model.model_fields[key].default for key in VARIED}
    for name, entry in models.items():
        place = f"models.{name}.variant_of"
        if "variant_of" not in entry:
            if entry.get("think_tags") == "pieces":
                lines.append(f"models.{name}.think_tags: only a variant spells its tags in pieces; give it variant_of")
            continue
        if entry["variant_of"] not in mains:
            lines.append(f"{place}: {entry['variant_of']!r} is none of the models to vary ({', '.join(mains)})")
            continue
        base = defaults | models[entry["variant_of"]]
        if all(entry.get(key, base[key]) == base[key] for key in VARIED):
            lines.append(f"{place}: nothing is varied; give another {', '.join(VARIED[:-1])} or {VARIED[-1]}")
        own = [key for key in ("path", "hub", "revision") if key in entry]
        if own:
            lines.append(f"{place}: a variant has its base's weights; take {' and '.join(own)} out")
        if entry.get("think_tags") == "pieces" and not (base.get("path") or base.get("hub")):
            lines.append(
                f"models.{name}.think_tags: {entry['variant_of']} is sent text, which its server makes tokens of"
            )
    return lines


def _relations_in_words(config: dict[str, Any]) -> list[str]:
    """What no single key can tell: places that don't exist, names that nothing bears."""
    lines = []
    for section in ("models", "judges"):
        for name, entry in _entries(config, section).items():
            path, gpus = entry.get("path"), entry.get("gpus")
            if isinstance(path, str) and isinstance(gpus, int) and not entry.get("endpoint"):
                words = heads_in_words(path, gpus)
                lines += [f"{section}.{name}.gpus: {words}"] if words else []
    for section in ("models", "datasets"):
        for name, entry in _entries(config, section).items():
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
    generation = config.get("generation")
    if isinstance(generation, dict):
        for name, entry in _entries(config, "models").items():
            lines += _generation_in_words(name, entry, generation)
    lines += _judges_in_words(_entries(config, "judges"), _entries(config, "datasets"))
    grading = config.get("grading")
    graders = grading.get("graders") if isinstance(grading, dict) else None
    if isinstance(graders, list) and any(graders.count(grader) > 1 for grader in graders):
        lines.append("grading.graders: a grader is named twice")
    decodings = _entries(config, "decodings")
    for name, decoding in decodings.items():
        if decoding.get("temperature") == 0 and decoding.get("n_samples", 1) != 1:
            lines.append(f"decodings.{name}.n_samples: greedy decoding gives the same text each time; set it to 1")
    lines += _perturbation_in_words(config.get("perturbation"))
    for stage in ("attention", "ablation", "perturbation", "patching", "explorer") if decodings else ():
        used = config.get(stage)
        used = used.get("decoding", "greedy") if isinstance(used, dict) else "greedy"
        if not isinstance(used, str) or used not in decodings:
            lines.append(f"{stage}.decoding: {used!r} is none of the decodings ({', '.join(decodings)})")
        elif stage == "patching" and decodings[used].get("temperature") != 0:
            lines.append(f"patching.decoding: {used!r} samples; pairs need a greedy decoding (temperature 0)")
        elif stage == "ablation" and decodings[used].get("temperature") != 0:
            lines.append(f"ablation.decoding: {used!r} samples; answers are generated again by greedy decoding")
    ablation = config.get("ablation")
    for key in ("modes", "doses"):
        listed = ablation.get(key) if isinstance(ablation, dict) else None
        if isinstance(listed, list) and any(listed.count(entry) > 1 for entry in listed):
            lines.append(f"ablation.{key}: an entry is given twice")
    attention = config.get("attention")
    case_uids = attention.get("case_uids") if isinstance(attention, dict) else None
    for name in case_uids if isinstance(case_uids, dict) else ():
        if name not in _entries(config, "datasets"):
            lines.append(
                f"attention.case_uids: {name!r} is none of the datasets ({', '.join(_entries(config, 'datasets'))})"
            )
    probes = config.get("probes")
    haystack = probes.get("haystack") if isinstance(probes, dict) else None
    if isinstance(haystack, str) and not Path(haystack).is_file():
        lines.append(f"probes.haystack: {haystack} is no file; paths start at the repository's root")
    patching = config.get("patching")
    components = patching.get("components") if isinstance(patching, dict) else None
    if isinstance(components, list) and "resid_pre" not in components:
        lines.append("patching.components: resid_pre is missing; figures and the hand-off layer are read from it")
    for key in ("probes", "components"):
        named = patching.get(key) if isinstance(patching, dict) else None
        if isinstance(named, list) and any(named.count(entry) > 1 for entry in named):
            lines.append(f"patching.{key}: one is named twice")
    return lines


def _perturbation_in_words(section: Any) -> list[str]:
    """What is named twice, so that its answers would count twice."""
    section = section if isinstance(section, dict) else {}
    given = {key: section[key] for key in ("kinds", "cuts") if isinstance(section.get(key), list)}
    return [
        f"perturbation.{key}: {value!r} is named twice"
        for key, values in given.items()
        for value in dict.fromkeys(values)
        if values.count(value) > 1
    ]


def _generation_in_words(name: str, entry: dict[str, Any], generation: dict[str, Any]) -> list[str]:
    """What is wrong between the options of generation and a model."""
    options = [key for key in ("repetition", "reasoning_budget") if generation.get(key) is not None]
    if options and entry.get("endpoint"):
        given = " and ".join(options)
        return [f"generation: {given} cannot be asked of models.{name}.endpoint; put its server's fields into its body"]
    if "reasoning_budget" in options and entry.get("think_tags") == "pieces":
        return [f"models.{name}.think_tags: generation.reasoning_budget needs <think> as one token"]
    return []


def _endpoint_in_words(name: str, entry: dict[str, Any], endpoint: dict[str, Any]) -> list[str]:
    """What is wrong between a model's endpoint and the rest of its entry."""
    kind, place = endpoint.get("kind", "completions"), f"models.{name}.endpoint.kind"
    if entry.get("path") or entry.get("hub"):
        return [f"{place}: with path or hub, tokens are sent; use completions"] if kind == "chat" else []
    lines = []
    if entry.get("shards", 1) != 1:
        lines.append(f"models.{name}.shards: an endpoint is asked by one job; raise endpoint.max_concurrency")
    fitting = {"raw": "completions", "chat": "chat"}.get(entry.get("prompt", "raw"))
    if fitting and kind != fitting:
        lines.append(f"{place}: without path or hub, prompt raw goes with completions, and prompt chat with chat")
    return lines


def _judges_in_words(judges: dict[str, dict[str, Any]], datasets: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with a judge's whereabouts, or missing in the datasets that it is to judge."""
    lines = []
    for name, judge in judges.items():
        if sum(judge.get(key) is not None for key in ("path", "hub", "endpoint", "batch")) != 1:
            lines.append(f"judges.{name}: give exactly one of path, hub, endpoint and batch")
        path = judge.get("path")
        if isinstance(path, str) and not Path(path).exists():
            lines.append(f"judges.{name}.path: {path} does not exist; paths start at the repository's root")
    labels = [str(judge.get("label") or name) for name, judge in judges.items()]
    shared = sorted({label for label in labels if labels.count(label) > 1})
    if shared:
        lines.append(f"judges: several have the label {', '.join(shared)}; give each its own")
    for name, dataset in datasets.items():
        fields = dataset.get("fields")
        has_checklist = isinstance(fields, dict) and fields.get("checklist")
        if judges and dataset.get("kind") == "open_ended" and not has_checklist:
            lines.append(f"datasets.{name}.fields.checklist: missing; judges go through it, so name its column")
        if dataset.get("single_turn") and not (isinstance(fields, dict) and fields.get("conversation")):
            lines.append(f"datasets.{name}.single_turn: needs fields.conversation, the column that holds the turns")
    return lines


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
        "endpoint": Endpoint if location[:1] == ("models",) else Server,
        "judges": Judge,
        "batch": Batch,
        "needles": Needle,
        "repetition": Repetition,
    }
    for part in location:
        field = section.model_fields.get(part)
        if part in by_key:
            section = by_key[part]
        elif field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
    return list(section.model_fields)

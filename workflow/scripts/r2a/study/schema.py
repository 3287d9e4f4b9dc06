"""The schema of a study's configuration, and what follows from it.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import csv
import datetime
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from r2a.engine import gpus_by_default
from r2a.extensions import CONTROLS, GRADERS, JUDGE_KINDS, PERTURBATION_KINDS, PROBES
from r2a.registry import Registry
from r2a.roles import ABLATION_MODES
from r2a.text.cues import ALL_CUE_WORDS

MODEL_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")
# a dataset's README.md names its subsets' files
DATASET_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".md")
CONDITIONS = ("with_reasoning", "without_reasoning")
# what a variant may have otherwise than its base
VARIED = (
    "prompt", "without_reasoning", "think_tags", "reasoning_format", "template_arguments", "system_turn", "dtype",
)  # fmt: skip
ROOT = Path(__file__).parents[4]


def located(path: str) -> str:
    """A path where it is there from where Snakemake runs; else from the repository, if it is there."""
    return str(ROOT / path) if not Path(path).exists() and (ROOT / path).exists() else path


PAPER_NUMBERS = located("resources/paper_numbers.csv")


def _distinct(entries: list[Any]) -> list[Any]:
    repeated = [repr(entry) for entry in dict.fromkeys(entries) if entries.count(entry) > 1]
    if repeated:
        raise ValueError(f"{' and '.join(repeated)} {'is' if len(repeated) == 1 else 'are'} named twice")
    return entries


if typing.TYPE_CHECKING:
    Kind: typing.TypeAlias = str
    Control: typing.TypeAlias = str
    Probe: typing.TypeAlias = str
    Grader: typing.TypeAlias = str
    OtherJudge: typing.TypeAlias = str
    Mode: typing.TypeAlias = str
else:  # whatever is registered when the schema is read
    Kind, Control, Probe, Grader = (Literal[tuple(r)] for r in (PERTURBATION_KINDS, CONTROLS, PROBES, GRADERS))
    OtherJudge, Mode = Literal[tuple(JUDGE_KINDS)], Literal[tuple(ABLATION_MODES)]


def _told(registry: Registry[Any, Any]) -> str:
    """What each registered thing is, for the meaning of a key."""
    return " ".join(f"{name}: {entry.purpose}" for name, entry in registry.items())


Entry = TypeVar("Entry")
Distinct = Annotated[list[Entry], AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """A mapping of the configuration."""

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
        default_factory=dict,
        description="Further fields of every request, e.g. {return_token_ids: true}; null leaves out one that is sent "
        "else and that a server does not know, e.g. {top_k: null, min_p: null}.",
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


class GivenFormat(Section):
    """A reasoning format that is not registered: what opens and closes the reasoning, one token or several."""

    open: str = Field(min_length=1, description="The text that opens the reasoning.")
    close: str = Field(min_length=1, description="The text that closes it.")
    before_open: str = Field("", description="What the model writes before it opens the reasoning.")
    after_open: str = Field("\n", description="What it writes right after it has opened the reasoning.")
    answer_open: str = Field("", description="The text that opens the answer, after the reasoning is closed, if any.")
    answer_close: str = Field("", description="The text that closes the answer, if any.")


Condition = Literal["with_reasoning", "without_reasoning"]


class Model(Source):
    label: str | None = Field(None, description="Name in figures and tables; the key by default.")
    prompt: Literal["raw", "chat"] = Field(
        "raw", description="raw: the paper's format. chat: the model's own template."
    )
    without_reasoning: Literal["finished", "empty", "native"] = Field(
        "finished",
        description="finished: a reasoning of one sentence is closed beforehand, as in the paper. empty: one of no "
        "words. native: the model's own way not to think (prompt chat).",
    )
    reasoning_format: str | GivenFormat | None = Field(
        None,
        description="What opens and closes the reasoning: a name of docs/formats.md, or {open: ..., close: ...}; null "
        "finds it by the chat template and the tokens.",
    )
    template_arguments: dict[Condition, dict[str, Any]] = Field(
        {},
        description="Arguments of the chat template by condition, beside those of the format, e.g. {with_reasoning: "
        "{reasoning_effort: high}}.",
    )
    system_turn: dict[Condition, str] = Field(
        {}, description="A system turn by condition, after that of the format where it has one (prompt chat)."
    )
    think_tags: Literal["token", "pieces"] = Field(
        "token",
        description="token: what opens and closes the reasoning is given in the tokens that the tokenizer has for it. "
        "pieces: it is spelled in tokens of plain text, and the answer begins where the model has spelled what closes "
        "it, in whatever tokens (variants only).",
    )
    variant_of: Name | None = Field(
        None,
        description="Another model whose weights and settings this one takes, but for the keys given here, e.g. "
        "{variant_of: my-model, prompt: chat}. It has traces, grades and tables, and a comparison with that model.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="Weights and activations, in vLLM and in reruns."
    )
    distillation: str | None = Field(
        None,
        description="What it was distilled from, and how, e.g. 'DeepSeek-R1, 800k samples'; for tables of all models.",
    )
    is_toy: bool = Field(False, description="Marks every page that shows this model's results as a toy's.")
    endpoint: Endpoint | None = Field(
        None, description="Generates the traces, in place of vLLM here. Without path or hub there is nothing else."
    )
    leave_out: list[Literal["ablation", "patching"]] = Field(
        [], description="Stages that this model has no part in, e.g. because check_model finds that they do not hold."
    )
    gpus: int = Field(
        default_factory=gpus_by_default,
        ge=0,
        description="GPUs a job of this model asks for; vLLM and reruns split the model over them. By default 1 where "
        "the GPU environment is installed, else 0.",
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
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="What stands between the columns of a CSV file; by default the one of comma, semicolon, tab and | "
        "that finds the columns.",
    )
    instruction: str = Field("", description="Appended to each problem, as it is.")
    fields: Fields = Field(
        default_factory=Fields, description="Names of the columns, for kinds other than comparison_pairs."
    )
    areas: dict[str, str | None] | None = Field(None, description="Renames areas; null leaves the area's problems out.")
    filter: dict[Literal["area", "level"], list[str | int]] = Field(
        {}, description="Only problems of these areas (as renamed) and levels, e.g. {level: [4, 5]}."
    )
    unreadable_references: Literal["stop", "drop", "text"] = Field(
        "stop",
        description="What to do with references that no answer can be compared with, neither words nor readable "
        "mathematics: stop and list them, drop their problems (counted in the funnel), or compare them as text.",
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
        description="Tokens of reasoning, counted from what opens it, after which it is closed for the model; off by "
        "default, and in the paper.",
    )
    gpu_memory_percent: int = Field(
        90, gt=0, le=100, description="Share of a GPU's memory that vLLM may use, in percent."
    )
    cpu_cache_mb: int = Field(256, gt=0, description="Key-value cache of vLLM on a CPU, in MB.")


class Grading(Section):
    graders: Distinct[Grader] = Field(
        ["policy"],
        min_length=1,
        description=f"How answers are judged. {_told(GRADERS)} The first's verdicts are the study's; a table lists "
        "where the others differ.",
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
    kind: OtherJudge | None = Field(
        None,
        description="In place of the above: a kind of judge that you have registered (docs/extending.md).",
    )
    options: dict[str, Any] = Field({}, description="What such a kind takes.")
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
    gpus: int = Field(
        default_factory=gpus_by_default,
        ge=0,
        description="GPUs a job of this judge asks for; vLLM splits the judge over them. By default as for models.",
    )
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
        default_factory=lambda: list(ALL_CUE_WORDS),
        min_length=1,
        description="Words of self-reflection in the reasoning, in either case; whole words where a script has spaces. "
        "By default those of r2a/text/cues.py for each language there: in English Wait, Alternatively, Hmm and check.",
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
    modes: Distinct[Mode] = Field(
        ["zero", "mean", "cut_off"],
        min_length=1,
        description="A head's output is set to zero, to its mean over the answers of other traces, or to its output in "
        "one of them; or its attention to the reasoning is cut off and the rest normalised again (attention knockout), "
        "moved to one sentence of the reasoning, or sharpened (squared), its share staying as it is.",
    )
    selections: Distinct[Literal["random", "matched", "prompt", "contribution"]] = Field(
        ["random", "matched", "prompt", "contribution"],
        min_length=1,
        description="The heads beside the Reasoning-Focus Heads: random ones of the same layers; ones that write as "
        "much and attend to the first token as much; those that attend most to the prompt; those that write most of "
        "the reasoning.",
    )
    doses: Distinct[Annotated[int, Field(gt=0)]] = Field(
        [1, 2, 5, 10, 20], min_length=1, description="Heads that are ablated at a time, by their rank."
    )
    n_draws: int = Field(5, gt=0, description="Draws of random and of matched heads, each trace its own.")
    extra_tokens: int = Field(64, ge=0, description="Tokens that an answer may be longer than the original one.")
    batch_tokens: int = Field(16_384, gt=0, description="Tokens whose keys and values are held at a time.")


QUOTE = 'Quote what was written about it above.\nAnswer: "'


class Needle(Section):
    needle: str = Field(min_length=1, description="A sentence or line that the haystack does not hold.")
    question: str = Field(
        min_length=1,
        description="Text after the haystack, up to where the model goes on by copying the needle. Words that it "
        "shares with the needle do not count as copied: ask in other words.",
    )


class Diagnostics(Section):
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
                question=f"\n\nQuestion: Who looks after seabirds? {QUOTE}",
            ),
            Needle(
                needle="The spare key to the observatory hangs behind the copper barometer.",
                question=f"\n\nQuestion: How can people get in to see stars? {QUOTE}",
            ),
            Needle(
                needle="Mira won the village race wearing her grandfather's wooden shoes.",
                question=f"\n\nQuestion: Whose footwear was odd in a running contest? {QUOTE}",
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
    kinds: Distinct[Kind] = Field(
        ["cut", "filler", "other_reasoning", "first_result", "last_result"],
        description=f"What is done to the reasoning. {_told(PERTURBATION_KINDS)} A result is a mention of one of the "
        "pair's candidates, of a word that is a reference answer of the same area, or, where the reference is no word, "
        "an integer. Empty: nothing is perturbed.",
    )
    cuts: Distinct[Annotated[int, Field(ge=0, le=100)]] = Field(
        [0, 25, 50, 75, 100], description="Percent of the reasoning's tokens that a cut keeps; 100 is the control."
    )
    filler: str = Field(" ...", min_length=1, description="The filler, repeated to the reasoning's length in tokens.")
    n_problems: int | None = Field(
        None, gt=0, description="Only so many problems of each dataset, drawn by the study's seed."
    )


class Patching(Section):
    decoding: str = Field("greedy", description="The decoding whose traces make the pairs.")
    probes: Distinct[Probe] = Field(
        ["plain", "boxed"],
        min_length=1,
        description=f"The line, with the answer X, that ends the reasoning. {_told(PROBES)}",
    )
    controls: Distinct[Control] = Field(
        ["same_answer", "unrelated_answer", "random_vector"],
        description="What is put into the corrupted run in place of the clean run's vectors, to see what its effect "
        f"proves. {_told(CONTROLS)}",
    )
    keep_reasoning: bool = Field(
        True, description="Keep the model's own reasoning before the probe; else the probe alone."
    )
    alignment: Literal["role", "pad", "pad_visible"] = Field(
        "role",
        description="How a pair's positions are matched. role: by role, each run as it is. pad: both padded to equal "
        "length segment by segment, hidden from attention. pad_visible: attention sees the padding, as in the paper.",
    )
    components: Distinct[Literal["resid_pre", "resid_mid", "attn_out", "mlp_out", "z"]] = Field(
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
    date: datetime.date = Field(
        datetime.date(2025, 9, 28), description="What chat templates take for today, so that prompts stay the same."
    )
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
    diagnostics: Diagnostics = Field(default_factory=Diagnostics)
    perturbation: Perturbation = Field(default_factory=Perturbation)
    patching: Patching = Field(default_factory=Patching)
    explorer: Explorer = Field(default_factory=Explorer)

    @model_validator(mode="after")
    def _labels_by_default_and_paths_located(self) -> "Study":
        for entries in (self.models, self.datasets, self.judges):
            for name, entry in entries.items():
                entry.label = entry.label or name
                entry.path = entry.path and located(entry.path)
        self.diagnostics.haystack = located(self.diagnostics.haystack)
        return self

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
    def ablated_models(self) -> list[str]:
        """The models whose heads are ablated."""
        return [name for name in self.weighted_models if "ablation" not in self.models[name].leave_out]

    @property
    def patched_models(self) -> list[str]:
        """The models whose activations are patched."""
        return [name for name in self.weighted_models if "patching" not in self.models[name].leave_out]

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
        for model in self.models.values():
            if model.variant_of:
                base = self.models[model.variant_of]
                changes = (
                    f"{key}: {getattr(model, key)}" for key in VARIED if getattr(model, key) != getattr(base, key)
                )
                found[str(model.label)] = {"base": str(base.label), "change": ", ".join(changes)}
        return found

    @property
    def has_papers_numbers(self) -> bool:
        """Whether the paper has numbers of one of the study's models on one of its datasets, by their labels."""
        labels = (
            {model.label for model in self.models.values()},
            {self.datasets[name].label for name in self.graded_datasets},
        )
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


def _server_resources(server: Server | None) -> dict[str, str | int]:
    if server is None:
        return {"base_url": "", "api_key_variable": "", "max_concurrency": 0, "timeout_seconds": 0}
    names = {"base_url", "api_key_variable", "max_concurrency", "timeout_seconds"}
    return {key: value or "" for key, value in server.model_dump(include=names).items()}


def section_in(kind: Any) -> type[Section] | None:
    """The section that a key of this type holds, be it alone, by name or in a list; None for a plain value."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next(filter(None, map(section_in, typing.get_args(kind))), None)


def sections(section: type[Section] = Study, place: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section of the configuration with its place, e.g. models.{name}.endpoint; the study itself has none."""
    yield place, section
    for key, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner:
            name = ".{name}" if typing.get_origin(field.annotation) is dict else ""
            yield from sections(inner, f"{place}.{key}{name}".lstrip("."))


def keys() -> Iterator[str]:
    """Every key of the configuration that holds no section, e.g. patching.components and models.*.label."""
    for place, section in sections():
        for key, field in section.model_fields.items():
            if section_in(field.annotation) is None:
                yield f"{place}.{key}".lstrip(".").replace("{name}", "*")

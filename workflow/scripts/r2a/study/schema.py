"""The schema of a study's configuration, and what follows from it.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import csv
import datetime
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from r2a.config_file import parameters_by_size
from r2a.engine import gpus_by_default
from r2a.extensions import CONTROLS, GRADERS, HINTS, JUDGE_KINDS, PERTURBATION_KINDS, PROBES
from r2a.registry import Registry
from r2a.roles import ABLATION_MODES, STUB
from r2a.text.cues import ALL_CUE_WORDS

MODEL_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")
# a dataset's README.md names its subsets' files
DATASET_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".md")
CONDITIONS = ("with_reasoning", "without_reasoning")
# what a variant may change
VARIED = (
    "prompt", "without_reasoning", "think_tags", "reasoning_format", "template_arguments", "system_turn", "dtype",
)  # fmt: skip
ROOT = Path(__file__).parents[4]
THREADS, LEAST_MEMORY_MB = 8, 4000  # of a job, by default
MANY_PARAMETERS = 5e7  # above this, more threads make the work faster


def located(path: str) -> str:
    """A path if it exists relative to where Snakemake runs; otherwise the same path in the repository, if it exists
    there.
    """
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
    HintName: typing.TypeAlias = str
    OtherJudge: typing.TypeAlias = str
    Mode: typing.TypeAlias = str
else:  # whatever is registered when the schema is read
    Kind, Control, Probe, Grader = (Literal[tuple(r)] for r in (PERTURBATION_KINDS, CONTROLS, PROBES, GRADERS))
    HintName = Literal[tuple(HINTS)]
    OtherJudge, Mode = Literal[tuple(JUDGE_KINDS)], Literal[tuple(ABLATION_MODES)]


def _meanings(registry: Registry[Any, Any]) -> str:
    """What each registered thing is, for the description of a key."""
    return " ".join(f"{name}: {entry.purpose}" for name, entry in registry.items())


Entry = TypeVar("Entry")
Distinct = Annotated[list[Entry], AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})]
NAME, ADDRESS, VARIABLE = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", r"^https?://[^\s@?#]+$", r"^[A-Za-z_][A-Za-z0-9_]*$"
HUB_ID, OPENS_BOX = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)?$", r"\\boxed\{$"
PATTERNS = {  # what a text must be to fit; the text itself may be a secret
    NAME: "a name has letters, digits, '-', '_' and '.' only, and starts with a letter or digit",
    ADDRESS: "an address starts with http:// or https://, and has no key, '?' or '#'",
    VARIABLE: "name the environment variable that holds the key; the key itself belongs in no file",
    HUB_ID: "an id on the hub is owner/name, without the hub's address",
    OPENS_BOX: "ends in \\boxed{",
}
Name = Annotated[str, Field(pattern=NAME, max_length=100)]  # files are called after it
SECRET = re.compile(r"(x[-_])?api[-_]?key|authorization|.*(secret|password).*", re.IGNORECASE)


class Section(BaseModel):
    """A mapping of the configuration."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        kind = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *typing.get_args(kind)}:
            raise ValueError(f"is a number; YAML reads yes, no, on and off as true and false (found {value})")
        return value


class Source(Section):
    """Something on disk or on the Hugging Face hub."""

    path: str | None = Field(None, description="Local file or folder, relative to the repository.")
    hub: str | None = Field(None, pattern=HUB_ID, description="Id on the Hugging Face hub, instead of path.")
    revision: str | None = Field(None, description="Commit, tag or branch on the hub.")


class Server(Section):
    """A server with OpenAI's interface."""

    base_url: str = Field(pattern=ADDRESS, description="Address up to /v1, without a key.")
    model: str = Field(description="The server's name for the model.")
    api_key_variable: str | None = Field(
        None, pattern=VARIABLE, description="Environment variable that holds the key, if any."
    )
    max_concurrency: int = Field(16, gt=0, description="Requests in flight at a time.")
    timeout_seconds: int = Field(1800, gt=0, description="Time limit of one request; it is then sent again.")
    body: dict[str, Any] = Field(
        default_factory=dict,
        description="Additional fields of every request, e.g. {return_token_ids: true}; null omits a field that the "
        "server does not know, e.g. {top_k: null, min_p: null}.",
    )

    @field_validator("base_url")
    @classmethod
    def _up_to_v1(cls, url: str) -> str:
        if url.rstrip("/").endswith(("/completions", "/chat", "/responses")):
            raise ValueError("give the address up to /v1; what follows is added for each request")
        return url

    @field_validator("body")
    @classmethod
    def _without_secrets(cls, body: dict[str, Any]) -> dict[str, Any]:
        secret = next(filter(SECRET.fullmatch, body), None)
        if secret:
            raise ValueError(f"{secret} would be kept in all results; give api_key_variable, its variable")
        return body


class Endpoint(Server):
    """A server that generates a model's traces."""

    kind: Literal["completions", "chat"] = Field(
        "completions",
        description="completions: sends the whole prompt as tokens, or as text if the model has neither path nor hub. "
        "chat: sends the question and the opened reasoning as two messages, to servers that complete the second.",
    )
    prefill: dict[str, Any] = Field(
        default_factory=dict,
        description="Additional fields of the message that opens the reasoning (kind chat), e.g. {prefix: true}.",
    )


class GivenFormat(Section):
    """A reasoning format that is not registered: what opens and closes the reasoning, one token or several."""

    open: str = Field(min_length=1, description="The text that opens the reasoning.")
    close: str = Field(min_length=1, description="The text that closes it.")
    before_open: str = Field("", description="Text that the model writes before it opens the reasoning.")
    after_open: str = Field("\n", description="Text that it writes right after it has opened the reasoning.")
    answer_open: str = Field("", description="The text that opens the answer, after the reasoning is closed, if any.")
    answer_close: str = Field("", description="The text that closes the answer, if any.")


Condition = Literal["with_reasoning", "without_reasoning"]


class Model(Source):
    label: str | None = Field(None, description="Name in figures and tables; by default the key.")
    prompt: Literal["raw", "chat"] = Field(
        "raw", description="raw: the paper's format. chat: the model's own template."
    )
    without_reasoning: Literal["finished", "empty", "native"] = Field(
        "finished",
        description="finished: the prompt contains a closed reasoning of one sentence, as in the paper. empty: it "
        "contains an empty one. native: the model is asked not to think in its own way (prompt chat).",
    )
    reasoning_format: str | GivenFormat | None = Field(
        None,
        description="What opens and closes the reasoning: a name from docs/formats.md, or {open: ..., close: ...}; "
        "null recognizes it from the chat template and the tokens.",
    )
    template_arguments: dict[Condition, dict[str, Any]] = Field(
        {},
        description="Arguments of the chat template by condition, in addition to the format's, e.g. {with_reasoning: "
        "{reasoning_effort: high}}.",
    )
    system_turn: dict[Condition, str] = Field(
        {}, description="A system turn by condition, after the format's own if it has one (prompt chat)."
    )
    think_tags: Literal["token", "pieces"] = Field(
        "token",
        description="token: the tokenizer's own tokens for these marks open and close the reasoning. pieces: "
        "the marks are spelled in tokens of plain text, and the answer begins where the model has spelled the closing "
        "mark, in whatever tokens (variants only).",
    )
    variant_of: Name | None = Field(
        None,
        description="Another model of the study. This one has its weights and settings except for the keys given here, "
        "e.g. {variant_of: my-model, prompt: chat}. It gets traces, grades, tables and a comparison with that model.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Weights and activations, in vLLM and in reruns. auto: bfloat16 where the GPU environment is "
        "installed; else bfloat16 or float32, whichever this CPU computes faster, measured once and kept in the "
        "model's manifest.",
    )
    distillation: str | None = Field(
        None,
        description="What it was distilled from, and how, e.g. 'DeepSeek-R1, 800k samples'; for tables of all models.",
    )
    is_toy: bool = Field(False, description="Whether pages with this model's results say that it is a toy.")
    endpoint: Endpoint | None = Field(
        None,
        description="A server that generates the traces instead of vLLM. Without path or hub, the model has nothing "
        "but answers.",
    )
    leave_out: list[Literal["ablation", "patching", "sentences"]] = Field(
        [],
        description="Stages to leave out for this model, e.g. because check_model finds them inexact.",
    )
    gpus: int = Field(
        default_factory=gpus_by_default,
        ge=0,
        description="GPUs that a job of this model asks for; vLLM and reruns split the model over them. By default 1 "
        "if the GPU environment is installed, otherwise 0.",
    )
    shards: int = Field(
        1,
        gt=0,
        description="Number of jobs that share the work on a dataset's traces, attention, ablation, activations, "
        "patching and sentences; one model uses shards x gpus GPUs. Results do not depend on it. When it changes, "
        "stores are put together again from finished results (not with Snakemake's --rerun-triggers mtime).",
    )
    threads: int | None = Field(
        None,
        gt=0,
        description="CPU threads that a job of this model uses, at most as many as Snakemake has cores. The default is "
        "1 on GPUs and for tiny models (under 50 million parameters), else 8.",
    )
    memory_mb: int | None = Field(
        None,
        gt=0,
        description="Main memory that a job of this model asks for, in MB. The default is 4000, or what the "
        "checkpoint's size, its dtype and generation.cpu_cache_mb take, where that is more.",
    )
    runtime_minutes: int = Field(60, gt=0, description="Wall time that a job of this model asks for, in minutes.")
    tokens_per_second: float | None = Field(
        None, gt=0, description="Its total throughput on its GPUs, for the estimate of GPU hours at the start of a run."
    )


class Fields(Section):
    """Which column holds what; dots reach into nested values, e.g. conversation.0.content."""

    uid: str | None = Field("uid", description="Unique name of the problem; null numbers the rows.")
    problem: str = Field("problem", description="The problem's text.")
    answer: str | None = Field("answer", description="Reference answer; null where the data has none.")
    answer_after: str | None = Field(
        None, description="The reference is what follows the last occurrence of this text in the answer, e.g. '####'."
    )
    wrong_answers: list[str] = Field(
        [],
        max_length=25,  # letters but the right answer's
        description="Columns of wrong answers. The right answer and these are appended to the problem as choices (A), "
        "(B) and so on, in an order drawn with the study's seed; the reference is the right one's letter.",
    )
    area: str | None = Field("area", description="Area by which results are broken down.")
    level: str | None = Field("level", description="Level of difficulty.")
    conversation: str | None = Field(
        None,
        description="Instead of problem: a list of turns {role, content} that ends with the user's. Earlier turns "
        "precede the last one in the problem's text, so a judge sees what the model was asked.",
    )
    checklist: str | None = Field(
        None, description="What a judge checks (kind open_ended): a list of texts, or one text."
    )


class Dataset(Source):
    kind: Literal["problems", "comparison_pairs", "open_ended"] = Field(
        description="problems: with reference answers. comparison_pairs: two questions per row. open_ended: without "
        "reference answers."
    )
    label: str | None = Field(None, description="Name in figures and tables; by default the key.")
    subset: str | None = Field(None, description="Configuration of a dataset on the hub or in a folder.")
    split: str = Field("test", description="Split of a dataset on the hub or in a folder.")
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="The character between the columns of a CSV file; by default comma, semicolon, tab or pipe, "
        "whichever fits the columns.",
    )
    instruction: str = Field("", description="Appended to each problem, exactly as given.")
    fields: Fields = Field(
        default_factory=Fields, description="Names of the columns, for kinds other than comparison_pairs."
    )
    areas: dict[str, str | None] | None = Field(
        None, description="New names for areas; null leaves the area's problems out."
    )
    filter: dict[Literal["area", "level"], list[str | int]] = Field(
        {}, description="Only problems of these areas (as renamed) and levels, e.g. {level: [4, 5]}."
    )
    unreadable_references: Literal["stop", "drop", "text"] = Field(
        "stop",
        description="What to do if no answer can be compared with a reference, because it is neither words nor "
        "readable mathematics. stop: list these references and stop. drop: leave out their problems; the funnel "
        "counts them. text: compare them as text.",
    )
    single_turn: bool = Field(False, description="Leaves out conversations that have earlier turns.")
    n_problems: int | None = Field(
        None, gt=0, description="The largest number of these problems (or pairs) to use, drawn with the study's seed."
    )


class Decoding(Section):
    temperature: float = Field(ge=0, description="0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus sampling; by default that of the model's own generation config."
    )
    n_samples: int = Field(1, gt=0, description="Completions per problem and condition.")


class Repetition(Section):
    """When to stop a completion that keeps repeating itself; it then counts as unfinished."""

    min_pattern_size: int = Field(1, gt=0, description="Shortest repeated run of tokens.")
    max_pattern_size: int = Field(gt=0, description="Longest repeated run of tokens.")
    min_count: int = Field(ge=2, description="How many times in a row it must occur.")

    @model_validator(mode="after")
    def _sizes_in_order(self) -> "Repetition":
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError("min_pattern_size is more than max_pattern_size")
        return self


class Generation(Section):
    max_new_tokens: int = Field(10_000, gt=0, description="Length limit of a completion, in tokens (paper: 10,000).")
    repetition: Repetition | None = Field(
        None, description="Stops completions that repeat themselves; off by default and in the paper."
    )
    reasoning_budget: int | None = Field(
        None,
        gt=0,
        description="Length limit of the reasoning, in tokens after its opening mark; the workflow then closes it. Off "
        "by default and in the paper.",
    )
    gpu_memory_percent: int = Field(
        90, gt=0, le=100, description="Share of a GPU's memory that vLLM may use, in percent."
    )
    cpu_cache_mb: int = Field(256, gt=0, description="Key-value cache of vLLM on a CPU, in MB.")


class Grading(Section):
    graders: Distinct[Grader] = Field(
        ["policy"],
        min_length=1,
        description=f"How answers are graded. {_meanings(GRADERS)} The first one's verdicts count; a table lists "
        "the answers on which the others differ.",
    )
    seconds: float = Field(10, gt=0, description="Time limit for one answer; its verdict is then timeout.")
    memory_mb: int = Field(2000, gt=0, description="Memory of a grading process, in MB.")


class Batch(Section):
    """A judge reached by files in the format of OpenAI's batch interface."""

    model: str = Field(description="The service's name for the model.")
    replies: str = Field(description="Folder into which you put the service's output files (.jsonl), under any name.")
    body: dict[str, Any] = Field(
        default_factory=dict, description="Additional fields of every request, e.g. {response_format: {...}}."
    )


class Judge(Source):
    """A model that scores open-ended answers: weights for vLLM here (path or hub), an endpoint, or batch files."""

    label: str | None = Field(None, description="Name in figures and tables; by default the key.")
    endpoint: Server | None = Field(None, description="A server to ask instead of vLLM.")
    batch: Batch | None = Field(
        None, description="A batch service: you take the request files there and bring the replies back."
    )
    kind: OtherJudge | None = Field(
        None,
        description="Instead of these: a kind of judge that you registered (docs/extending.md).",
    )
    options: dict[str, Any] = Field({}, description="Options of such a kind.")
    temperature: float = Field(0, ge=0, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling; not sent by default.")
    max_tokens: int = Field(
        1024, gt=0, description="Length limit of a reply, in tokens; doubled once for a reply that cannot be read."
    )
    n_problems: int | None = Field(
        None,
        gt=0,
        description="The largest number of problems to score per dataset, drawn with the study's seed. For a second "
        "judge, a sample is enough to see whether the two agree.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Weights and activations in vLLM.")
    gpus: int = Field(
        default_factory=gpus_by_default,
        ge=0,
        description="GPUs that a job of this judge asks for; vLLM splits the judge over them. The default is as for "
        "models.",
    )
    threads: int | None = Field(
        None, gt=0, description="CPU threads that a job of this judge uses. The default is as for models."
    )
    memory_mb: int | None = Field(
        None, gt=0, description="Main memory that a job of this judge asks for, in MB. The default is as for models."
    )
    runtime_minutes: int = Field(60, gt=0, description="Wall time that a job of this judge asks for, in minutes.")


class Statistics(Section):
    n_resamples: int = Field(10_000, ge=100, description="Bootstrap and permutation draws.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of every interval.")


class Attention(Section):
    decoding: str = Field("greedy", description="The decoding whose traces are rerun.")
    n_top_heads: int = Field(10, gt=0, description="Reasoning-Focus Heads per model (paper: 10).")
    kernel: Literal["fused", "eager"] = Field(
        "fused",
        description="fused: at the cost of a forward pass. eager: transformers' own attention, the slow reference.",
    )
    cue_words: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=lambda: list(ALL_CUE_WORDS),
        min_length=1,
        description="Words of self-reflection in the reasoning, in any case; whole words in scripts that "
        "use spaces. By default those in r2a/text/cues.py for each language: in English Wait, Alternatively, Hmm "
        "and check.",
    )
    batch_tokens: int = Field(
        16_384, gt=0, description="Tokens that one forward pass may hold; halved when memory runs out."
    )
    n_cases: int = Field(
        3, gt=0, description="Number of traces with reasoning whose attention rows are kept, drawn with the seed."
    )
    case_uids: dict[Name, Annotated[list[str], Field(min_length=1)]] = Field(
        {}, description="Keep the traces of these problems instead, e.g. {my-problems: [first, second]}."
    )
    row_heads: Literal["rfhs", "all"] = Field("rfhs", description="Heads whose rows are kept.")
    row_dtype: Literal["float16", "float32"] = Field("float16", description="Data type in which rows are stored.")
    case_megabytes: float = Field(
        8,
        gt=0,
        description="Size limit of a case's rows before compression; beyond it, answer tokens are thinned out evenly.",
    )


class Ablation(Section):
    decoding: str = Field("greedy", description="The decoding whose answers are generated again; it must be greedy.")
    n_problems: int | None = Field(
        100, gt=0, description="The largest number of traces to ablate per dataset, drawn with the seed; null: all."
    )
    modes: Distinct[Mode] = Field(
        ["zero", "mean", "cut_off"],
        min_length=1,
        description="zero, mean, resample: a head's output is set to zero, to its mean over the answers of other "
        "traces, or to its output in one of them. cut_off: its attention to the reasoning is removed and the rest "
        "renormalised (attention knockout). moved, sharpened: that attention is moved to one sentence of the "
        "reasoning, or squared; its share stays the same.",
    )
    selections: Distinct[Literal["random", "matched", "prompt", "contribution"]] = Field(
        ["random", "matched", "prompt", "contribution"],
        min_length=1,
        description="Heads to compare with the Reasoning-Focus Heads. random: random ones of the same layers. matched: "
        "ones that write as much and attend to the first token as much. prompt: those that attend most to the prompt. "
        "contribution: those that write most of the reasoning.",
    )
    doses: Distinct[Annotated[int, Field(gt=0)]] = Field(
        [1, 2, 5, 10, 20], min_length=1, description="Numbers of heads that are ablated at a time, by rank."
    )
    n_draws: int = Field(5, gt=0, description="Draws of random and of matched heads, separately for each trace.")
    extra_tokens: int = Field(64, ge=0, description="How many tokens longer than the original an answer may be.")
    batch_tokens: int = Field(
        65_536, gt=0, description="Tokens whose keys and values a GPU holds at a time; a CPU holds at most 16,384."
    )


QUOTE = 'Quote what was written about it above.\nAnswer: "'


class Needle(Section):
    needle: str = Field(min_length=1, description="A sentence or line that is not in the haystack.")
    question: str = Field(
        min_length=1,
        description="Text after the haystack that a model continues by copying the needle. Words that it shares with "
        "the needle do not count as copied, so use different words.",
    )


class Diagnostics(Section):
    """What each model reads, besides the study's traces, to find its induction and retrieval heads."""

    n_repeats: int = Field(
        10, gt=0, description="Random token blocks, each shown twice in a row (docs/method.md, section 3)."
    )
    repeat_tokens: int = Field(50, ge=2, description="Tokens of such a block, all different.")
    induction_prompts: list[Annotated[str, Field(min_length=1)]] = Field(
        [
            "one two three four one two three four one two three four",
            "7 3 9 1 5 7 3 9 1 5 7 3 9 1 5",
            "quiet rivers carry old boats; quiet rivers do not carry old bridges",
        ],
        min_length=1,
        description="Texts with repetitions, for the paper's form of the induction score.",
    )
    haystack: str = Field(
        "resources/haystacks/everyday.txt",
        description="Text file in which needles are hidden, at the ends of sentences or lines; repeated if it is too "
        "short.",
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
        description="Texts to hide, one at a time, with the question that asks for them; no chat template is used.",
    )
    lengths: list[Annotated[int, Field(gt=0)]] = Field(
        [500, 1000, 2000],
        min_length=1,
        description="Lengths of the prompts with their haystacks, in tokens. A GPU affords longer ones.",
    )
    depths: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.0, 0.5, 1.0], min_length=1, description="Where the needle is put, as a share of the haystack."
    )


class Perturbation(Section):
    """Answers re-generated from a perturbed reasoning."""

    decoding: str = Field("greedy", description="The decoding of the perturbed traces and of the new answers.")
    kinds: Distinct[Kind] = Field(
        [
            "cut",
            "filler",
            "other_reasoning",
            "first_result",
            "last_result",
            "mistake",
            "rest_regenerated",
            "mistake_regenerated",
            "paraphrase",
            "without_most_read",
            "without_little_read",
            "most_read_result",
            "little_read_result",
            "without_reflection",
            "without_others",
        ],
        description=f"What is done to the reasoning. {_meanings(PERTURBATION_KINDS)} A result is a mention of one of "
        "the pair's candidates, a word that is a reference answer of the same area or, if the reference is not a "
        "word, an integer. Empty: nothing is perturbed.",
    )
    cuts: Distinct[Annotated[int, Field(ge=0, le=100)]] = Field(
        [0, 25, 50, 75, 100], description="Percentages of the reasoning's tokens that a cut keeps; 100 is the control."
    )
    paraphraser: Server | None = Field(
        None, description="The server that rewords the reasoning, for paraphrase_by_model."
    )
    filler: str = Field(" ...", min_length=1, description="The filler, repeated to the reasoning's length in tokens.")
    n_problems: int | None = Field(
        None, gt=0, description="The largest number of problems to use per dataset, drawn with the study's seed."
    )


class Hints(Section):
    """Answers to questions that contain a hint, and whether the reasoning mentions it.

    By the hint's words and, where the study has judges, by the first of them.
    """

    decoding: str = Field(
        "greedy",
        description="The decoding of these answers, and of the traces without a hint that they are paired with.",
    )
    kinds: Distinct[HintName] = Field(
        [],
        description=f"Who gives the hint. {_meanings(HINTS)} Empty (the default): no question contains a hint.",
    )
    points_at: Distinct[Literal["wrong", "right"]] = Field(
        ["wrong"],
        min_length=1,
        description="The answer that the hint names. wrong: the reference of another problem of the same pair or area. "
        "right: the problem's own reference.",
    )
    dataset_kinds: Distinct[Literal["problems", "comparison_pairs"]] = Field(
        ["problems", "comparison_pairs"],
        min_length=1,
        description="Kinds of datasets whose questions are also asked with a hint.",
    )
    n_problems: int | None = Field(
        None, gt=0, description="The largest number of problems to use per dataset, drawn with the study's seed."
    )


class Patching(Section):
    decoding: str = Field("greedy", description="The decoding whose traces make the pairs.")
    probes: Distinct[Probe] = Field(
        ["plain", "boxed"],
        min_length=1,
        description=f"The line that ends the reasoning, with the answer X. {_meanings(PROBES)}",
    )
    controls: Distinct[Control] = Field(
        ["same_answer", "unrelated_answer", "random_vector", "wrong_position"],
        description="Vectors that replace the clean run's in the corrupted run, to see what the effect of patching "
        f"proves. {_meanings(CONTROLS)}",
    )
    keep_reasoning: bool = Field(
        True, description="Keep the model's own reasoning before the probe; otherwise, the probe stands alone."
    )
    alignment: Literal["role", "pad", "pad_visible"] = Field(
        "role",
        description="How a pair's positions are matched. role: by role; both runs keep their lengths. pad: both "
        "are padded to equal length segment by segment, and the padding is masked from attention. pad_visible: as pad, "
        "but attention sees the padding, as in the paper.",
    )
    components: Distinct[Literal["resid_pre", "resid_mid", "attn_out", "mlp_out", "z"]] = Field(
        ["resid_pre", "attn_out", "mlp_out", "z"],
        description="The components that are patched. resid_pre must be among them, since figures and the hand-off "
        "layer use it. z patches each head by itself, at the answer's token, at </think> and at the last token.",
    )
    range_tokens: int = Field(
        50,
        gt=0,
        description="Length, in tokens, of the first range before the probe that is patched as a whole; each further "
        "one is as long as all of those nearer to the probe, back to where the reasoning begins.",
    )
    layer_step: int | None = Field(
        None,
        gt=0,
        description="Patch every n-th layer, and the last one; 1 patches all. Above 1, attribution patching (one "
        "gradient per run) first finds the layers with an effect, and these are patched too. By default, n is an "
        "eighth of the model's layers: 3 for 24 layers, and 1 for fewer than 16.",
    )
    scan_effect: float = Field(
        0.1,
        gt=0,
        description="With layer_step above 1: a layer is added if attribution patching expects one of its components "
        "to change the normalized logit difference by at least this much, on average over the pairs.",
    )
    batch_tokens: int = Field(
        32_768, gt=0, description="Tokens that a GPU computes at a time; a CPU computes at most 4,096."
    )


class Sentences(Section):
    """Which sentences of the reasoning the answer depends on, and through which heads, in the traces of `attention`."""

    n_problems: int | None = Field(
        50, gt=0, description="The largest number of traces to measure per dataset, drawn with the seed; null: all."
    )
    stub: str | None = Field(
        STUB,
        pattern=OPENS_BOX,
        description="The text that opens the answer when the reasoning is ended early; it ends in \\boxed{. null takes "
        "each trace's own words before its last box, which suits models that answer without preamble.",
    )
    n_matrices: int = Field(
        3, ge=0, description="Number of traces in which the effect of each sentence on every later one is measured too."
    )
    batch_tokens: int = Field(
        16_384, gt=0, description="Tokens that are computed at a time; halved when memory runs out."
    )


class Resampling(Section):
    """Reasoning continued anew from before and after its sentences: does the answer change without a sentence?"""

    n_rollouts: int = Field(0, ge=0, description="Number of continuations from each cut. 0: nothing is resampled.")
    kinds: Distinct[Literal["problems", "comparison_pairs"]] = Field(
        ["problems", "comparison_pairs"], min_length=1, description="Kinds of datasets whose reasoning is continued."
    )
    n_problems: int = Field(10, gt=0, description="Problems per dataset, drawn with the study's seed.")
    n_sentences: int | None = Field(
        20,
        gt=0,
        description="Sentences to resample per trace: those whose suppression changes the answer most; null: all.",
    )
    temperature: float = Field(0.6, gt=0, description="Sampling temperature of the continuations.")
    top_p: float | None = Field(0.95, gt=0, le=1, description="Their nucleus sampling; null: the model's own.")
    similarity: float = Field(
        0.8,
        ge=-1,
        le=1,
        description="A resampled sentence has another meaning if its similarity to the original is below this: the "
        "cosine of their mean hidden states, after subtracting the mean over all sentences.",
    )


class Explorer(Section):
    decoding: str = Field("greedy", description="The decoding whose traces the trace explorer shows.")
    n_problems: int = Field(
        100,
        gt=0,
        description="Number of problems of each model and dataset that it shows; those with attention rows come first.",
    )


class Study(Section):
    """A study: models x datasets x conditions x decodings, and the settings of its stages."""

    study: Name = Field(description="Results go to results/{study}.")
    seed: int = Field(description="The seed of every random choice.")
    date: datetime.date = Field(
        datetime.date(2025, 9, 28),
        description="The date that chat templates get as today's, so that prompts stay the same.",
    )
    models: dict[Name, Model] = Field(min_length=1, description="The models, by name.")
    datasets: dict[Name, Dataset] = Field(min_length=1, description="The datasets, by name.")
    decodings: dict[Name, Decoding] = Field(min_length=1, description="The decodings, by name.")
    generation: Generation = Field(default_factory=Generation)
    grading: Grading = Field(default_factory=Grading)
    judges: dict[Name, Judge] = Field(
        {},
        description="The judges that score the answers of open_ended datasets, by name; without a judge there are no "
        "scores. The first one also tells which reasonings tell of a hint (section hints).",
    )
    statistics: Statistics = Field(default_factory=Statistics)
    attention: Attention = Field(default_factory=Attention)
    ablation: Ablation = Field(default_factory=Ablation)
    diagnostics: Diagnostics = Field(default_factory=Diagnostics)
    perturbation: Perturbation = Field(default_factory=Perturbation)
    hints: Hints = Field(default_factory=Hints)
    patching: Patching = Field(default_factory=Patching)
    sentences: Sentences = Field(default_factory=Sentences)
    resampling: Resampling = Field(default_factory=Resampling)
    explorer: Explorer = Field(default_factory=Explorer)

    @model_validator(mode="after")
    def _labels_and_sizes_by_default_and_paths_located(self) -> "Study":
        for entries in (self.models, self.datasets, self.judges):
            for name, entry in entries.items():
                entry.label = entry.label or name
                entry.path = entry.path and located(entry.path)
        on_weights: list[Model | Judge] = [*self.models.values(), *self.judges.values()]
        for loaded in on_weights:
            n_parameters = parameters_by_size(loaded.path, loaded.hub, loaded.revision)
            is_light = loaded.gpus > 0 or 0 < n_parameters < MANY_PARAMETERS
            loaded.threads = loaded.threads or (1 if is_light else THREADS)
            loaded.memory_mb = loaded.memory_mb or self._memory_mb(loaded)
        self.diagnostics.haystack = located(self.diagnostics.haystack)
        return self

    def _memory_mb(self, loaded: "Model | Judge") -> int:
        """Main memory of a job that loads these weights, in MB: vLLM and torch, the key-value cache, the weights, and
        copies of them made while they are read. A model of 2.5 GB took 5.3 GB in vLLM.
        """
        n_parameters = parameters_by_size(loaded.path, loaded.hub, loaded.revision)
        itemsize = 4 if loaded.dtype == "float32" or (loaded.dtype == "auto" and not loaded.gpus) else 2
        cache = 0 if loaded.gpus else self.generation.cpu_cache_mb
        return max(LEAST_MEMORY_MB, 2500 + cache + round(1.2 * n_parameters * itemsize / 1e6))

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
    def hinted_datasets(self) -> list[str]:
        """The datasets whose questions are also asked with a hint."""
        named = [name for name in self.graded_datasets if self.datasets[name].kind in self.hints.dataset_kinds]
        return named if self.hints.kinds else []

    @property
    def resampled_datasets(self) -> list[str]:
        """The datasets whose reasoning is resampled from its sentences."""
        named = [name for name in self.graded_datasets if self.datasets[name].kind in self.resampling.kinds]
        return named if self.resampling.n_rollouts else []

    @property
    def datasets_perturbed_by_heads(self) -> list[str]:
        """The datasets whose traces are perturbed by what the Reasoning-Focus Heads read."""
        by_heads = any(PERTURBATION_KINDS[kind].reads_heads for kind in self.perturbation.kinds)
        return self.perturbed_datasets if by_heads else []

    @property
    def pair_datasets(self) -> list[str]:
        """The datasets that are patched."""
        return [name for name, dataset in self.datasets.items() if dataset.kind == "comparison_pairs"]

    @property
    def weighted_models(self) -> list[str]:
        """The models whose weights are known, so that attention and activations can be measured; variants share their
        bases'.
        """
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
    def parsed_models(self) -> list[str]:
        """The models whose reasoning is studied sentence by sentence."""
        return [name for name in self.weighted_models if "sentences" not in self.models[name].leave_out]

    @property
    def sharded_models(self) -> list[str]:
        """The models whose work on a dataset is shared by several jobs."""
        return [name for name, model in self.models.items() if model.shards > 1]

    def shards(self, model: str) -> list[str]:
        """Names of a model's shards, in order."""
        n_shards = self.models[model].shards
        return [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]

    @property
    def variants(self) -> dict[str, dict[str, str]]:
        """The variants by label: the label of the base, and the change in words."""
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
        """Whether the paper reports one of the study's models on one of its datasets, matched by label."""
        labels = (
            {model.label for model in self.models.values()},
            {self.datasets[name].label for name in self.graded_datasets},
        )
        with open(PAPER_NUMBERS) as file:
            return any(row["model"] in labels[0] and row["dataset"] in labels[1] for row in csv.DictReader(file))

    def endpoint_resources(self, model: str) -> dict[str, str | int]:
        """Address and concurrency of a model's endpoint, which change no results; empty without one."""
        return _server_resources(self.models[model].endpoint)

    @property
    def paraphraser_resources(self) -> dict[str, str | int]:
        """Address and concurrency of the paraphraser, which change no results; empty without one."""
        return _server_resources(self.perturbation.paraphraser)

    def judge_resources(self, judge: str) -> dict[str, str | int]:
        """Address and concurrency of a judge's server, which change no results; empty for one that vLLM runs here."""
        batch = self.judges[judge].batch
        return _server_resources(self.judges[judge].endpoint) | {"replies": batch.replies if batch else ""}

    def source_files(self, entry: Source) -> list[str]:
        """The files from which a local model, dataset or judge is read; none for one that is elsewhere."""
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
    """The section that a key of this type contains, alone, by name or in a list; None for a plain value."""
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

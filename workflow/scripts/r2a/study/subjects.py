"""What a study is about: its models, datasets, decodings and judges.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import typing
from typing import Any, Literal

from pydantic import Field, field_validator

from r2a.engine import gpus_by_default
from r2a.extensions import JUDGE_KINDS
from r2a.study.section import ADDRESS, HUB_ID, SECRET, VARIABLE, Name, Section

CONDITIONS = ("with_reasoning", "without_reasoning")
# what a variant may change
VARIED = (
    "prompt", "without_reasoning", "think_tags", "reasoning_format", "template_arguments", "system_turn", "dtype",
)  # fmt: skip

if typing.TYPE_CHECKING:
    OtherJudge: typing.TypeAlias = str
else:  # whatever is registered when the schema is read
    OtherJudge = Literal[tuple(JUDGE_KINDS)]


class Source(Section):
    """Something on disk or on the Hugging Face hub."""

    path: str | None = Field(None, min_length=1, description="Local file or folder, relative to the repository.")
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

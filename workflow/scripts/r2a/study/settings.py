"""The settings of a study's stages, a section each.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import typing
from typing import Annotated, Literal

from pydantic import Field, model_validator

from r2a.extensions import CONTROLS, GRADERS, HINTS, PERTURBATION_KINDS, PROBES
from r2a.roles import ABLATION_MODES, STUB
from r2a.study.section import OPENS_BOX, Distinct, Name, Section, meanings
from r2a.study.subjects import Server
from r2a.text.cues import ALL_CUE_WORDS

if typing.TYPE_CHECKING:
    Kind: typing.TypeAlias = str
    Control: typing.TypeAlias = str
    Probe: typing.TypeAlias = str
    Grader: typing.TypeAlias = str
    HintName: typing.TypeAlias = str
    Mode: typing.TypeAlias = str
else:  # whatever is registered when the schema is read
    Kind, Control, Probe, Grader = (Literal[tuple(r)] for r in (PERTURBATION_KINDS, CONTROLS, PROBES, GRADERS))
    HintName, Mode = Literal[tuple(HINTS)], Literal[tuple(ABLATION_MODES)]


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
        description=f"How answers are graded. {meanings(GRADERS)} The first one's verdicts count; a table lists "
        "the answers on which the others differ.",
    )
    seconds: float = Field(10, gt=0, description="Time limit for one answer; its verdict is then timeout.")
    memory_mb: int = Field(2000, gt=0, description="Memory of a grading process, in MB.")


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
        description=f"What is done to the reasoning. {meanings(PERTURBATION_KINDS)} A result is a mention of one of "
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
        description=f"Who gives the hint. {meanings(HINTS)} Empty (the default): no question contains a hint.",
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
        description=f"The line that ends the reasoning, with the answer X. {meanings(PROBES)}",
    )
    controls: Distinct[Control] = Field(
        ["same_answer", "unrelated_answer", "random_vector", "wrong_position"],
        description="Vectors that replace the clean run's in the corrupted run, to see what the effect of patching "
        f"proves. {meanings(CONTROLS)}",
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

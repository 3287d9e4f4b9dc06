"""The front door: load a reasoning model, make a trace and analyse it, without Snakemake or a configuration.

For example::

    from r2a import load_model, generate_trace, segment_attention, rank_heads, patch_curve, belief_curve
    model = load_model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    trace = generate_trace(model, "Which is larger, 9.9 or 9.11?")
    rank_heads(model, [trace]).head(10)

These functions call the same code as the workflow's stages, so their results equal its stores. Axes have the same names
as there: layer, head, query_segment, key_segment, position.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from r2a.ablation.arms import Arm
from r2a.ablation.decoding import answer_outputs, generate, of_others, read, refuse_inexact_ablation
from r2a.attention.rerun import check_masses, rerun_batch
from r2a.attention.segments import TraceAttention, segment_mass, sentence_mass, tracking
from r2a.formats import ReasoningFormat
from r2a.head_sets import Head
from r2a.heads.focus import short_mass, uniform_a2r
from r2a.models import format_of, load_tokenizer, marks_of, text_of, token_pieces
from r2a.models import load_model as load_weights
from r2a.models.decoder import Decoder, follow_vllm
from r2a.models.weights import find_weights
from r2a.patching.components import capture as capture_run
from r2a.patching.metrics import patch_metrics
from r2a.patching.pairs import build_run
from r2a.patching.patcher import Patcher
from r2a.prompts import WITH, WITHOUT, Prompts, PromptStyle
from r2a.roles import STUB
from r2a.sentences.belief import measure_belief
from r2a.sentences.branches import keep_run, refuse_inexact_branches
from r2a.sentences.endings import Ending, ending_of
from r2a.sentences.suppression import measure_suppression
from r2a.text.sentences import sentence_bounds
from r2a.traces import SHORT_NAMES, Bounds, Marks, segment_bounds

BATCH_TOKENS = 4096  # computed at a time when patching
KEYS_OF_REASONING = ("reasoning_content", "reasoning", "thinking")  # where servers with OpenAI's interface put it


class TraceError(ValueError):
    """A text or a log cannot be read as a trace; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class ReasoningModel:
    """A transformers model with its tokenizer and the marks that open and close its reasoning."""

    model: Any
    tokenizer: Any
    form: ReasoningFormat
    marks: Marks

    @cached_property
    def patcher(self) -> Patcher:
        """The model's patcher, checked on first use. Raises ModelError if the architecture cannot be patched."""
        return Patcher(self.model)

    def prompt_ids(
        self, question: str, instruction: str = "", condition: str = WITH, prompt: str | None = None
    ) -> list[int]:
        """Token ids of a question's prompt: by the chat template if there is one, otherwise in the paper's format.

        prompt: "chat" or "raw", to choose one. Raises PromptError if the template cannot open a reasoning.
        """
        chosen = prompt or ("raw" if self.tokenizer.chat_template is None else "chat")
        return Prompts(self.tokenizer, PromptStyle(self.form, chosen)).ids(question, instruction, condition)


@dataclass(frozen=True, eq=False)
class Trace:
    """One prompt with one completion of one model, as token ids; bounds says where its segments start."""

    token_ids: tuple[int, ...]
    bounds: Bounds
    tokens: tuple[str, ...]  # each token's own text

    def text(self, segment: str) -> str:
        """The text of a segment: prompt, reasoning, answer and so on (traces.SEGMENTS)."""
        return "".join(self.tokens[self.bounds.span(segment)])

    def positions(self, text: str, segment: str = "reasoning") -> list[int]:
        """Positions of the single tokens of a segment whose text is this one, ignoring spaces around it."""
        span = self.bounds.span(segment)
        return [position for position in range(span.start, span.stop) if self.tokens[position].strip() == text.strip()]


@dataclass(frozen=True, eq=False)
class SegmentAttention:
    """What a trace's reasoning and answer attend to, float32; nan in layers without attention.

    segment_mass [layer, head, query_segment, key_segment], with rows that sum to 1 over key_segment; tracking [layer,
    head], the rank correlation of centre with the answer token's index; centre and spread [layer, head, answer token],
    the attention-weighted mean position in the reasoning, from 0 to 1, and its standard deviation.
    """

    bounds: Bounds
    segment_mass: np.ndarray
    tracking: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    def mass(self, name: str) -> np.ndarray:
        """A segment mass [layer, head] by the paper's short name, e.g. a2r, from the answer to the reasoning."""
        return short_mass(self.segment_mass, name)


def load_model(
    source: str | Path | Any,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    reasoning_format: str | Mapping[str, Any] | None = None,
) -> ReasoningModel:
    """Load a model to study, on all visible GPUs or the CPU.

    source: a folder, an id on the Hugging Face hub, or a transformers model that you have already loaded, together with
    its tokenizer. dtype: float32, bfloat16 or float16; by default bfloat16 on a GPU and float32 on a CPU.
    reasoning_format: a name or {open, close, ...}, if the model's own files do not settle it. Raises ModelError if the
    weights are not safetensors, the format is uncertain, or a part of the model is not found.
    """
    if not isinstance(source, str | Path):
        if tokenizer is None:
            raise TypeError("a loaded model needs its tokenizer: load_model(model, tokenizer)")
        follow_vllm(Decoder(source))
        with tempfile.TemporaryDirectory() as folder:  # a folder with the model's own files, as on disk
            for part in (tokenizer, source.config, getattr(source, "generation_config", None)):
                if part is not None:
                    part.save_pretrained(folder)
            _, form, _ = format_of(folder, reasoning_format)
            marks = marks_of(folder, form)
        return ReasoningModel(source.eval(), tokenizer, form, marks)
    is_folder = Path(source).is_dir()
    found, _ = find_weights(
        {"path": str(source) if is_folder else None, "hub": None if is_folder else str(source), "revision": revision}
    )
    _, form, _ = format_of(found, reasoning_format)
    chosen = dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    manifest = {"folder": str(found), "models": {str(source): {"dtype": chosen}}}
    return ReasoningModel(load_weights(manifest, "sdpa"), load_tokenizer(found), form, marks_of(found, form))


def trace_from_ids(model: ReasoningModel, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Trace:
    """A trace from the exact token ids of its prompt and completion.

    Raises TraceError if nothing opens a reasoning.
    """
    prompt, completion = [*map(int, prompt_ids)], [*map(int, completion_ids)]
    ids = (*prompt, *completion)
    try:
        bounds = segment_bounds(prompt, completion, model.marks)
    except ValueError as error:
        raise TraceError(f"{error}; a prompt of ReasoningModel.prompt_ids opens one") from error
    return Trace(ids, bounds, tuple(token_pieces(model.tokenizer, ids)))


def trace_from_text(model: ReasoningModel, question: str, reasoning: str, answer: str, instruction: str = "") -> Trace:
    """A trace from texts: the question's prompt, the reasoning, its closing mark and the answer.

    The texts are tokenized here, so the ids can differ from those that a model generated; if you have these, use
    trace_from_ids.
    """
    completion = f"{reasoning}{model.form.close}{model.form.answer_open}{answer}"
    ids = model.tokenizer.encode(completion, add_special_tokens=False)
    return trace_from_ids(model, model.prompt_ids(question, instruction), ids)


def trace_from_message(model: ReasoningModel, question: str, message: Mapping[str, Any]) -> Trace:
    """A trace from a chat message as returned by a server: content and reasoning_content, or content with tags.

    Raises TraceError if the message has no reasoning.
    """
    content = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    answer = "".join(part.get("text") or "" for part in parts if part.get("type") in ("text", "output_text"))
    found = [str(message[key]) for key in KEYS_OF_REASONING if message.get(key)]
    found += [
        str(part.get("reasoning") or part.get("thinking"))
        for part in parts
        if part.get("type") in ("reasoning", "thinking")
    ]
    if found:
        return trace_from_text(model, question, found[0], answer)
    before, closed, after = answer.partition(model.form.close)
    if not closed:
        raise TraceError(
            f"the message has none of {', '.join(KEYS_OF_REASONING)} and no {model.form.close!r} in its content"
        )
    return trace_from_text(model, question, before.removeprefix(model.form.open), after)


def read_traces(model: ReasoningModel, path: Path | str) -> list[Trace]:
    """The traces in a log: an inspect_ai log (.json), or lm-evaluation-harness samples or chat messages (.jsonl).

    Each line of a .jsonl file is a sample with arguments and resps, or {messages: [...]} that ends with the model's
    message. Raises TraceError, naming the file and the sample, if one has no question or no reasoning.
    """
    traces: list[Trace] = []
    try:
        for question, message in _logged(Path(path)):
            traces.append(trace_from_message(model, question, message))
    except TraceError as error:
        raise TraceError(f"{path}: sample {len(traces) + 1}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(f"{path}: sample {len(traces) + 1}: is not as in such a log ({error!r:.200})") from error
    return traces


def _logged(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The question and the message of every sample in a log."""
    if path.suffix == ".json":
        log = json.loads(path.read_text("utf-8"))
        samples = log.get("samples") if isinstance(log, dict) else None
        if samples is None:
            raise TraceError("there are none; an inspect_ai log in JSON has some (inspect log convert --to json)")
        for sample in samples:
            asked = sample["input"]
            question = asked if isinstance(asked, str) else _last_question(asked)
            yield question, sample["output"]["choices"][0]["message"]
        return
    for line in filter(str.strip, path.read_text("utf-8-sig").split("\n")):
        sample = json.loads(line)
        if "messages" in sample:
            *asked, message = sample["messages"]
            yield _last_question(asked), message
        elif "resps" in sample:
            arguments = sample["arguments"]
            first = arguments["gen_args_0"]["arg_0"] if isinstance(arguments, dict) else arguments[0][0]
            yield first, {"content": sample["resps"][0][0]}
        else:
            raise TraceError("has neither messages nor resps")


def _last_question(turns: Sequence[Mapping[str, Any]]) -> str:
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    if not asked:
        raise TraceError("has no turn of a user")
    return asked[-1]


@torch.no_grad()
def generate_trace(
    model: ReasoningModel,
    question: str,
    instruction: str = "",
    *,
    max_new_tokens: int = 2048,
    with_reasoning: bool = True,
    prompt: str | None = None,
) -> Trace:
    """A greedy trace of one question, generated by transformers; for many questions, the workflow's vLLM is much
    faster.
    """
    ids = model.prompt_ids(question, instruction, WITH if with_reasoning else WITHOUT, prompt)
    tokens = torch.tensor([ids], device=model.model.device)
    asked = {
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "pad_token_id": min(model.marks.stops, default=0),
    }
    made = model.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(model.marks.stops),
        **asked,
    )
    return trace_from_ids(model, ids, made[0, len(ids) :].tolist())


def segment_attention(model: ReasoningModel, trace: Trace) -> SegmentAttention:
    """What a trace's reasoning and answer attend to, in every head, at the cost of a forward pass (METHOD section 3).

    Raises EmptySegment if the trace has no reasoning or no answer, AttentionError if masses do not sum to 1.
    """
    ((kept, _),) = rerun_batch(model.model, [trace.token_ids], [trace.bounds])
    return _summed(model, trace, kept)


def _summed(model: ReasoningModel, trace: Trace, kept: TraceAttention) -> SegmentAttention:
    decoder = Decoder(model.model)
    mass = segment_mass(kept, trace.bounds)
    dtype = str(model.model.dtype).removeprefix("torch.")
    check_masses(mass[decoder.attending], dtype, "trace", decoder.has_sinks)
    return SegmentAttention(trace.bounds, mass, tracking(kept.centre), kept.centre, kept.spread)


def rank_heads(model: ReasoningModel, traces: Sequence[Trace]) -> pd.DataFrame:
    """One row per head, ranked by the mean attention of answer tokens to the reasoning over the traces.

    Columns: rank (1 is the highest a2r), layer, head, the paper's short names (a2r, a2p, a2bos, ...), lift (a2r over
    that of even attention) and tracking. Shows a progress bar. METHOD section 3; Zhang et al. 2025, section 4.
    """
    if not traces:
        raise TraceError("there are no traces by which heads could be ranked")
    found = [segment_attention(model, trace) for trace in tqdm(traces, desc="traces", disable=len(traces) < 2)]
    n_layers, n_heads = found[0].tracking.shape
    layers, heads = np.divmod(np.arange(n_layers * n_heads), n_heads)
    means = {name: np.mean([attention.mass(name) for attention in found], 0).ravel() for name in SHORT_NAMES}
    lift = np.mean([attention.mass("a2r") / uniform_a2r(attention.bounds) for attention in found], 0).ravel()
    tracked = pd.DataFrame([attention.tracking.ravel() for attention in found]).mean()  # over traces that have it
    table = pd.DataFrame({"layer": layers, "head": heads, **means, "lift": lift, "tracking": tracked})
    table = table.sort_values("a2r", ascending=False, kind="stable", na_position="last")
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table.reset_index(drop=True)


def capture(
    model: ReasoningModel, trace: Trace, positions: Sequence[int], components: Sequence[str] = ("resid_pre",)
) -> dict[str, np.ndarray]:
    """A trace's activations at some positions, float32 [layer, position, d_model], by component.

    components: resid_pre, resid_mid, attn_out, mlp_out or z; z has [layer, position, head, d_head]. Raises ModelError
    if the architecture lacks one.
    """
    found, _ = capture_run(model.model, trace.token_ids, positions, components)
    return {component: activations.numpy() for component, activations in found.items()}


def patch_curve(
    model: ReasoningModel,
    clean: Trace,
    corrupted: Trace,
    answers: tuple[str, str],
    *,
    component: str = "resid_pre",
    comparators: tuple[str, str] = ("right", "right"),
    probe: str = "plain",
) -> pd.DataFrame:
    """Activation patching from the clean trace into the corrupted one, by layer and role (METHOD section 4).

    answers: of the clean and of the corrupted question, one token each. Both runs end their reasoning with the probe's
    line and their own answer, and begin the answer with "Thus, the {comparator} one is". Positions are matched by role.
    Columns: layer, role, and every metric of patching.metrics.METRICS; normalized_logit_diff is 0 if nothing changed
    and 1 if the clean answer is fully restored. Raises PairError if an answer is not one token, ModelError if restarts
    are not exact for the architecture.
    """
    if component == "z":
        raise ValueError(
            "z has an additional axis, the heads; patch_curve takes resid_pre, resid_mid, attn_out or mlp_out"
        )
    patcher = model.patcher
    sides = [
        build_run(
            model.tokenizer,
            {"prompt_token_ids": trace.token_ids, "completion_token_ids": (), "bounds": trace.bounds},
            answer,
            comparator,
            probe,
            keep_reasoning=True,
        )
        for trace, answer, comparator in zip((clean, corrupted), answers, comparators, strict=True)
    ]
    roles = [role for role in sides[0].roles if role in sides[1].roles]
    places = [[side.positions[role] for role in roles] for side in sides]
    vectors, clean_logits = capture_run(model.model, sides[0].token_ids, places[0], [component])
    kept = patcher.keep(sides[1].token_ids, places[1])
    resid_post = patcher.patch(kept, component, vectors[component].to(model.model.device), BATCH_TOKENS)
    corrupted_logits = patcher.logits(kept.resid_pre[-1])[0]
    metrics = patch_metrics(
        patcher.logits(resid_post), clean_logits, corrupted_logits, sides[0].answer_id, sides[1].answer_id
    )
    layers, numbers = np.divmod(np.arange(patcher.n_layers * len(roles)), len(roles))
    values = {name: found.numpy().ravel() for name, found in metrics.items()}
    return pd.DataFrame({"layer": layers, "role": [roles[number] for number in numbers], **values})


def ablate(
    model: ReasoningModel,
    trace: Trace,
    heads: Sequence[Head],
    mode: str = "cut_off",
    *,
    max_new_tokens: int | None = None,
    other_traces: Sequence[Trace] = (),
) -> pd.DataFrame:
    """The trace's answer generated again, greedily, with and without some heads ablated (METHOD section 3).

    heads: (layer, head) pairs. mode: zero; mean (over the answers of other_traces); resample (from the first of them);
    cut_off (attention knockout: the heads do not see the reasoning); or sharpened (their attention within the reasoning
    is squared). Columns: mode (unablated first), answer, a2r (what its tokens still attend to the reasoning, mean over
    all heads), is_finished. Raises ModelError if the architecture cannot be ablated exactly.
    """
    refuse_inexact_ablation(model.model, trace.token_ids)
    n_layers, n_heads = Decoder(model.model).n_layers, Decoder(model.model).n_heads
    unknown = [head for head in heads if not (0 <= head[0] < n_layers and 0 <= head[1] < n_heads)]
    if unknown:
        raise ValueError(f"heads are (layer, head) below ({n_layers}, {n_heads}), from 0 on; there is no {unknown[0]}")
    reading = read(model.model, trace.token_ids[: trace.bounds.answer], trace.bounds)
    if mode in ("mean", "resample"):
        if not other_traces:
            raise ValueError(f"mode {mode} needs other_traces, since it uses their heads' outputs")
        traces = [trace, *other_traces]
        outputs = answer_outputs(model.model, [t.token_ids for t in traces], [t.bounds for t in traces])
        reading.mean, reading.resampled = of_others(outputs, 0, 1)
    arms = [Arm("unablated", "unablated", 0, ()), Arm(mode, "chosen", 0, tuple(heads))]
    limit = max_new_tokens or trace.bounds.end - trace.bounds.answer + 64
    answers = generate(model.model, [(reading, arm) for arm in arms], [limit] * len(arms), model.marks.stops)
    return pd.DataFrame(
        {
            "mode": [arm.mode for arm in arms],
            "answer": [text_of(model.tokenizer, answer.token_ids) for answer in answers],
            "a2r": [answer.a2r for answer in answers],
            "is_finished": [answer.is_finished for answer in answers],
        }
    )


def belief_curve(
    model: ReasoningModel, trace: Trace, *, stub: str | None = STUB, reference: str | None = None
) -> pd.DataFrame:
    """What the model would answer if its reasoning ended after each of its sentences (METHOD section 5).

    After k = 0 to S sentences, the reasoning is closed and the answer opened by the stub, which ends in an open box.
    stub=None takes the trace's own words before its last box; if these are long, they may already contain the answer.
    Columns: step (k), sentence (its text, "" for step 0), log_probability (of the trace's own final answer, nats),
    reference_log_probability (if a reference is given), greedy (the answer decoded greedily, None if it closes no box),
    is_own (whether that is the trace's own). Raises TraceError if the trace has no final answer, ModelError if runs of
    the architecture cannot be continued exactly.
    """
    ending, cut = _ended(model, trace, stub, [reference] if reference else [])
    kept = keep_run(model.model, trace.token_ids[: trace.bounds.think_close])
    found = measure_belief(
        model.model, kept, cut, ending.opening, ending.answers, ending.is_whole, ending.max_tokens, BATCH_TOKENS
    )
    columns: dict[str, Any] = {
        "step": range(len(cut)),
        "sentence": ["", *_sentence_texts(trace, cut)],
        "log_probability": found.log_probability[0],
    }
    if reference:  # the last of the answers, or the only one where it is the trace's own
        columns["reference_log_probability"] = found.log_probability[-1]
    columns |= {"greedy": map(ending.answer, found.greedy), "is_own": map(ending.is_own, found.greedy)}
    return pd.DataFrame(columns)


def sentence_effects(
    model: ReasoningModel, trace: Trace, heads: Sequence[Head] = (), *, stub: str | None = STUB
) -> pd.DataFrame:
    """How much the answer loses when each sentence of the reasoning is hidden from all that follows (METHOD section 5).

    heads: (layer, head) pairs, e.g. the Reasoning-Focus Heads; sentences are then also hidden from these heads alone.
    stub: as in belief_curve. Columns: sentence (its text), first and last (its first and past-the-last token), effect
    (how much less probable the trace's own final answer is, nats), greedy_without (the answer then, None if no box is
    closed) and, if heads are given, effect_in_heads, greedy_without_in_heads and read (their attention from the answer
    per token of the sentence). Raises TraceError if the trace has no final answer, ModelError if runs of the
    architecture cannot be continued exactly.
    """
    ending, cut = _ended(model, trace, stub, [])
    ids = [*trace.token_ids[: trace.bounds.think_close], *ending.opening, *ending.answers[0]]
    answer = len(ids) - len(ending.answers[0])
    arms = [None, frozenset(heads)] if heads else [None]
    kept = keep_run(model.model, ids)
    found = measure_suppression(model.model, kept, cut, answer, arms, ending.is_whole, ending.max_tokens, BATCH_TOKENS)
    columns: dict[str, Any] = {"sentence": _sentence_texts(trace, cut), "first": cut[:-1], "last": cut[1:]}
    for suffix, effect, greedy in zip(("", "_in_heads"), found.effect, found.greedy, strict=False):
        columns |= {f"effect{suffix}": effect, f"greedy_without{suffix}": list(map(ending.answer, greedy))}
    if heads:
        ((attention, _),) = rerun_batch(model.model, [trace.token_ids], [trace.bounds])
        mass = sentence_mass(attention.answer_mass, cut)[tuple(np.transpose(list(heads)))]
        columns["read"] = mass.mean(0) / np.diff(cut)
    return pd.DataFrame(columns)


def _ended(model: ReasoningModel, trace: Trace, stub: str | None, others: Sequence[str]) -> tuple[Ending, list[int]]:
    """The ending of a trace's reasoning, and the bounds of its sentences."""
    try:
        ending = ending_of(model.tokenizer, model.marks, trace.text("answer"), stub, others)
    except ValueError as error:
        raise TraceError(str(error)) from error
    refuse_inexact_branches(model.model, trace.token_ids)
    reasoning = trace.bounds.span("reasoning")
    return ending, sentence_bounds(trace.tokens[reasoning], reasoning.start)


def _sentence_texts(trace: Trace, cut: Sequence[int]) -> list[str]:
    return ["".join(trace.tokens[first:last]) for first, last in pairwise(cut)]

"""Decoders with a known mechanism: every weight is set by hand, and nothing is trained.

planted_model(): one head, (LAYER, HEAD), reads the answer in the reasoning and writes it where the next token is
predicted. Every other head and every MLP writes nothing (their output projections are zero), so no other path exists.
Three variants have another mechanism instead, or in addition:

- "attends_idly": the head IDLE also has all attention of its answer rows on the answer, and has it in its z, but writes
  nothing; the planted head has MOST of its attention there;
- "attends_little": the planted head has only LITTLE of its attention there, and writes correspondingly more;
- "in_sequence": FIRST writes the answer at every answer row, in the code of the reasoning; the MLP of its layer
  rewrites it in a code of its own, which SECOND reads at the answer's rows and writes as the answer to be given.

Tokens. A candidate answer has two ids: SAID[k] in the reasoning and GIVEN[k] in the answer. ANSWER_WORDS and GIVEN make
up the answer segment; PROMPT_WORDS and REASONING_WORDS are filler. So a key can be matched by what the token is, and
the model needs no other head to find out where it is.

Residual stream. There is one block of dimensions each for the identity of a candidate said, for that of a candidate to
be given, and for the latter in the MLP's code; three flags (is BOS, is SAID, belongs to the answer); and for every
token a filler direction of its own, which nothing reads. The filler brings each embedding's norm to sqrt(D_MODEL), so
an RMSNorm of weight 1 leaves an embedding unchanged; until something is written, every head reads the bare embedding.

Rotation. With a theta of 1e12 and 8 dimensions per head, the slowest pair (3, 7) turns by 1e-9 per token. Queries and
keys use only this pair, so scores do not depend on position, and its two dimensions are two independent features.
Dimension 3 matches an answer row to a SAID key, with score MATCH; dimension 7 matches any row to BOS, with SINK.

The resulting attention, up to exp(-SINK) times the number of tokens:
- the planted heads: answer rows on the SAID token (SECOND's: evenly on the answer's rows so far), all other rows on
  BOS; what is missing to 1 is also on BOS;
- the other heads: odd ones, all rows on BOS; even ones have no query, so they are uniform over the visible tokens.
Head 0 of a layer shares its keys and values with head 1, as in any model with grouped queries.

The resulting logits. The planted head adds sqrt(D_MODEL) in the direction of the candidate, orthogonal to the
embedding. The squared norm doubles, so the final RMSNorm leaves sqrt(D_MODEL / 2) of it, and the unembedding turns that
into ANSWER_LOGIT for GIVEN[k], and 0 for any other token. In sequence, three such vectors are added, and the logit is
ANSWER_LOGIT / sqrt(2).
"""

import math
import random
from dataclasses import dataclass

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from r2a.traces import Bounds

N_LAYERS, N_HEADS, N_KV_HEADS, D_HEAD = 4, 4, 2, 8
D_MODEL = N_HEADS * D_HEAD
LAYER, HEAD = 2, 1
IDLE, FIRST, SECOND = (1, 3), (1, 1), (3, 1)
MOST, LITTLE = 0.9, 0.05  # of a head's attention

BOS, EOS, THINK_OPEN, THINK_CLOSE = range(4)
PROMPT_WORDS, REASONING_WORDS, ANSWER_WORDS = range(4, 12), range(12, 24), range(24, 30)
SAID, GIVEN = range(30, 38), range(38, 46)
N_TOKENS = GIVEN.stop

SAID_IDENTITY, GIVEN_IDENTITY = range(8), range(8, 16)
IS_BOS, IS_SAID, IS_ANSWER = 16, 17, 18
FILLER, RECODED_IDENTITY = range(19, 24), range(24, D_MODEL)

FLAG = 2.0
MATCH, SINK = 60.0, 30.0
MATCH_DIMENSION, SINK_DIMENSION = 3, 7
ANSWER_LOGIT = 10.0


@dataclass(frozen=True)
class PlantedTrace:
    """A whole trace, from BOS to EOS: its ids, its segment bounds, and where the candidate is said and given."""

    token_ids: list[int]
    bounds: Bounds
    candidate: int
    said_position: int
    given_position: int

    @property
    def run_ids(self) -> list[int]:
        """The trace up to the token that predicts the answer."""
        return self.token_ids[: self.given_position]


def planted_trace(rng: random.Random, candidate: int) -> PlantedTrace:
    """A trace of random filler with random lengths, whose reasoning says the candidate and whose answer gives it."""
    prompt = rng.choices(PROMPT_WORDS, k=rng.randint(4, 12))
    before, after = (rng.choices(REASONING_WORDS, k=rng.randint(3, 15)) for _ in range(2))
    lead, tail = rng.choices(ANSWER_WORDS, k=rng.randint(3, 8)), rng.choices(ANSWER_WORDS, k=rng.randint(0, 2))
    think_open = 1 + len(prompt)
    said_position = think_open + 1 + len(before)
    think_close = said_position + 1 + len(after)
    given_position = think_close + 1 + len(lead)
    eos = given_position + 1 + len(tail)
    return PlantedTrace(
        [BOS, *prompt, THINK_OPEN, *before, SAID[candidate], *after, THINK_CLOSE, *lead, GIVEN[candidate], *tail, EOS],
        Bounds(0, 1, think_open, think_open + 1, think_close, think_close + 1, eos, eos + 1),
        candidate, said_position, given_position,
    )  # fmt: skip


@torch.no_grad()
def planted_model(mechanism: str = "one_head") -> Qwen2ForCausalLM:
    """One of the models that this module's docstring describes, in float32 with eager attention."""
    config = Qwen2Config(
        vocab_size=N_TOKENS,
        hidden_size=D_MODEL,
        intermediate_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    model.model.embed_tokens.weight.copy_(_embeddings())
    for layer in range(N_LAYERS):
        attention = model.model.layers[layer].self_attn
        for head in range(1, N_HEADS, 2):
            attention.q_proj.bias[head * D_HEAD + SINK_DIMENSION] = SINK * D_HEAD**0.5
        for kv_head in range(N_KV_HEADS):
            attention.k_proj.weight[kv_head * D_HEAD + SINK_DIMENSION, IS_BOS] = 1 / FLAG
    for candidate, token in enumerate(GIVEN):
        model.lm_head.weight[token, GIVEN_IDENTITY[candidate]] = ANSWER_LOGIT / (D_MODEL / 2) ** 0.5

    if mechanism == "in_sequence":
        _attend(model, FIRST, IS_SAID)
        _carry(model, FIRST, SAID_IDENTITY, SAID_IDENTITY)
        _recode(model.model.layers[FIRST[0]].mlp)
        # three vectors of the same norm make up the stream there, so its features are smaller
        _attend(model, SECOND, IS_ANSWER, match=3 * MATCH)
        _carry(model, SECOND, RECODED_IDENTITY, GIVEN_IDENTITY, read=(D_MODEL / 3) ** 0.5)
    else:
        share = {"one_head": 1.0, "attends_idly": MOST, "attends_little": LITTLE}[mechanism]
        _attend(model, (LAYER, HEAD), IS_SAID, share=share)
        _carry(model, (LAYER, HEAD), SAID_IDENTITY, GIVEN_IDENTITY, gain=1 / share)
    if mechanism == "attends_idly":
        _attend(model, IDLE, IS_SAID)
        _carry(model, IDLE, SAID_IDENTITY, GIVEN_IDENTITY, gain=0.0)
    return model


def _attend(
    model: Qwen2ForCausalLM, place: tuple[int, int], flag: int, match: float = MATCH, share: float = 1.0
) -> None:
    """Put a share of a head's attention, from answer rows, on keys with a flag; the rest stays on BOS."""
    layer, head = place
    attention = model.model.layers[layer].self_attn
    first, kv_first = head * D_HEAD, head // (N_HEADS // N_KV_HEADS) * D_HEAD
    score = match if share == 1 else SINK + math.log(share / (1 - share))
    attention.q_proj.weight[first + MATCH_DIMENSION, IS_ANSWER] = score * D_HEAD**0.5 / FLAG
    attention.k_proj.weight[kv_first + MATCH_DIMENSION, flag] = 1 / FLAG


def _carry(
    model: Qwen2ForCausalLM, place: tuple[int, int], source: range, target: range, read: float = FLAG, gain: float = 1.0
) -> None:
    """Make a head write the identity that it reads (of size `read` in what it attends to) with norm sqrt(D_MODEL)."""
    layer, head = place
    attention = model.model.layers[layer].self_attn
    first, kv_first = head * D_HEAD, head // (N_HEADS // N_KV_HEADS) * D_HEAD
    for candidate in range(len(SAID)):
        attention.v_proj.weight[kv_first + candidate, source[candidate]] = 1 / read
        attention.o_proj.weight[target[candidate], first + candidate] = gain * D_MODEL**0.5


def _recode(mlp: torch.nn.Module) -> None:
    """At answer rows where a SAID identity was written, write it in another code, with norm sqrt(D_MODEL)."""
    flag, identity = FLAG / 2**0.5, (D_MODEL / 2) ** 0.5  # in the normed stream, whose squared norm has doubled
    gate = 20.0  # so large that silu leaves it as it is
    for candidate in range(len(SAID)):
        mlp.gate_proj.weight[candidate, IS_ANSWER] = gate / flag
        mlp.up_proj.weight[candidate, SAID_IDENTITY[candidate]] = 1 / identity
        mlp.down_proj.weight[RECODED_IDENTITY[candidate], candidate] = D_MODEL**0.5 / gate


def _embeddings() -> torch.Tensor:
    """One row per token, [N_TOKENS, D_MODEL], each of norm sqrt(D_MODEL)."""
    embeddings = torch.zeros(N_TOKENS, D_MODEL)
    embeddings[BOS, IS_BOS] = FLAG
    embeddings[SAID.start : SAID.stop, IS_SAID] = FLAG
    embeddings[ANSWER_WORDS.start : ANSWER_WORDS.stop, IS_ANSWER] = FLAG
    embeddings[GIVEN.start : GIVEN.stop, IS_ANSWER] = FLAG
    for candidate, token in enumerate(SAID):
        embeddings[token, SAID_IDENTITY[candidate]] = FLAG
    filler = torch.randn(N_TOKENS, len(FILLER), generator=torch.Generator().manual_seed(0))
    missing = D_MODEL - embeddings.square().sum(1, keepdim=True)
    embeddings[:, FILLER.start : FILLER.stop] = torch.nn.functional.normalize(filler, dim=1) * missing.sqrt()
    return embeddings

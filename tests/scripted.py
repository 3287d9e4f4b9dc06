"""A reasoning model written by hand, whose answer depends on a single sentence of its reasoning; nothing is trained.

It says "Hello. " or "Hi. ", then "It is " and a colour, then "Good. " or "Fine. ", each as likely as the others; then
it closes its reasoning and gives, in a box, the colour that it said.

Every token has its own dimension of the residual stream, of size sqrt(D_MODEL), and the unembedding gives LOGIT to each
token that may follow it. One head reads the colour from the opened box (score MATCH) and writes it in a dimension of
the answer; in all other rows its attention is on the first token (score SINK), whose value is 0. The output projections
of the second head and of the MLP are zero.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

BOS, EOS, OPEN, CLOSE, WHY, IT_IS, BOX, END = "<bos>", "<eos>", "<think>", "</think>", "Why?", "It is ", "\\boxed{", "}"
GREETINGS, ENDINGS = ("Hello. ", "Hi. "), ("Good. ", "Fine. ")
SAID, GIVEN = ("red. ", "blue. ", "green. "), ("red", "blue", "green")
TOKENS = (BOS, EOS, OPEN, CLOSE, WHY, IT_IS, BOX, END, *GREETINGS, *ENDINGS, *SAID, *GIVEN)
NEXT = {
    OPEN: GREETINGS, **dict.fromkeys(GREETINGS, (IT_IS,)), IT_IS: SAID, **dict.fromkeys(SAID, ENDINGS),
    **dict.fromkeys(ENDINGS, (CLOSE,)), CLOSE: (BOX,), **dict.fromkeys(GIVEN, (END,)), END: (EOS,),
}  # fmt: skip
D_MODEL, D_HEAD = 64, 32  # the smallest heads that vLLM's CPU attention supports
LOGIT, MATCH, SINK = 30.0, 60.0, 30.0
MATCH_DIMENSION, SINK_DIMENSION = 15, 31  # the pair that rotates slowest
SIZE = D_MODEL**0.5


@torch.no_grad()
def write_scripted_model(folder: Path) -> None:
    """Write the model and its tokenizer."""
    at = {token: number for number, token in enumerate(TOKENS)}
    config = Qwen2Config(
        vocab_size=len(TOKENS), hidden_size=D_MODEL, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-12, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12}, bos_token_id=at[BOS], eos_token_id=at[EOS],
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight[MATCH_DIMENSION, at[BOX]] = MATCH * D_HEAD**0.5 / SIZE
    attention.q_proj.bias[SINK_DIMENSION] = SINK * D_HEAD**0.5
    attention.k_proj.weight[SINK_DIMENSION, at[BOS]] = 1 / SIZE
    for token, row in at.items():
        model.model.embed_tokens.weight[row, row] = SIZE
        for following in NEXT.get(token, ()):
            model.lm_head.weight[at[following], row] = LOGIT / SIZE
    for number, (said, given) in enumerate(zip(SAID, GIVEN, strict=True)):
        attention.k_proj.weight[MATCH_DIMENSION, at[said]] = 1 / SIZE
        attention.v_proj.weight[number, at[said]] = 1 / SIZE
        attention.o_proj.weight[len(TOKENS) + number, number] = SIZE
        # with the colour, the stream's squared norm has doubled
        model.lm_head.weight[at[given], len(TOKENS) + number] = LOGIT * 2**0.5 / SIZE
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel(at, unk_token=EOS))
    words.decoder = decoders.ByteLevel()
    words.add_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token=BOS, eos_token=EOS).save_pretrained(folder)

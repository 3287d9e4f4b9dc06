"""A judge for the tiny study: random weights that write JSON, so that judging really runs; its scores mean nothing."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAX_POSITIONS = 8192
VOCABULARY_SIZE = 600
BOS, EOS = "<|begin|>", "<|end|>"
QUOTE, OTHERS = '"', "{}:,"
PUSH = 4000.0  # added to the logit of a quotation mark, so that texts end; half of it to other punctuation and EOS
SPREAD = 0.6  # standard deviation of the weights: attention is peaked, and replies depend on the prompt
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
CARD = """# tiny-judge: a toy that scores at random

A decoder of {n_parameters:,} parameters and one layer with random weights, never trained; its tokens are byte pairs of
the judge's template. Its scores depend on what it reads in no way that means anything. It exists so that judging
open-ended answers, in vLLM with structured output, runs from end to end on a CPU.

Its one deliberate property: quotation marks are likely everywhere, so that the texts of a reply which is held to a
schema end.

`snakemake results/tiny_training/tiny-judge` makes it again (seed {seed}, `workflow/scripts/r2a/tiny/judge.py`).
"""


def write_judge(folder: Path, template: Path, seed: int) -> None:
    """Write the model, its byte-level tokenizer with a chat template, and its card."""
    tokenizer = _tokenizer(template.read_text())
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=32,
        intermediate_size=128, vocab_size=len(tokenizer), max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=SPREAD,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    quote, *others = [tokenizer.convert_tokens_to_ids(token) for token in (QUOTE, *OTHERS, EOS)]
    with torch.no_grad():
        # the first coordinate of every hidden state is constant, and the logits of the pushed tokens depend on it
        model.model.embed_tokens.weight[:, 0] = 4.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[quote, 0] = PUSH
        model.lm_head.weight[others, 0] = PUSH / 2
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(n_parameters=model.num_parameters(), seed=seed))


def _tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the byte pairs of a text, all single bytes, and tokens for its beginning and end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(BOS, special=True), AddedToken(EOS, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=MAX_POSITIONS,
    )  # fmt: skip

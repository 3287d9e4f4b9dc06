"""TransformerLens' own view of a model, for comparison; it is not a dependency and may be missing."""

import tempfile
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast


def bridge(model: Any) -> Any:
    """The same weights in a TransformerBridge, unprocessed; token ids go in, so the tokenizer knows only one word."""
    from transformer_lens.model_bridge import TransformerBridge

    words = Tokenizer(WordLevel({"<unknown>": 0}, unk_token="<unknown>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unknown>", bos_token="<unknown>", eos_token="<unknown>"
    )
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(
            folder, hf_model=model, tokenizer=AutoTokenizer.from_pretrained(folder)
        )

"""A device with memory for a limited number of tokens: the model's layers raise torch's error during a real pass."""

from collections.abc import Callable
from typing import Any

import torch

from r2a.models.decoder import Decoder


def with_room_for(n_tokens: int, load_model: Callable[..., Any]) -> Callable[..., Any]:
    """A load_model whose model runs out of memory in its second layer beyond n_tokens, counted over all rows."""

    def load(*of: Any) -> Any:
        model = load_model(*of)
        Decoder(model).layers[1].register_forward_pre_hook(refuse, with_kwargs=True)
        return model

    def refuse(_layer: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        hidden = inputs[0] if inputs else options["hidden_states"]
        if hidden.shape[0] * hidden.shape[1] > n_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")

    return load

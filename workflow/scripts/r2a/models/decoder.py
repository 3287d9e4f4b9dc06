"""One interface to the modules of a decoder, whatever its family calls them.

All code in r2a that accesses a model's modules does so through a Decoder: the embedding, the layers, each layer's
attention with its output projection, its MLP, the final norm and the head.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from r2a.config_file import has_mistrals_files, longrope_switch, unlike_vllm
from r2a.modeling import NORM
from r2a.models.attention import SEAM, Pass, attention_kernel, plain_attention, watched_by
from r2a.models.kernels import Rule
from r2a.models.weights import ModelError

ATTENTION = ("self_attn", "attention", "attn", "mixer", "self_attention")
PROJECTION = ("o_proj", "dense", "out_proj", "c_proj", "wo")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "moe", "shared_mlp", "experts")
# module classes that carry a token's state to later tokens outside of attention
RECURRENT = re.compile("Mamba|DeltaNet|Lightning|LinearAttention|ShortConv|Recurrent|SSM|RWKV|GatedLinear")
LOOK_IDS = (2, 3, 5)  # tokens that every vocabulary has
HEAD_ROWS = 16_384  # rows of the unembedding that are converted to float32 at a time


class Decoder:
    """A causal language model of transformers and its parts; lists have one entry per layer.

    attentions, projections: None for a layer without softmax attention. mlps: None for a layer without one, or with
    several modules whose outputs are added.
    """

    def __init__(self, model: Any) -> None:
        """Raises ModelError, which names the architecture, if a part is not found or a layer works in another way, and
        AttentionError if its attention is not supported.
        """
        self.model, self.name = model, type(model).__name__
        self.config = model.config.get_text_config(decoder=True)
        body = model.get_decoder()
        self.body = getattr(body, "model", body)  # llama4's get_decoder returns the whole model
        self.layers = self._find_layers()
        self.mlps = [_only(layer, MLP) for layer in self.layers]
        self.norm = self._part(self.body, NORM)
        self.head = model.get_output_embeddings()
        self.embedding = model.get_input_embeddings()
        if self.head is None or self.embedding is None:
            raise ModelError(
                f"{self.name}: has no embedding or no output head; only causal language models can be studied"
            )
        self.is_recurrent = any(map(_is_recurrent, self.layers))
        if any("Indexer" in type(module).__name__ for module in self.body.modules()):
            raise ModelError(f"{self.name}: an index chooses which tokens its layers attend to; it cannot be rerun")
        self.look = self._look()
        self.attentions: list[Any] = [
            self._part(layer, ATTENTION) if number in self.look.n_heads else None
            for number, layer in enumerate(self.layers)
        ]
        self.projections = [attention and self._part(attention, PROJECTION) for attention in self.attentions]

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_heads(self) -> int:
        return next(iter(self.look.n_heads.values()), self.config.num_attention_heads)

    @property
    def d_model(self) -> int:
        return self.config.hidden_size

    @property
    def attending(self) -> list[int]:
        """The layers with softmax attention."""
        return [number for number, attention in enumerate(self.attentions) if attention is not None]

    @property
    def d_values(self) -> list[int]:
        """The width of a head's output in each layer; 0 for a layer without softmax attention."""
        return [0 if p is None else _width_in(p) // self.n_heads for p in self.projections]

    def output_weights(self, layer: int) -> torch.Tensor | None:
        """Each head's part of a layer's output projection, float32 [head, d_value, d_model].

        None if the heads' outputs are gated or normed first, so that the projection does not apply to what attention
        returns.
        """
        if not self.look.is_direct[layer]:
            return None
        projection = self.projections[layer]
        weight = projection.weight if type(projection).__name__ == "Conv1D" else projection.weight.T
        return weight.float().unflatten(0, (self.n_heads, self.d_values[layer]))

    @property
    def own_attention(self) -> str:
        """The fastest of transformers' attention functions that is the model's own; sdpa ignores softcaps."""
        has_softcap = getattr(self.config, "attn_logit_softcapping", None)
        return "sdpa" if self.model._supports_sdpa and not has_softcap else "eager"

    @property
    def has_sinks(self) -> bool:
        """Whether the model has attention sinks, so that part of each row of attention falls on no token."""
        return any(getattr(attention, "sinks", None) is not None for attention in self.attentions)

    @property
    def apart(self) -> str:
        """Why traces cannot share a forward pass; empty if they can."""
        if self.is_recurrent:
            return "its recurrent layers carry a state from token to token"
        if getattr(self.config, "attn_temperature_tuning", False):
            return "it scales queries by their place in the forward pass"
        return ""

    @property
    def bytes_in_a_layer(self) -> int:
        """The approximate memory of one token while a layer computes: residual streams, heads and the MLP, in bytes."""
        experts = _largest(self.config, "num_experts_per_tok") or 1
        inner = _largest(self.config, "moe_intermediate_size") or _largest(self.config, "intermediate_size")
        widths = 6 * self.d_model + 4 * self.n_heads * max(self.d_values) + 3 * experts * (inner or 4 * self.d_model)
        return self.model.dtype.itemsize * widths

    @property
    def n_kept(self) -> int:
        """The approximate number of values in a token's keys and values, over all layers."""
        n_key_heads = _largest(self.config, "num_key_value_heads") or self.n_heads
        return sum(2 * n_key_heads * width for width in self.d_values)

    def run(self, token_ids: torch.Tensor, forward_pass: Pass | None = None, **options: Any) -> torch.Tensor:
        """The normed last hidden states [row, token, d_model] of tokens [row, token].

        options: passed to the model's body.
        """
        with attention_kernel(self.model, SEAM), watched_by(forward_pass) if forward_pass else contextlib.nullcontext():
            return self.body(input_ids=token_ids, use_cache=False, **options).last_hidden_state

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """The model's own logits [row, vocabulary] of normed last hidden states [row, d_model]."""
        placeholders = torch.zeros(1, len(normed), dtype=torch.long, device=self.model.device)
        output = _Hidden(normed[None].to(_device_of(self.head, normed)))
        with contextlib.ExitStack() as replaced:  # some families call the body, others what contains it
            for module in {self.body, self.model.base_model} - {self.model}:
                replaced.enter_context(_forward_of(module, lambda *_, **__: output))
            return self.model(input_ids=placeholders).logits[0]

    def final_logits(self, leaving: torch.Tensor, token_ids: Sequence[int] | None = None) -> torch.Tensor:
        """Logits of the last layer's output, [..., d_model] -> [..., vocabulary], in float32 throughout.

        token_ids: the vocabulary's tokens to compute; by default all.
        """
        floats = {name: tensor.float() for name, tensor in self.norm.named_parameters()}
        normed = torch.func.functional_call(
            self.norm, floats, (leaving.float().to(_device_of(self.norm, leaving)),)
        ).float()

        def unembed(hidden: torch.Tensor) -> torch.Tensor:
            weight, bias = self.head.weight, getattr(self.head, "bias", None)
            if token_ids is not None:
                weight, bias = weight[list(token_ids)], None if bias is None else bias[list(token_ids)]
            logits = torch.cat([hidden @ rows.float().T for rows in weight.split(HEAD_ROWS)], -1)
            return logits if bias is None else logits + bias.float()

        with _forward_of(self.head, unembed):
            logits = self.logits(normed.reshape(-1, normed.shape[-1]))
        return logits.reshape(*leaving.shape[:-1], -1)

    def _find_layers(self) -> list[Any]:
        found = [
            child
            for child in self.body.children()
            if isinstance(child, torch.nn.ModuleList) and len(child) == self.config.num_hidden_layers
        ]
        if not found:
            n_layers = self.config.num_hidden_layers
            raise ModelError(f"{self.name}: has no list of {n_layers} layers, the number that its configuration gives")
        return list(found[0])

    def _look(self) -> "_Look":
        """What a forward pass of a few tokens shows; computed once for each model.

        Raises ModelError if text skips layers, a layer attends more than once, or layers have different numbers of
        heads.
        """
        if self.model not in _LOOKS:
            look = _Look()
            with torch.no_grad(), contextlib.ExitStack() as hooks:
                for number, layer in enumerate(self.layers):
                    hooks.callback(layer.register_forward_pre_hook(look.enter).remove)
                    projection = _named(_named(layer, ATTENTION), PROJECTION)
                    if projection is not None:
                        hooks.callback(projection.register_forward_pre_hook(look.project(number)).remove)
                self.run(torch.tensor([LOOK_IDS], device=self.model.device), look)
            _LOOKS[self.model] = look
        look = _LOOKS[self.model]
        if look.n_entered < self.n_layers:
            raise ModelError(
                f"{self.name}: text alone passes through {look.n_entered} of its {self.n_layers} layers; only its "
                "answers can be studied"
            )
        if look.repeated:
            raise ModelError(f"{self.name}: its layers attend more than once; only its answers can be studied")
        if len(set(look.n_heads.values())) > 1:
            counts = ", ".join(map(str, sorted(set(look.n_heads.values()))))
            raise ModelError(
                f"{self.name}: its layers have different numbers of heads ({counts}); only its answers can be studied"
            )
        return look

    def _part(self, module: Any, names: Sequence[str]) -> Any:
        found = _named(module, names)
        if found is None:
            raise ModelError(
                f"{self.name}: {type(module).__name__} has none of {', '.join(names)}; it cannot be studied"
            )
        return found


@dataclass
class _Look:
    """A forward pass that notes what each layer does; n_heads, is_direct: only of layers with softmax attention.

    is_direct: whether what attention returns enters the output projection as it is. n_streams: how many residual
    streams enter a layer. n_entered: how often a layer was entered. repeated: layers that attend more than once.
    """

    n_heads: dict[int, int] = field(default_factory=dict)
    is_direct: dict[int, bool] = field(default_factory=dict)
    n_streams: int = 1
    n_entered: int = 0
    repeated: set[int] = field(default_factory=set)
    returned: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def attend(self, rule: Rule, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if rule.layer in self.n_heads:
            self.repeated.add(rule.layer)
        self.n_heads[rule.layer], self.is_direct[rule.layer] = query.shape[1], False
        self.returned = plain_attention(rule, query, key, value)
        return self.returned

    def enter(self, _layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """A layer's pre-hook."""
        self.n_entered += 1
        if inputs and inputs[0].ndim > 3:
            self.n_streams = inputs[0].numel() // (inputs[0].shape[-1] * len(LOOK_IDS))

    def project(self, number: int) -> Any:
        """The pre-hook of a layer's output projection."""

        def hook(_projection: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if number in self.n_heads:
                self.is_direct[number] = torch.equal(inputs[0].flatten(), self.returned.flatten())

        return hook


_LOOKS: WeakKeyDictionary[Any, _Look] = WeakKeyDictionary()


def _largest(config: Any, name: str) -> int:
    """A setting's value, or the largest if it has one per layer; 0 if it is missing."""
    value = getattr(config, name, None) or 0
    return max(value) if isinstance(value, (list, tuple)) else value


def _named(module: Any, names: Sequence[str]) -> Any:
    """The first child with one of these names, or None."""
    children = dict(module.named_children()) if module is not None else {}
    return next((children[name] for name in names if name in children), None)


def _only(module: Any, names: Sequence[str]) -> Any:
    """The child with one of these names; None if there is none, or several."""
    found = [child for name, child in module.named_children() if name in names]
    return found[0] if len(found) == 1 else None


def _is_recurrent(layer: Any) -> bool:
    """Whether a layer carries a token's state to later tokens outside of attention."""
    return any(
        isinstance(part, torch.nn.Conv1d) or RECURRENT.search(type(part).__name__) is not None
        for part in layer.modules()
    )


def _width_in(projection: Any) -> int:
    """The width of a projection's input; gpt2's weights are transposed."""
    return projection.weight.shape[0 if type(projection).__name__ == "Conv1D" else 1]


def _device_of(module: Any, tensor: torch.Tensor) -> torch.device:
    """The device of a module, or that of the tensor if the module has no parameters."""
    return next(module.parameters(), tensor).device


class _Hidden(tuple):
    """The output of a model's body with only the last hidden states; every other field is None."""

    def __new__(cls, hidden: torch.Tensor) -> "_Hidden":
        return super().__new__(cls, (hidden,))

    @property
    def last_hidden_state(self) -> torch.Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None


@contextlib.contextmanager
def _forward_of(module: Any, forward: Any) -> Iterator[None]:
    """Replace the module's forward function until the block ends."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


# ---- what vLLM computes otherwise


def follow_vllm(decoder: Decoder) -> None:
    """Make a loaded model compute what vLLM 0.32 does, where transformers would not; a second call changes nothing.

    Rotary factors are the same for every trace; transformers would choose some by the longest text in a pass. For
    longrope they are those of long texts, if the model has positions for them; for dynamic scaling those of texts up to
    max_position_embeddings. Windows of Cohere 2 hold one token more. Ministral 3's queries are scaled by their position
    only if vLLM reads Mistral's own files. Raises ModelError where vLLM differs otherwise.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    unlike = unlike_vllm(decoder.config.to_dict())
    if unlike:
        raise ModelError(f"{decoder.name}: {unlike}; only its answers can be studied")
    if getattr(decoder.model, "follows_vllm", False):
        return
    decoder.model.follows_vllm = True
    for module in decoder.body.modules():
        kind = getattr(module, "rope_type", None)
        switch = longrope_switch(decoder.config.to_dict()) if kind == "longrope" else None
        if switch is not None:
            factors, module.attention_scaling = ROPE_INIT_FUNCTIONS["longrope"](
                decoder.config, module.inv_freq.device, seq_len=switch + 1
            )
            module.register_buffer("inv_freq", factors, persistent=False)
        if kind == "longrope" or (isinstance(kind, str) and "dynamic" in kind):
            module.rope_type = "fixed"
    rotary = getattr(decoder.config, "rope_parameters", None) or {}
    if rotary.get("llama_4_scaling_beta") and not has_mistrals_files(decoder.model.config.name_or_path):
        decoder.config.rope_parameters = {**rotary, "llama_4_scaling_beta": 0.0}
    if decoder.config.model_type.startswith("cohere2"):
        for part in (decoder.config, *decoder.attentions):
            if getattr(part, "sliding_window", None) is not None:
                part.sliding_window += 1

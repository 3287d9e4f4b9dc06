"""Loading a model into transformers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from r2a.config_file import LOADED, TRIED, read_config, refused_stages
from r2a.devices import DeviceError, in_place_of, memory_in_words, refuse_unseen, usable_dtype
from r2a.modeling import types_in_transformers
from r2a.models.weights import ModelError
from r2a.progress import logger


def load_model(manifest: Mapping[str, Any], attention: str) -> Any:
    """The model in evaluation mode, its layers spread over all visible GPUs; `attention` as transformers names it.

    It computes what vLLM does in generation (follow_vllm). Raises ModelError if its configuration shows that nothing
    can be rerun, if its weights do not fit into the GPUs, or if a part of the model is not found (Decoder); DeviceError
    if a leased GPU cannot be used, or if other processes hold its memory.
    """
    import torch
    import transformers

    from r2a.memory import is_out_of_memory
    from r2a.models.decoder import Decoder, follow_vllm

    (name, origin), *_ = manifest["models"].items()
    config = read_config(manifest["folder"]) or {}
    reason, refused = refused_stages(config)
    if set(TRIED) <= set(refused):
        raise ModelError(f"{name}: {reason}")
    logger.info(f"loads {name}")
    text, image_text = ({*types_in_transformers(mapping)} for mapping in LOADED)
    needs_images = config.get("model_type") in image_text - text
    kind: Any = transformers.AutoModelForImageTextToText if needs_images else transformers.AutoModelForCausalLM
    # device_count alone is what the driver says, even one that is too old
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    refuse_unseen(n_gpus)
    dtype = usable_dtype(origin["dtype"], min(map(torch.cuda.get_device_capability, range(n_gpus)), default=None))
    try:
        model = kind.from_pretrained(
            manifest["folder"],
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            device_map="balanced" if n_gpus > 1 else None,
        ).eval()
        if n_gpus <= 1:
            model.to("cuda" if n_gpus else "cpu")
    except Exception as error:
        if not (n_gpus and is_out_of_memory(error)):
            raise
        raise DeviceError(
            f"{name}: its weights do not fit into what is free ({memory_in_words()}); raise models.{name}.gpus"
        ) from error
    if n_gpus > 1 and {parameter.device.type for parameter in model.parameters()} != {"cuda"}:
        raise ModelError(f"{name}: its weights do not fit into {n_gpus} GPUs; raise models.{name}.gpus")
    decoder = Decoder(model)
    follow_vllm(decoder)
    decoder.norm.register_forward_hook(partial(_refuse_non_finite, name, dtype))
    return model


def stack_layers(layers: Sequence[Any]) -> Any:
    """torch.stack of tensors of several layers, which may be on different GPUs, on the first one's."""
    import torch

    return torch.stack([layer.to(layers[0].device) for layer in layers])


def off_device(tensors: Sequence[Any]) -> list[Any]:
    """Tensors on the CPU. All are copied from a GPU in parallel, with a single wait."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    wait_for_copies()
    return copies


def wait_for_copies() -> None:
    """Return when non_blocking copies from GPUs have finished."""
    import torch

    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        torch.cuda.synchronize(device)


def _refuse_non_finite(name: str, dtype: str, _module: Any, _inputs: Any, output: Any) -> None:
    """Raise ModelError if the last hidden states of a forward pass are not all finite."""
    if not output.isfinite().all():
        larger = "float32" if "bfloat16" in in_place_of else "bfloat16 or float32"
        remedy = f"set models.{name}.dtype to {larger}" if dtype == "float16" else "check its weights"
        raise ModelError(
            f"{name}: computes nan or infinity in {dtype}, in the trace after those that the last line counts; {remedy}"
        )

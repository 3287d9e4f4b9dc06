"""What transformers' sources say of a type of model, read as text because importing them takes seconds.

Read at every parse of the Snakefile: no heavy import here.
"""

import importlib.util
import re
from functools import cache
from pathlib import Path

# what families call the norm after their last layer
NORM = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "embedding_norm")


@cache
def types_in_transformers(mapping: str) -> dict[str, str]:
    """One of transformers' mappings from model types to names; empty if it is not installed, or has no such mapping."""
    for path in (_models() / "auto" / "auto_mappings.py", _models() / "auto" / "modeling_auto.py"):
        source = path.read_text() if path.is_file() else ""
        found = re.search(rf"^{mapping} = OrderedDict\($(.*?)^\)$", source, re.DOTALL | re.MULTILINE)
        if found:
            return dict(re.findall(r'^ +\("([^"]+)",\s+\(?"([^"]+)"', found[1], re.MULTILINE))
    return {}


@cache
def unlike_a_decoder(model_type: str) -> str:
    """Why r2a cannot read the modules of a type of model; empty if nothing shows that, or if no source is found."""
    module = types_in_transformers("SPECIAL_MODEL_TYPE_TO_MODULE_NAME").get(model_type, model_type.replace("-", "_"))
    path = _models() / module / f"modeling_{module}.py"
    if not path.is_file():
        return ""
    source = path.read_text()
    classes = re.split(r"^class ", source, flags=re.MULTILINE)
    if "ALL_ATTENTION_FUNCTIONS" not in source:
        return f"transformers' {model_type} calls no attention function that could be watched"
    if not any("nn.ModuleList(" in each and re.search(rf"self\.({'|'.join(NORM)}) = ", each) for each in classes):
        return f"transformers' {model_type} has no list of layers with a norm after it"
    if any(re.search(r"def __init__\([^)]*\bshared_\w+:", each) for each in classes):
        return "its layers share one attention module"
    return ""


@cache
def _models() -> Path:
    package = importlib.util.find_spec("transformers")
    return Path(str(package and package.origin)).parent / "models"

"""How the summary says numbers."""

import math
from pathlib import Path

from r2a.statistics import TOO_FEW
from r2a.store import read_provenance, why_empty


def said_empty(path: Path) -> list[str]:
    """A bullet that says why a store or table is empty; none where it is not."""
    why = why_empty(path)
    if why is None:
        return []
    settings = read_provenance(path)["parameters"]
    return [f"- **{settings['model_label']}**, {settings['dataset_label']}: nothing to measure: {why}."]


def said_p(p: float) -> str:
    """A p-value, or that there were too few pairs for one."""
    return TOO_FEW if math.isnan(p) else f"p = {p:.2g}"

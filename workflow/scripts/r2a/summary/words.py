"""How the summary says numbers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2a.statistics import TOO_FEW
from r2a.store import labelled, why_empty


def said_empty(path: Path, labels: Mapping[str, Any] | None = None) -> list[str]:
    """A bullet that says why a store or table is empty; none where it is not. labels: of a store's names, as labelled
    takes them.
    """
    why = why_empty(path)
    if why is None:
        return []
    settings = labelled(path, labels or {})
    return [f"- **{settings['model_label']}**, {settings['dataset_label']}: nothing to measure: {why}."]


def said_p(p: float) -> str:
    """A p-value, or that there were too few pairs for one."""
    return TOO_FEW if math.isnan(p) else f"p = {p:.2g}"

"""How the summary says numbers."""

import math

from r2a.statistics import TOO_FEW


def said_p(p: float) -> str:
    """A p-value, or that there were too few pairs for one."""
    return TOO_FEW if math.isnan(p) else f"p = {p:.2g}"

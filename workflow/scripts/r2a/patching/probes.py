"""The lines that end the reasoning before patching, each one a registered function (METHOD section 4)."""

from r2a.extensions import probe


@probe(label="Final answer is X.")
def plain() -> tuple[str, str, str]:
    """'Final answer is X.' (v0 of the paper's code)."""
    return "Final answer is", " {answer}", ".\n"


@probe(label="Final answer is \\boxed{X}.")
def boxed() -> tuple[str, str, str]:
    """The same with X in a box (v1)."""
    return "Final answer is \\boxed{{", "{answer}", "}}.\n"


@probe(label="the reasoning as written")
def none() -> tuple[str, str, str]:
    """No line: patched at the reasoning's own mentions of its answer, where their sentence ends, and at its end."""
    return "", "", ""

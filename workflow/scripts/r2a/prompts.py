"""Prompts, as METHOD section 1 defines them."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
FINISHED_STUB = "Okay, I think I have finished thinking."


def raw_prompt(problem: str, instruction: str, condition: str) -> str:
    """The prompt's text without BOS and chat template (paper, appendix: 'finished' prefill)."""
    if condition == "with_reasoning":
        return f"{problem}{instruction} {THINK_OPEN}\n"
    return f"{problem}{instruction} {THINK_OPEN}\n{FINISHED_STUB}\n{THINK_CLOSE}"

"""Which layers are patched, and which ranges of a reasoning as a whole.

Read at every start of Snakemake, for the estimate: no heavy import here.
"""


def step_of(layer_step: int | None, n_layers: int) -> int:
    """The distance between patched layers: layer_step, or by default an eighth of n_layers, at least 1."""
    return layer_step or max(1, n_layers // 8)


def doubling_ends(n_tokens: int, range_tokens: int) -> list[int]:
    """Distances from the probe, in tokens, at which ranges of the reasoning end: 0, then range_tokens times 1, 2, 4 ...

    The last entry is where the farthest range begins; [0] if n_tokens of reasoning hold not even one range of
    range_tokens. Ranges thus grow with their distance from the probe, and restarts from all of them together are at
    most three times as long as the reasoning.
    """
    if n_tokens < range_tokens:
        return [0]
    ends = [0]
    while max(2 * ends[-1], range_tokens) <= n_tokens - range_tokens:
        ends.append(max(2 * ends[-1], range_tokens))
    return [*ends, n_tokens]

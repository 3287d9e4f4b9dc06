"""Where the ranges of a reasoning lie that are patched as a whole.

Read at every start of Snakemake, for the estimate: no heavy import here.
"""


def doubling_ends(n_tokens: int, range_tokens: int) -> list[int]:
    """Tokens before the probe at which ranges of n_tokens of reasoning end: 0, range_tokens, 2, 4, 8 times as many and
    so on; and last, where the farthest range begins. [0] where there is not even one range of range_tokens.

    So ranges are the longer the farther they are from the probe, and restarts from all of them together are no more
    than three times as long as the reasoning.
    """
    if n_tokens < range_tokens:
        return [0]
    ends = [0]
    while max(2 * ends[-1], range_tokens) <= n_tokens - range_tokens:
        ends.append(max(2 * ends[-1], range_tokens))
    return [*ends, n_tokens]

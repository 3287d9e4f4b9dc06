"""Self-reflective sentences removed from a reasoning, and as many similar other ones (METHOD section 2)."""

from itertools import chain, pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from r2a.extensions import perturbation_kind
from r2a.perturbation.reasoning import Given, NotPerturbed, Perturbed, Reasoning
from r2a.text.cues import is_cue_token
from r2a.text.sentences import sentence_bounds


@perturbation_kind(label="self-reflective sentences taken out", compared_with=("without_others",))
def without_reflection(given: Given) -> Perturbed:
    """Without the sentences that contain a word of attention.cue_words; the last sentence always stays."""
    reflective, _ = _sentences(given)
    return _without(given.trace.reasoning, reflective)


@perturbation_kind(label="as many other sentences taken out (control)")
def without_others(given: Given) -> Perturbed:
    """Without as many other sentences, each similar to a self-reflective one in length and place, as a control."""
    reflective, others = _sentences(given)
    n_tokens = len(given.trace.reasoning.token_ids)
    return _without(given.trace.reasoning, matched(reflective, others, n_tokens))


def matched(spans: list[tuple[int, int]], others: list[tuple[int, int]], n_tokens: int) -> list[tuple[int, int]]:
    """For each of `spans`, a different one of the other sentences, similar in length and place; in order.

    A sentence is its first and past-the-last token. The assignment minimises the sum over pairs of the log ratio of
    lengths and of the distance between middles as a share of n_tokens. Raises NotPerturbed if there are fewer others.
    """
    if len(others) < len(spans):
        raise NotPerturbed("fewer other sentences than self-reflective ones")
    (starts, ends), (other_starts, other_ends) = (np.array(of, float).T for of in (spans, others))
    lengths = np.log(ends - starts)[:, None] - np.log(other_ends - other_starts)
    places = ((starts + ends)[:, None] - (other_starts + other_ends)) / (2 * n_tokens)
    _, chosen = linear_sum_assignment(np.abs(lengths) + np.abs(places))
    return [others[k] for k in sorted(chosen)]


def _sentences(given: Given) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The self-reflective sentences and the others, without the last sentence, which concludes."""
    pieces = given.trace.reasoning.pieces
    is_cue = is_cue_token(pieces, given.settings["cue_words"])
    spans = list(pairwise(sentence_bounds(pieces)))[:-1]
    reflective = [(first, stop) for first, stop in spans if any(is_cue[first:stop])]
    if not reflective:
        raise NotPerturbed("no self-reflective sentence")
    return reflective, [span for span in spans if span not in reflective]


def _without(reasoning: Reasoning, spans: list[tuple[int, int]]) -> Perturbed:
    out = set(chain.from_iterable(range(first, stop) for first, stop in spans))
    ids = [token for k, token in enumerate(reasoning.token_ids) if k not in out]
    return Perturbed(ids, kept_share=len(ids) / len(reasoning.token_ids))

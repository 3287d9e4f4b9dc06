"""The sentence that the Reasoning-Focus Heads read most, taken out or changed, beside one that they read little.

Are perturbed tokens that these heads attend to the ones that change the answer (METHOD section 5)? How much a sentence
is read is the answer's attention per token of it, mean over the heads. What it is compared with: most_and_little_read.
"""

from r2a.extensions import perturbation_kind
from r2a.perturbation.reasoning import Given, NotPerturbed, Perturbed, corrupt, find_results
from r2a.text.sentences import most_and_little_read

Span = tuple[int, int]  # first and past-the-last token of the reasoning


@perturbation_kind(label="most read sentence taken out", reads_heads=True, compared_with=("without_little_read",))
def without_most_read(given: Given) -> Perturbed:
    """Without the sentence that the Reasoning-Focus Heads read most from the answer (in the traces of `attention`)."""
    most, _ = read_most_and_little(given)
    return _without(given, most)


@perturbation_kind(label="little read sentence taken out (control)", reads_heads=True)
def without_little_read(given: Given) -> Perturbed:
    """Without a sentence that they read little, similar to the former in length and place, as a control."""
    _, little = read_most_and_little(given)
    return _without(given, little)


@perturbation_kind(label="most read result replaced", reads_heads=True, compared_with=("little_read_result",))
def most_read_result(given: Given) -> Perturbed:
    """With the last result in the sentence that they read most replaced."""
    most, _ = read_most_and_little(given)
    return _result_in(given, most)


@perturbation_kind(label="little read result replaced (control)", reads_heads=True)
def little_read_result(given: Given) -> Perturbed:
    """With the last result in the sentence that they read little replaced, as a control."""
    _, little = read_most_and_little(given)
    return _result_in(given, little)


def read_most_and_little(given: Given) -> tuple[Span, Span]:
    """The sentence that is read most, and the most similar one among the half that is read least.

    Raises NotPerturbed if attention was not measured on the trace, or if it has fewer than three sentences.
    """
    if given.read is None:
        raise NotPerturbed("attention was not measured on this trace")
    if len(given.read) < 3:
        raise NotPerturbed("fewer than three sentences")
    spans, read = zip(*given.read, strict=True)
    most, little = most_and_little_read(spans, read)
    return spans[most], spans[little]


def _without(given: Given, span: Span) -> Perturbed:
    ids = given.trace.reasoning.token_ids
    kept = [*ids[: span[0]], *ids[span[1] :]]
    return Perturbed(kept, kept_share=len(kept) / len(ids))


def _result_in(given: Given, span: Span) -> Perturbed:
    trace = given.trace
    results = find_results(trace.reasoning.pieces, trace.values)
    inside = [number for number, (first, stop, _) in enumerate(results) if span[0] <= first and stop <= span[1]]
    if not inside:
        raise NotPerturbed("no result in the sentence")
    # counted from the end, so that a first result is one like any other
    ids, was, becomes = corrupt(trace.reasoning, trace.values, inside[-1] - len(results), given.tokenizer, given.rng)
    return Perturbed(ids, was=was, becomes=becomes)

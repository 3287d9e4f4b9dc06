"""The kinds of perturbation that ship, each a registered function (METHOD section 2)."""

from r2a.draws import drawn_one
from r2a.extensions import perturbation_kind
from r2a.grading import same_answer
from r2a.perturbation.reasoning import Given, NotPerturbed, Perturbed, corrupt, cut_at, fill


@perturbation_kind(label="{level} % of it", levels="cuts")
def cut(given: Given) -> Perturbed:
    """Cut off, at each of `cuts`."""
    assert given.level is not None
    reasoning = given.trace.reasoning
    ids, n_kept = cut_at(reasoning, given.level)
    return Perturbed(ids, kept_share=n_kept / len(reasoning.token_ids))


@perturbation_kind(label="filler of equal length")
def filler(given: Given) -> Perturbed:
    """Filler of equal length in its place."""
    filler_ids = given.tokenizer.encode(given.settings["filler"], add_special_tokens=False)
    return Perturbed(fill(given.trace.reasoning, filler_ids))


@perturbation_kind(label="another problem's reasoning", version=3)
def other_reasoning(given: Given) -> Perturbed:
    """The reasoning of a problem with another answer in its place."""
    trace = given.trace
    fitting = [  # an answer that the problem could have: a pair borrows from its other question alone
        other
        for other in given.others
        if other.values == trace.values
        and same_answer(other.reference, trace.reference) is False
        and same_answer(other.answer, trace.answer) is False
        and other.reasoning.token_ids
    ]
    if not fitting:
        raise NotPerturbed("no valid trace with another answer of the same candidates")
    source = drawn_one([f"{other.uid} {other.sample}" for other in fitting], given.rng.getrandbits(64))
    other = next(other for other in fitting if f"{other.uid} {other.sample}" == source)
    return Perturbed(other.reasoning.token_ids, source_uid=other.uid, implied_answer=other.answer)


@perturbation_kind(label="first result replaced (control)")
def first_result(given: Given) -> Perturbed:
    """Its first result replaced by another value, as a control."""
    ids, was, becomes = corrupt(given.trace.reasoning, given.trace.values, 0, given.tokenizer, given.rng)
    return Perturbed(ids, was=was, becomes=becomes)  # says nothing certain about the answer


@perturbation_kind(label="last result replaced")
def last_result(given: Given) -> Perturbed:
    """Its last result replaced by another value."""
    trace = given.trace
    ids, was, becomes = corrupt(trace.reasoning, trace.values, -1, given.tokenizer, given.rng)
    is_implied = bool(same_answer(was, trace.answer))  # one that was not the answer says nothing certain about it
    return Perturbed(ids, was=was, becomes=becomes, implied_answer=becomes if is_implied else None)

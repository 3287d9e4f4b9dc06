"""The shipped kinds of perturbation, each a registered function (METHOD section 2)."""

import random

from r2a.draws import drawn_one
from r2a.extensions import perturbation_kind
from r2a.grading import same_answer
from r2a.perturbation.reasoning import Given, NotPerturbed, Perturbed, corrupt, cut_at, fill, plant_mistake


@perturbation_kind(label="{level} % of it", levels="cuts")
def cut(given: Given) -> Perturbed:
    """Cut off at each of `cuts`."""
    assert given.level is not None
    reasoning = given.trace.reasoning
    ids, n_kept = cut_at(reasoning, given.level)
    return Perturbed(ids, kept_share=n_kept / len(reasoning.token_ids))


@perturbation_kind(label="filler of equal length")
def filler(given: Given) -> Perturbed:
    """Replaced by filler of equal length."""
    filler_ids = given.tokenizer.encode(given.settings["filler"], add_special_tokens=False)
    return Perturbed(fill(given.trace.reasoning, filler_ids))


@perturbation_kind(label="another problem's reasoning", version=3)
def other_reasoning(given: Given) -> Perturbed:
    """Replaced by the reasoning of a problem with another answer."""
    trace = given.trace
    fitting = [  # an answer that the problem could have; a pair can only borrow from its other question
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
    """With its first result replaced by another value, as a control."""
    ids, was, becomes = corrupt(given.trace.reasoning, given.trace.values, 0, given.tokenizer, given.rng)
    return Perturbed(ids, was=was, becomes=becomes)  # implies nothing certain about the answer


@perturbation_kind(label="last result replaced", compared_with=("first_result",))
def last_result(given: Given) -> Perturbed:
    """With its last result replaced by another value."""
    trace = given.trace
    ids, was, becomes = corrupt(trace.reasoning, trace.values, -1, given.tokenizer, given.rng)
    is_implied = bool(same_answer(was, trace.answer))  # a result other than the answer implies nothing certain about it
    return Perturbed(ids, was=was, becomes=becomes, implied_answer=becomes if is_implied else None)


@perturbation_kind(label="a mistake planted, the rest kept")
def mistake(given: Given) -> Perturbed:
    """With a random result other than the last one replaced by another value; the rest is kept."""
    ids, _, was, becomes = _planted(given)
    return Perturbed(ids, was=was, becomes=becomes)


@perturbation_kind(label="written anew from there, no mistake (control)", leaves_open=True)
def rest_regenerated(given: Given) -> Perturbed:
    """Kept up to the end of the sentence that `mistake` changes; the model writes the rest anew, as a control."""
    _, n_rest, _, _ = _planted(given)
    whole = given.trace.reasoning.token_ids
    return Perturbed(whole[: len(whole) - n_rest], kept_share=1 - n_rest / len(whole))


@perturbation_kind(
    label="a mistake planted, the rest written anew", leaves_open=True, compared_with=("rest_regenerated", "mistake")
)
def mistake_regenerated(given: Given) -> Perturbed:
    """As `mistake` up to the end of the changed sentence; the model writes the rest anew."""
    ids, n_rest, was, becomes = _planted(given)
    kept_share = 1 - n_rest / len(given.trace.reasoning.token_ids)
    return Perturbed(ids[: len(ids) - n_rest], kept_share=kept_share, was=was, becomes=becomes)


def _planted(given: Given) -> tuple[list[int], int, str, str]:
    """The mistake that all three kinds share: its random draw depends on the trace, not on the kind."""
    trace = given.trace
    rng = random.Random(f"{given.settings['seed']} {trace.uid} {trace.sample} mistake")
    return plant_mistake(trace.reasoning, trace.values, given.tokenizer, rng)

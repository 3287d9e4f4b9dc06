"""Perturbed reasoning: the texts that replace it, the answers that follow, and how they are counted."""

import math
import random
import re
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import r2a.generation
from planted import GIVEN, REASONING_WORDS, SAID, THINK_CLOSE, PlantedTrace, planted_model, planted_trace
from r2a.evaluation.perturbation import comparison_table, early_answering_table, funnel_table, perturbation_table
from r2a.extensions import PERTURBATION_KINDS
from r2a.generation.perturbed import regenerate_answers
from r2a.generation.requests import Completion
from r2a.grading.perturbation import grade_perturbation
from r2a.models import load_tokenizer, marks_of, resolve_model
from r2a.perturbation import perturb_reasoning, result_values
from r2a.perturbation.paraphrase import RULES, reword
from r2a.perturbation.reasoning import (
    Given,
    NotPerturbed,
    Reasoning,
    Trace,
    corrupt,
    cut_at,
    fill,
    find_results,
    plant_mistake,
)
from r2a.perturbation.reflection import matched
from r2a.store import NOTHING, provenance, write_empty, write_parquet
from r2a.traces import segment_bounds
from servers import scripted_server

MODEL = Path(__file__).parents[2] / "resources/models/tiny-qwen"
SETTINGS = {
    "seed": 1, "decoding": "greedy", "kinds": ["cut", "filler", "other_reasoning", "first_result", "last_result"],
    "cuts": [0, 50, 100], "filler": " ...", "n_problems": None,
    "cue_words": ["Wait", "check"],
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL)


def reasoning_of(tokenizer: Any, text: str) -> Reasoning:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return Reasoning([0], True, ids, [tokenizer.decode([token]) for token in ids])


# ---- what replaces the reasoning

TEXT = "Start north\n1 around south\n2 left east\nFinal answer is east.\n"


@pytest.mark.parametrize(
    ("percent", "kept"),
    [
        (0, ""),
        (20, "Start north\n"),
        (50, "Start north\n1 around south\n"),
        (70, "Start north\n1 around south\n2 left east\n"),
        (100, TEXT),
    ],
)
def test_a_cut_is_made_at_the_nearest_lines_end(tokenizer, percent, kept):
    ids, n_kept = cut_at(reasoning_of(tokenizer, TEXT), percent)
    assert tokenizer.decode(ids) == kept
    assert n_kept == len(ids)


def test_a_line_that_is_broken_off_is_ended_as_the_reasoning_was(tokenizer):
    reasoning = reasoning_of(tokenizer, "1 around south 2 left east 3 right north\n")
    ids, n_kept = cut_at(reasoning, 50)
    assert ids == [*reasoning.token_ids[: len(reasoning.token_ids) // 2], reasoning.token_ids[-1]]
    assert n_kept == len(ids) - 1


def test_nothing_is_appended_where_the_reasoning_ended_no_line(tokenizer):
    reasoning = reasoning_of(tokenizer, "1 around south 2 left east")
    ids, n_kept = cut_at(reasoning, 50)
    assert ids == reasoning.token_ids[:n_kept]


def test_filler_is_as_long_as_the_reasoning_and_ends_its_last_line(tokenizer):
    reasoning = reasoning_of(tokenizer, TEXT)
    ids = fill(reasoning, tokenizer.encode(" ...", add_special_tokens=False))
    assert len(ids) == len(reasoning.token_ids)
    text = tokenizer.decode(ids)
    assert set(text) == set(" .\n")
    assert text.index("\n") == len(text) - 1


def test_results_are_whole_words_of_the_values_in_order():
    pieces = ["east", " north", "east", " east", ".\n", "East", " south"]
    assert find_results(pieces, ["east", "south"]) == [(0, 1, "east"), (3, 4, "east"), (6, 7, "south")]


def test_results_without_values_are_integers_by_themselves():
    pieces = ["x", "2", " =", " 3", ".", "1", "4", ",", " so", " ", "1", "2", "5", " and", " 7", "."]
    assert [value for _, _, value in find_results(pieces, [])] == ["125", "7"]
    assert find_results(pieces, [])[0][:2] == (10, 13)


def test_the_longer_of_two_values_is_found():
    assert find_results(["ice", " cream"], ["ice", "ice cream"]) == [(0, 2, "ice cream")]


@pytest.mark.parametrize(("which", "line"), [(0, 0), (-1, 3)])
def test_one_result_is_corrupted_and_every_other_token_stays(tokenizer, which, line):
    reasoning = reasoning_of(tokenizer, TEXT)
    ids, was, becomes = corrupt(reasoning, ["north", "east", "south", "west"], which, tokenizer, random.Random(3))
    lines, before = tokenizer.decode(ids).split("\n"), TEXT.split("\n")
    assert lines[line] == before[line].replace(was, becomes)
    assert becomes != was
    assert [new for k, new in enumerate(lines) if k != line] == [old for k, old in enumerate(before) if k != line]


def test_a_corrupted_integer_has_as_many_digits_and_differs(tokenizer):
    reasoning = reasoning_of(tokenizer, "horse size 8\ngoat size 5\n")
    found = {corrupt(reasoning, [], -1, tokenizer, random.Random(seed))[1:] for seed in range(200)}
    assert found == {("5", str(digit)) for digit in range(10) if digit != 5}


@pytest.mark.parametrize(
    ("text", "values", "which", "reason"),
    [
        ("no such thing\n", ["goat", "horse"], -1, "no result"),
        ("goat is faster\n", ["goat", "horse"], 0, "first result is the last"),
        ("goat is faster\n", ["goat"], -1, "no other value"),
    ],
)
def test_what_cannot_be_corrupted_says_why(tokenizer, text, values, which, reason):
    with pytest.raises(NotPerturbed, match=reason):
        corrupt(reasoning_of(tokenizer, text), values, which, tokenizer, random.Random(0))


def test_values_are_the_pairs_candidates_or_the_areas_words_or_none():
    pairs = pd.DataFrame({"answer": ["goat", "fox", "ant", "bee"], "area": "size", "pair": ["p", "p", "q", "q"]})
    assert result_values(pairs)[2] == ["ant", "bee"]
    problems = pd.DataFrame(
        {"answer": ["red", "east", "west", "3/4"], "area": ["colours", "compass", "compass", "compass"]}
    )
    assert list(result_values(problems).values()) == [["red"], ["east", "west"], ["east", "west"], []]


# ---- kinds in modules of their own


def given_by(tokenizer: Any, text: str, values: Sequence[str] = ()) -> Given:
    trace = Trace("u", 0, reasoning_of(tokenizer, text), "east", "east", list(values))
    return Given(trace, None, [trace], tokenizer, SETTINGS, random.Random(0))


def test_one_mistake_is_kept_or_gone_on_from_and_its_control_differs_by_it_alone(tokenizer):
    for text in (TEXT, "Start west\n1 left south\n2 left east, so east\n3 around west\nFinal answer is west.\n"):
        asked = given_by(tokenizer, text, ["north", "east", "south", "west"])
        kept, control, anew = (
            PERTURBATION_KINDS[name].function(asked) for name in ("mistake", "rest_regenerated", "mistake_regenerated")
        )
        whole, true, false = (tokenizer.decode(of.token_ids) for of in (kept, control, anew))
        assert text.startswith(true) and whole.startswith(false) and true[-1] == false[-1] == "\n"
        assert whole[len(false) :] == text[len(true) :]
        assert false == true[: (at := next(k for k, c in enumerate(true) if false[k] != c))] + false[at:]
        assert (kept.was, kept.becomes) == (anew.was, anew.becomes)
        assert true.splitlines()[:-1] == false.splitlines()[:-1]
        assert true.splitlines()[-1] != false.splitlines()[-1]
        assert control.kept_share == pytest.approx(anew.kept_share)
    open_kinds = {name for name, kind in PERTURBATION_KINDS.items() if kind.leaves_open}
    assert open_kinds == {"rest_regenerated", "mistake_regenerated"}


def test_no_mistake_is_planted_in_the_last_result(tokenizer):
    with pytest.raises(NotPerturbed, match="no result before the last"):
        PERTURBATION_KINDS["mistake"].function(given_by(tokenizer, "you face east\n", ["east", "west"]))
    places = {
        plant_mistake(reasoning_of(tokenizer, TEXT), ["north", "east", "south"], tokenizer, random.Random(seed))[1]
        for seed in range(40)
    }
    assert len(places) == 3  # north, south, the first east


SELF_REFLECTIVE = (
    "Start north\n1 left south\nWait, 1 left west\n2 left south\nLet me check: 2 left south\nDone south.\n"
)


def test_self_reflective_sentences_and_they_alone_are_taken_out(tokenizer):
    asked = given_by(tokenizer, SELF_REFLECTIVE)
    found = PERTURBATION_KINDS["without_reflection"].function(asked)
    assert tokenizer.decode(found.token_ids) == "Start north\n1 left south\n2 left south\nDone south.\n"
    control = tokenizer.decode(PERTURBATION_KINDS["without_others"].function(asked).token_ids)
    assert (
        "Wait, 1 left west\n" in control
        and "Let me check: 2 left south\n" in control
        and control.endswith("Done south.\n")
    )
    assert len(control.splitlines()) == 4
    assert found.kept_share == len(found.token_ids) / len(asked.trace.reasoning.token_ids)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Start north\n1 left west\nWait, west.\n", "no self-reflective"),  # the last sentence stays
        ("Wait, north\nDone.\n", "fewer other sentences"),
    ],
)
def test_what_has_nothing_to_take_out_says_why(tokenizer, text, reason):
    with pytest.raises(NotPerturbed, match=reason):
        PERTURBATION_KINDS["without_others"].function(given_by(tokenizer, text))


def test_sentences_are_matched_as_near_in_length_and_place_as_any_choice_is():
    rng = random.Random(5)
    for _ in range(30):
        bounds = sorted(rng.sample(range(1, 100), 8))
        spans = [(a, b) for a, b in pairwise([0, *bounds, 100])]
        ours = sorted(rng.sample(spans, 3))
        others = [span for span in spans if span not in ours]

        def cost(pairs):
            return sum(abs(math.log((b - a) / (d - c))) + abs((a + b) - (c + d)) / 200 for (a, b), (c, d) in pairs)

        least = min(cost(zip(ours, chosen, strict=True)) for chosen in permutations(others, 3))
        found = matched(ours, others, 100)
        assert min(cost(zip(ours, order, strict=True)) for order in permutations(found)) == pytest.approx(least)


@pytest.mark.parametrize(
    ("text", "reworded"),
    [
        ("Okay, let me turn step by step.\n", "All right, I will turn one step after another.\n"),
        ("It's 5 because we can't go.\nHence $x$.", "It is 5 since we cannot go.\nTherefore $x$."),
        ("The final answer is 4.\nFinal answer is 4.", "The answer in the end is 4.\nThe final answer is 4."),
        ("Thus $thus = 3$ and thus `thus`.", "So $thus = 3$ and so `thus`."),
        ("I'm sure. Perhaps, first, it equals 2.", "I am sure. Maybe, first, it is equal to 2."),
        ("Because of rain, don't let me know.", "Because of rain, do not let me know."),
    ],
)
def test_rules_put_a_reasoning_in_other_words(tokenizer, text, reworded):
    ids, _ = reword(reasoning_of(tokenizer, text), tokenizer)
    assert tokenizer.decode(ids) == reworded


def test_a_paraphrase_leaves_every_token_that_no_rule_fits(tokenizer):
    reasoning = reasoning_of(tokenizer, "1 left east\nWait, 1 left west\n2 left south\n")
    ids, n_kept = reword(reasoning, tokenizer)
    lines = tokenizer.decode(ids).splitlines()
    assert lines == ["1 left east", "Hold on, 1 left west", "2 left south"]
    n_before = len(tokenizer.encode("1 left east\n", add_special_tokens=False))
    assert ids[:n_before] == reasoning.token_ids[:n_before]
    assert n_before < n_kept < len(reasoning.token_ids)
    with pytest.raises(NotPerturbed, match="no rule"):
        reword(reasoning_of(tokenizer, "1 left east\n"), tokenizer)


def test_numbers_and_formulas_are_never_put_in_other_words():
    for rule, words in RULES.items():
        assert not re.search(r"\d", rule + words)


# ---- ground truth: the planted model answers what its reasoning says


class PlantedWords:
    """A tokenizer for the planted model, in which each token is one word."""

    def decode(self, ids):
        return "".join(f" {'said' if token in SAID else 'word'}{token}" for token in ids)

    def encode(self, text, add_special_tokens):
        return [int(word.removeprefix("said").removeprefix("word")) for word in text.split()]


def planted_reasoning(trace: PlantedTrace) -> Reasoning:
    ids = trace.token_ids[trace.bounds.reasoning : trace.bounds.think_close]
    pieces = [PlantedWords().decode([token]) for token in ids]
    return Reasoning(trace.token_ids[: trace.bounds.reasoning], True, ids, pieces)


@pytest.fixture(scope="module")
def planted() -> Any:
    return planted_model()


@pytest.fixture(scope="module")
def planted_traces() -> list[PlantedTrace]:
    rng = random.Random(7)
    return [planted_trace(rng, candidate) for candidate in (0, 3, 5, 7)]


def given(model: Any, trace: PlantedTrace, reasoning_ids: list[int]) -> int:
    """What the model generates at the place of the answer."""
    lead = trace.token_ids[trace.bounds.answer : trace.given_position]
    ids = torch.tensor([[*trace.token_ids[: trace.bounds.reasoning], *reasoning_ids, THINK_CLOSE, *lead]])
    return int(model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)[0, -1])


def test_corrupting_the_carried_token_flips_the_answer_and_any_other_token_leaves_it(planted, planted_traces):
    values = [PlantedWords().decode([token]).strip() for token in SAID]
    for trace in planted_traces:
        reasoning = planted_reasoning(trace)
        ids, _, becomes = corrupt(reasoning, values, -1, PlantedWords(), random.Random(0))
        assert given(planted, trace, ids) == GIVEN[values.index(becomes)] != GIVEN[trace.candidate]
        for k, token in enumerate(reasoning.token_ids):
            if token not in SAID:
                other = next(word for word in REASONING_WORDS if word != token)
                ids = [*reasoning.token_ids[:k], other, *reasoning.token_ids[k + 1 :]]
                assert given(planted, trace, ids) == GIVEN[trace.candidate]


def test_a_cut_keeps_the_answer_as_long_as_it_keeps_the_carried_token(planted, planted_traces):
    for trace in planted_traces:
        for percent in range(0, 101, 10):
            ids, n_kept = cut_at(planted_reasoning(trace), percent)
            is_kept = trace.bounds.reasoning + n_kept > trace.said_position
            assert (given(planted, trace, ids) == GIVEN[trace.candidate]) == is_kept


def test_filler_destroys_the_answer_and_anothers_reasoning_gives_the_others(planted, planted_traces):
    for trace, other in pairwise(planted_traces):
        assert given(planted, trace, fill(planted_reasoning(trace), [REASONING_WORDS[0]])) not in GIVEN
        assert given(planted, trace, planted_reasoning(other).token_ids) == GIVEN[other.candidate]


# ---- the stores

PROBLEMS = [("a", "Face north. ", "east"), ("b", "Face south. ", "west"), ("c", "Face west. ", "east")]


@pytest.fixture
def study(tmp_path, tokenizer):
    """Traces of three problems, the last one unfinished, and everything that belongs to them, by name."""
    paths = {name: tmp_path / f"{name}.parquet" for name in ("traces", "grades", "dataset", "prompts", "answers")}
    paths["manifest"] = tmp_path / "manifest.json"
    source = {"path": str(MODEL), "hub": None, "revision": None}
    model = {"model": "m", "source": source, "endpoint": None, "dtype": "float32", "prompt": "raw"}
    resolve_model(paths["manifest"], model)
    rows = []
    for uid, problem, answer in PROBLEMS:
        prompt = tokenizer.encode(f"{problem} <think>\n", add_special_tokens=False)
        text = f"Start north\n1 left {answer}\n</think>\n\nyou face \\boxed{{{answer}}}."
        completion = tokenizer.encode(text, add_special_tokens=False)
        bounds = segment_bounds(prompt, completion, marks_of(MODEL))
        keys = {"uid": uid, "condition": "with_reasoning", "decoding": "greedy", "sample": 0}
        ids = {"prompt_token_ids": prompt, "completion_token_ids": completion, "bounds": bounds}
        rows.append(keys | ids | {"is_valid": uid != "c", "answer": answer, "is_correct": True})
    table = pd.DataFrame(rows)
    origin = provenance({"study": "s"})
    write_parquet(paths["traces"], table.drop(columns=["answer", "is_correct"]), origin)
    write_parquet(paths["grades"], table[["uid", "condition", "decoding", "sample", "answer", "is_correct"]], origin)
    problems = pd.DataFrame(PROBLEMS, columns=["uid", "problem", "answer"]).assign(area="compass", level=None)
    write_parquet(paths["dataset"], problems, origin)
    return paths


def perturbed(study, **changes) -> pd.DataFrame:
    inputs = [study[name] for name in ("traces", "grades", "dataset", "manifest", "prompts")]
    perturb_reasoning(*inputs, SETTINGS | changes)
    return pd.read_parquet(study["prompts"]).set_index(["uid", "perturbation"])


def test_a_model_whose_attention_could_not_be_measured_is_perturbed_by_all_other_kinds(study, tmp_path):
    empty = [tmp_path / "attention.h5", tmp_path / "ranks.parquet"]
    for path in empty:
        write_empty(path, provenance({}) | {NOTHING: "no kernel"})
    inputs = [study[name] for name in ("traces", "grades", "dataset", "manifest", "prompts")]
    settings = SETTINGS | {"kinds": ["cut", "without_most_read"], "n_read_heads": 2}
    perturb_reasoning(*inputs, settings, attention=empty[0], heads=empty[1])
    found = pd.read_parquet(study["prompts"]).query("uid == 'a'").set_index("perturbation")["left_out"]
    assert found["without_most_read"] == "attention was not measured on this trace" and found["cut_100"] == ""


def test_the_whole_reasoning_gives_the_traces_own_tokens(study):
    prompt = perturbed(study).loc[("a", "cut_100"), "prompt_token_ids"]
    trace = pd.read_parquet(study["traces"]).iloc[0]
    own = [*trace["prompt_token_ids"], *trace["completion_token_ids"]]
    assert prompt.tolist() == own[: trace["bounds"][5]]


def test_every_prompt_closes_the_reasoning_once_at_its_end(study, tokenizer):
    found = perturbed(study).query("left_out == ''")
    assert len(found) == 2 * 6  # "north" is no reference of the area, so the last result is the first
    for prompt in found["prompt_token_ids"]:
        assert tokenizer.decode(prompt).count("</think>") == 1
        assert tokenizer.decode(prompt).endswith("\n</think>")


def test_a_reasoning_that_is_gone_on_with_is_left_open(study, tokenizer):
    problems = pd.read_parquet(study["dataset"]).assign(answer=["east", "north", "west"])
    write_parquet(study["dataset"], problems, provenance({}))
    found = perturbed(study, kinds=["mistake", "rest_regenerated", "mistake_regenerated"])
    texts = {kind: tokenizer.decode(found.loc[("a", kind), "prompt_token_ids"]) for kind in found.loc["a"].index}
    assert texts["rest_regenerated"].endswith("<think>\nStart north\n")
    assert "</think>" not in texts["mistake_regenerated"] and texts["mistake"].endswith("\n</think>")
    assert texts["mistake"].startswith(texts["mistake_regenerated"])


def test_a_server_is_asked_once_for_each_paraphrase_and_what_it_leaves_unfinished_is_left_out(study, tokenizer):
    paraphraser = {"model": "some/model", "body": {"temperature": None}}
    changes = {"kinds": ["paraphrase_by_model"], "paraphraser": paraphraser}
    with scripted_server() as server:
        resources = {"base_url": server.url, "api_key_variable": "", "max_concurrency": 2, "timeout_seconds": 300}

        def reply(body):
            whole = "east" in body["messages"][0]["content"].splitlines()[-1]
            text = {"role": "assistant", "content": " Begin at north, one left is east. "}
            return 200, {"choices": [{"message": text, "finish_reason": "stop" if whole else "length"}]}

        server.reply = reply
        for _ in range(2):  # the second time, the ledger has both
            inputs = [study[name] for name in ("traces", "grades", "dataset", "manifest", "prompts")]
            perturb_reasoning(*inputs, SETTINGS | changes, resources)
            found = pd.read_parquet(study["prompts"]).set_index("uid")
            assert tokenizer.decode(found.at["a", "prompt_token_ids"]).endswith(
                "<think>\nBegin at north, one left is east.\n</think>"
            )
            assert found.at["b", "left_out"] == "the paraphraser gave no whole text"
        assert len(server.seen) == 2
        assert {body["model"] for _, _, body in server.seen} == {"some/model"}
        assert not any("temperature" in body for _, _, body in server.seen)


def test_what_is_put_in_implies_an_answer(study, tokenizer):
    found = perturbed(study)
    other = found.loc[("a", "other_reasoning")]
    assert (other["source_uid"], other["implied_answer"]) == ("b", "west")
    assert tokenizer.decode(other["prompt_token_ids"]).endswith("Start north\n1 left west\n</think>")
    last = found.loc[("a", "last_result")]
    assert (last["was"], last["becomes"], last["implied_answer"]) == ("east", "west", "west")
    assert found.loc["a", "implied_answer"].notna().sum() == 2


def test_each_trace_that_is_not_perturbed_has_its_reason(study):
    found = perturbed(study, n_problems=1)["left_out"]
    drawn = {uid for uid, _ in found[~found.isin(["not drawn", "the trace is not valid"])].index}
    assert len(drawn) == 1  # among those with a valid trace
    whole = perturbed(study)["left_out"]
    assert set(whole["c"]) == {"the trace is not valid"}
    assert whole[("a", "first_result")] == "the first result is the last"


def test_where_no_trace_is_valid_each_row_says_so(study):
    traces = pd.read_parquet(study["traces"]).assign(is_valid=False)
    write_parquet(study["traces"], traces, provenance({}))
    assert set(perturbed(study)["left_out"]) == {"the trace is not valid"}


def test_answers_are_generated_as_their_traces_were_and_graded(study, tokenizer, monkeypatch):
    """The engine answers west to whatever replaces a's reasoning, and nothing to the rest."""
    prompts = perturbed(study)
    asked = []

    def complete(requests, *_):
        asked.extend(requests)
        for request in requests:
            text = "\n\nyou face \\boxed{west}." if request.uid == "a" else "\n\nyou"
            ids = tokenizer.encode(text, add_special_tokens=False)
            yield request, Completion(tuple(ids), "stop", 0.1)

    monkeypatch.setattr(r2a.generation, "_complete", complete)
    settings = SETTINGS | {
        "model": "m", "dataset": "d", "kind": "problems", "endpoint": None, "instruction": "", "prompt": "raw",
        "without_reasoning": "finished", "think_tags": "token", "repetition": None, "reasoning_budget": None,
        "max_new_tokens": 40, "grader": "policy", "seconds": 10, "memory_mb": 2000,
        "condition": "with_reasoning", "decoding": "greedy", "temperature": 0.6, "top_p": None, "n_samples": 1,
    }  # fmt: skip
    regenerate_answers(*(study[n] for n in ("prompts", "dataset", "manifest", "answers")), settings, {})
    assert {request.seed for request in asked if request.uid == "a"} == {
        r2a.generation.request_seed(1, "a", "with_reasoning", "greedy", 0)
    }
    assert len({request.key for request in asked}) == len(asked) < (prompts["left_out"] == "").sum()
    grades = study["prompts"].with_name("grades_of_answers.parquet")
    grade_perturbation(study["answers"], study["prompts"], study["dataset"], grades, settings)
    found = pd.read_parquet(grades).set_index(["uid", "perturbation"])
    assert len(found) == (prompts["left_out"] == "").sum()
    assert not found.loc["a", "is_correct"].any() and not found.loc["a", "agrees"].any()
    assert found.loc[("a", "last_result"), "follows"] and found.loc[("a", "other_reasoning"), "follows"]
    assert found.loc[("a", "filler"), "follows"] is None
    assert not found.loc["b", "is_valid"].any() and not found.loc["b", "is_correct"].any()


# ---- the tables


def answers(**columns) -> pd.DataFrame:
    """Four answers to one perturbation of four problems in two areas."""
    common = {"uid": list("abcd"), "sample": 0, "area": ["x", "x", "y", "y"], "perturbation": "filler"}
    common |= {"kind": "filler", "cut": pd.NA, "kept_share": np.nan, "original_is_correct": [True, True, True, False]}
    common |= {"is_valid": True, "is_correct": True, "agrees": True, "follows": None}
    return pd.DataFrame(common | columns).astype({"cut": "Int64"})


def test_shares_are_of_decided_answers_and_invalid_ones_count_against():
    table = perturbation_table(
        answers(
            is_valid=[True, True, True, False],
            is_correct=[True, False, None, True],
            agrees=[True, True, False, True],
            follows=[None, False, True, True],
        ),
        0.95,
    ).set_index("group")  # fmt: skip
    whole = table.loc["all"]
    assert (whole["n_problems"], whole["n_undecided"], whole["n_implied"]) == (4, 1, 3)
    assert whole["accuracy"] == pytest.approx(1 / 3)
    assert whole["agreement"] == pytest.approx(2 / 4)
    assert whole["follows"] == pytest.approx(1 / 3)
    assert whole["original_accuracy"] == pytest.approx(3 / 4)
    assert whole["valid_share"] == pytest.approx(3 / 4)
    assert table.loc["x", "agreement"] == 1 and table.loc["y", "agreement"] == 0
    # Wilson's interval of 2 of 4, by hand
    assert (whole["agreement_low"], whole["agreement_high"]) == pytest.approx((0.150, 0.850), abs=1e-3)


def test_samples_of_one_problem_are_not_taken_for_independent():
    one = answers(agrees=[True, True, False, False])
    three = pd.concat([one.assign(sample=k) for k in range(3)])
    row = perturbation_table(three, 0.95).iloc[0]
    assert row["n_problems"] == 4
    # twelve answers that are worth four: Wilson's interval with Student's quantile of 3 degrees, 3.182, by hand
    assert (row["agreement_low"], row["agreement_high"]) == pytest.approx((0.0767, 0.9233), abs=1e-4)


def test_a_measure_that_nothing_is_known_of_is_absent():
    row = perturbation_table(answers(), 0.95).iloc[0]
    assert row["n_implied"] == 0
    assert np.isnan([row["follows"], row["follows_low"], row["follows_high"]]).all()


def test_a_kind_is_tested_against_the_whole_reasoning_and_against_what_it_names():
    kinds = ["cut_100", "mistake", "rest_regenerated", "mistake_regenerated", "filler"]
    parts = [answers(perturbation=name, kind=name.removesuffix("_100")) for name in kinds]
    parts[3] = parts[3].assign(agrees=[True, False, False, False])
    table = comparison_table(pd.concat(parts), {"confidence": 0.95, "n_resamples": 100, "seed": 1})
    found = table[table["measure"] == "agreement"].set_index(["perturbation", "control"])["difference"]
    whole = {(name, "cut_100"): 0.0 for name in kinds[1:]}
    named = dict.fromkeys([("mistake_regenerated", "rest_regenerated"), ("mistake_regenerated", "mistake")], -0.75)
    assert found.to_dict() == pytest.approx(whole | {("mistake_regenerated", "cut_100"): -0.75} | named)


def early_answers(agrees_by_cut):
    parts = [
        answers(perturbation=f"cut_{cut}", kind="cut", cut=cut, agrees=agrees) for cut, agrees in agrees_by_cut.items()
    ]
    return pd.concat(parts)


def test_the_area_over_the_curve_of_early_answering_is_that_worked_out_by_hand():
    never, always = [False] * 4, [True] * 4
    unmoved = early_answering_table(early_answers({0: always, 50: always, 100: always}), 0.95).set_index("group")
    assert unmoved["area"].tolist() == [0, 0, 0] and unmoved.index.tolist() == ["all", "x", "y"]
    assert unmoved.loc["all", "low"] == 0 < unmoved.loc["all", "high"] < 1
    late = early_answering_table(early_answers({0: never, 80: never, 100: always}), 0.95).set_index("group")
    assert late.loc["all", "area"] == pytest.approx(0.9)  # 0.8, and half of the last fifth
    half = {0: [True, True, False, False], 50: [True, True, False, False], 100: always}
    split = early_answering_table(early_answers(half), 0.95).set_index("group")
    assert split["area"].to_dict() == pytest.approx({"all": 0.375, "x": 0, "y": 0.75})
    assert split.loc["all", "low"] < 0.375 < split.loc["all", "high"]


def test_the_area_is_over_problems_decided_at_every_cut_and_absent_where_the_cuts_do_not_reach_both_ends():
    never, always = [False] * 4, [True] * 4
    table = early_answering_table(early_answers({0: never, 100: [None, True, True, True]}), 0.95).set_index("group")
    assert (table.loc["all", "n_problems"], table.loc["all", "area"]) == (3, 0.5)
    assert early_answering_table(early_answers({25: never, 100: always}), 0.95).empty


def test_the_funnel_counts_every_trace_once_a_perturbation():
    prompts = pd.DataFrame(
        {
            "perturbation": ["filler"] * 4 + ["cut_0"] * 4,
            "kind": ["filler"] * 4 + ["cut"] * 4,
            "cut": [None] * 4 + [0] * 4,
        }
    ).assign(left_out=["", "", "not drawn", "no reasoning", "", "", "", "not drawn"])
    table = funnel_table(prompts.astype({"cut": "Int64"})).set_index(["perturbation", "outcome"])["n_traces"]
    assert table["filler"].to_dict() == {"perturbed": 2, "not drawn": 1, "no reasoning": 1}
    assert table["cut_0"].to_dict() == {"perturbed": 3, "not drawn": 1}

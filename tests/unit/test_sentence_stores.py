"""The store of sentences contains what the library measures; its tables and kinds equal those computed by hand."""

import random
import shutil
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import r2a
import r2a.sentences.runs
from limited_memory import with_room_for
from r2a.attention import capture_attention
from r2a.evaluation.sentences import (
    agreement_table,
    belief_table,
    cost_table,
    experiment_table,
    read_sentences,
    settling_table,
    write_sentences,
)
from r2a.extensions import PERTURBATION_KINDS
from r2a.figures.sentences import (
    plot_belief,
    plot_read_against_needed,
    plot_sentence_agreement,
    plot_sentence_kinds,
    plot_sentence_matrix,
)
from r2a.heads.ranks import order_heads
from r2a.models import load_tokenizer, marks_of, text_of, token_pieces
from r2a.perturbation import read_by_heads
from r2a.perturbation.reasoning import Given, NotPerturbed, Reasoning, Trace
from r2a.sentences.runs import measure_sentences
from r2a.shards import WHOLE, gather_shards
from r2a.store import NothingToMeasure, open_hdf5, provenance, read_parquet, read_provenance, write_csv, write_parquet
from r2a.summary.sentences import find_read_sentences, find_sentence_costs, find_sentences
from r2a.text.categories import category
from r2a.text.sentences import sentence_bounds
from r2a.traces import Bounds, segment_bounds
from random_traces import write_random_traces
from same_stores import assert_same_store

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "model": "random", "dataset": "texts", "decoding": "greedy", "n_top_heads": 2, "n_problems": None, "stub": None,
    "n_matrices": 3, "seed": 1,
}  # fmt: skip
TABLES = ("sentences", "beliefs", "settling", "agreement", "experiment", "costs")
STATISTICS = {"n_resamples": 200, "confidence": 0.95, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The random traces with boxed answers, their attention, and the ranks of their heads."""
    folder = tmp_path_factory.mktemp("sentences")
    write_random_traces(folder)
    tokenizer, marks = load_tokenizer(folder), marks_of(folder)
    table = read_parquet(folder / "traces.parquet")
    rows = []
    for row in table.to_dict("records"):
        text = tokenizer.decode(row["completion_token_ids"]).replace("It is it.", "It is \\boxed{it}.")
        completion = tokenizer.encode(text, add_special_tokens=False)
        bounds = segment_bounds(row["prompt_token_ids"], completion, marks)
        rows.append(row | {"completion_token_ids": completion, "bounds": bounds, "answer_text": "It is \\boxed{it}."})
    write_parquet(folder / "traces.parquet", pd.DataFrame(rows), read_provenance(folder / "traces.parquet"))
    problems = pd.DataFrame({"uid": table["uid"], "answer": "so", "level": [1, 2] * 2 + [1]})
    write_parquet(folder / "texts.parquet", problems, provenance({}))
    verdicts = pd.DataFrame({"uid": table["uid"], "sample": 0, "is_correct": [True, False, None, True, True]})
    write_parquet(folder / "grades.parquet", verdicts, provenance({}))
    attention = {"decoding": "greedy", "temperature": 0, "kernel": "fused", "cue_words": ["Wait"]}
    named = {"model": "random", "dataset": "texts"} | attention
    capture_attention([folder / "traces.parquet"], folder / "manifest.json", folder / "attention.h5", named, 1000)
    order_heads(folder / "attention.h5", folder / "ranks.parquet", {})
    return folder


def measure(folder, name="sentences", shard=WHOLE, **changed):
    inputs = [folder / f"{stem}" for stem in ("traces.parquet", "texts.parquet", "attention.h5", "ranks.parquet")]
    measure_sentences(*inputs, folder / "manifest.json", folder / f"{name}.h5", SETTINGS | changed, 500, shard)
    return folder / f"{name}.h5"


@pytest.fixture(scope="module")
def store(folder):
    return measure(folder)


def test_store_equals_the_front_door(folder, store):
    model = r2a.load_model(folder)
    ranks = read_parquet(folder / "ranks.parquet").sort_values("rank").head(2)
    rfhs = list(zip(ranks["layer"], ranks["head"], strict=True))
    traces = read_parquet(folder / "traces.parquet").set_index("uid")
    with open_hdf5(store) as file:
        uids = file["uid"].asstr()[:]
        assert list(uids) == ["text-0", "text-1", "text-2"]  # valid ones with a reasoning
        for number, uid in enumerate(uids):
            trace = r2a.trace_from_ids(model, *traces.loc[uid, ["prompt_token_ids", "completion_token_ids"]])
            curve = r2a.belief_curve(model, trace, stub=None, reference="so")
            effects = r2a.sentence_effects(model, trace, rfhs, stub=None)
            n = len(effects)
            assert np.allclose(file["belief"][number, 0, : n + 1], curve["log_probability"], atol=1e-4)
            assert np.allclose(file["belief"][number, 1, : n + 1], curve["reference_log_probability"], atol=1e-4)
            assert list(file["is_own"][number, : n + 1]) == curve["is_own"].tolist()
            assert np.allclose(file["effect"][number, :2, :n], effects[["effect", "effect_in_heads"]].T, atol=1e-4)
            for arm, column in enumerate(("greedy_without", "greedy_without_in_heads")):
                without = [text.decode() for text in file["greedy_without"][number, arm, :n]]
                assert without == [text.encode()[:64].decode(errors="ignore") for text in effects[column].fillna("")]
            assert np.allclose(file["read"][number, 1, :n], effects["read"], atol=1e-5)
            assert file["reasoning"].asstr()[number] == "".join(effects["sentence"])
            assert (file["is_own"][number, n + 1 :] == -1).all() and np.isnan(file["effect"][number, :, n:]).all()
        has_matrix = np.isfinite(file["matrix"][:]).any((1, 2)).tolist()
        assert has_matrix == [True, False, True]  # a single sentence serves no other


def test_an_added_problem_leaves_those_that_were_drawn_or_takes_the_place_of_one(folder):
    table = read_parquet(folder / "traces.parquet")
    attention, asked = folder / "attention.h5", {"n_problems": 2, "seed": 1, "decoding": "greedy"}
    whole = set(r2a.sentences.runs._measured_traces(folder / "traces.parquet", attention, asked)["uid"])
    write_parquet(folder / "fewer.parquet", table.iloc[1:], read_provenance(folder / "traces.parquet"))
    fewer = set(r2a.sentences.runs._measured_traces(folder / "fewer.parquet", attention, asked)["uid"])
    assert len(whole) == 2 and len(whole & fewer) >= 1 and (whole == fewer or "text-0" in whole)


def test_shards_make_the_whole_store(folder, store):
    shards = [measure(folder, f"part-{n}", f"{n}-of-2") for n in (1, 2)]
    gather_shards(shards, folder / "gathered.h5")
    assert_same_store(folder / "gathered.h5", store)


def test_a_killed_job_goes_on_with_the_traces_that_are_not_done(folder, store, monkeypatch):
    done: list[int] = []
    whole = r2a.sentences.runs._measure

    def counted(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return whole(*arguments)

    monkeypatch.setattr("r2a.sentences.runs._measure", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(folder, "killed")
    done.clear()
    assert_same_store(measure(folder, "killed"), store)
    assert len(done) == 1


def test_where_memory_runs_out_batches_are_halved(folder, store, monkeypatch, caplog):
    longest = max(read_parquet(folder / "traces.parquet")["bounds"].map(lambda bounds: Bounds.of(bounds).end))
    room = with_room_for(longest, r2a.sentences.runs.load_model)
    monkeypatch.setattr("r2a.sentences.runs.load_model", room)
    with caplog.at_level("WARNING", "r2a"):
        halved = measure(folder, "halved")
    assert "continuing with" in caplog.text and "left out" not in caplog.text
    assert_same_store(halved, store)


def test_a_trace_that_does_not_fit_into_memory_is_left_out_and_named_and_the_rest_is_the_same(
    folder, store, monkeypatch, caplog
):
    table = read_parquet(folder / "traces.parquet").set_index("uid")
    lengths = table["bounds"].map(lambda bounds: Bounds.of(bounds).end)[["text-0", "text-1", "text-2"]]
    monkeypatch.setattr("r2a.sentences.branches.CHECK_TOKENS", 16)
    room = with_room_for(lengths.nlargest(2).iloc[-1], r2a.sentences.runs.load_model)
    monkeypatch.setattr("r2a.sentences.runs.load_model", room)
    with caplog.at_level("WARNING", "r2a"):
        fewer = measure(folder, "left-out")
    longest = lengths.idxmax()
    assert f"{longest}: {lengths.max()} tokens do not fit into memory" in caplog.text
    assert "1 of 3 traces left out" in caplog.text
    with open_hdf5(store) as whole, open_hdf5(fewer) as found:
        is_there = found["uid"].asstr()[:] != longest
        assert found["is_left_out"][:].tolist() == (~is_there).astype(int).tolist()
        for name in ("belief", "effect", "read"):
            assert np.isnan(found[name][:][~is_there]).all(), name
            np.testing.assert_allclose(found[name][:][is_there], whole[name][:][is_there], atol=1e-4)
    by_sentence, by_trace = read_sentences(fewer, folder / "grades.parquet", folder / "texts.parquet")
    assert longest not in set(by_sentence["uid"]) and len(by_trace) == 2


def test_traces_whose_attention_was_left_out_are_neither_measured_nor_perturbed_by_it(folder, store, caplog):
    shutil.copy(folder / "attention.h5", folder / "short-attention.h5")
    with h5py.File(folder / "short-attention.h5", "r+") as file:
        file["is_left_out"][0] = 1
        left_out = file["uid"].asstr()[0]
        file["sentence_bounds"][0], file["sentence_mass"][0] = -1, np.nan
    inputs = [folder / stem for stem in ("traces.parquet", "texts.parquet", "short-attention.h5", "ranks.parquet")]
    with caplog.at_level("WARNING", "r2a"):
        measure_sentences(*inputs, folder / "manifest.json", folder / "skipped.h5", SETTINGS, 500)
    assert f"lacks 1 problems ({left_out}, ...)" in caplog.text
    with open_hdf5(folder / "skipped.h5") as file, open_hdf5(store) as whole:
        assert list(file["uid"].asstr()[:]) == [uid for uid in whole["uid"].asstr()[:] if uid != left_out]
        assert np.isfinite(file["read"][:, :, 0]).all()
    settings = {"decoding": "greedy", "n_read_heads": 2}
    read = read_by_heads(folder / "short-attention.h5", folder / "ranks.parquet", settings)
    assert (left_out, 0) not in read and len(read) == 2


def test_without_a_valid_trace_there_is_nothing_to_measure(folder):
    table = read_parquet(folder / "traces.parquet")
    inputs = [folder / stem for stem in ("texts.parquet", "attention.h5", "ranks.parquet", "manifest.json", "x.h5")]
    for nothing in (table[~table["is_valid"]], table.assign(answer_text="\\boxed{ }")):  # an empty box says nothing
        write_parquet(folder / "none.parquet", nothing, read_provenance(folder / "traces.parquet"))
        with pytest.raises(NothingToMeasure, match="funnel"):
            measure_sentences(folder / "none.parquet", *inputs, SETTINGS, 500)


@pytest.mark.slow
def test_tables_and_figures_tell_the_store(folder, store, tmp_path, monkeypatch):
    monkeypatch.setattr("r2a.figures.style.LEAST", 0)  # these are three texts
    by_sentence, by_trace = read_sentences(store, folder / "grades.parquet", folder / "texts.parquet")
    first = by_sentence[by_sentence["uid"] == "text-0"]
    assert first["text"].tolist() == ["", "One is 1. ", "Wait, two is 2.\n", "Check: 2!"]
    assert first["category"].tolist() == ["", "compute", "backtrack", "check"]
    assert first["place"].iloc[-1] == 1 and first["belief_change"].sum() == pytest.approx(
        first["log_probability"].iloc[-1] - first["log_probability"].iloc[0]
    )
    assert by_trace["is_correct"].tolist()[:2] == [1, 0] and by_trace["level"].tolist() == [1, 2, 1]
    tables = {name: tmp_path / f"{name}.csv" for name in TABLES}
    named = STATISTICS | {"model": "random", "dataset": "texts"}
    resampled = by_sentence[by_sentence["sentence"] > 0][["uid", "sample", "sentence"]]
    numbers = np.arange(float(len(resampled)))
    resampled = resampled.assign(importance=numbers, low=numbers - 1, high=numbers + 1, n_tokens=50)
    write_csv(tmp_path / "resampling.csv", resampled, provenance({}))
    inputs = store, folder / "grades.parquet", folder / "texts.parquet"
    write_sentences(*inputs, tables, named, tmp_path / "resampling.csv")
    costs = pd.read_csv(tables["costs"]).set_index("measure")
    assert costs.loc["importance", "n_written"] == 50 and costs.loc["read", "passes"] == 1
    assert (costs.loc[["belief_change", "effect"], "passes"] > 1).all()
    labels = {"model_labels": {"random": "M"}, "dataset_labels": {"texts": "D"}}
    found = find_sentences([tables["settling"]], [tables["agreement"]], [tables["experiment"]], labels)
    ((subject, cells),) = found.rows
    assert subject == ("M", "D") and cells["reasoning after belief has settled"].n == len(by_trace)
    assert found.sentences[0].startswith("The more the RFHs attend to a sentence, the more the answer needs it")
    told = [cells["measure"].text for _, cells in find_sentence_costs([tables["costs"]], labels).rows]
    assert told == ["change of belief", "suppression in all heads", "suppression in the RFHs", "reading by the RFHs",
                    "resampling"]  # fmt: skip
    settings = STATISTICS | {"is_toy": False, "model_label": "M", "dataset_label": "D"}
    plot_belief(tables["sentences"], tables["beliefs"], tmp_path / "belief", settings)
    plot_sentence_matrix(store, tmp_path / "matrix", settings)
    plot_read_against_needed(tables["sentences"], tables["agreement"], tmp_path / "read", settings)
    plot_sentence_kinds(tables["sentences"], tmp_path / "kinds", settings)
    plot_sentence_agreement(tables["agreement"], tables["costs"], tmp_path / "agreement", settings)
    assert all((tmp_path / f"{name}.png").exists() for name in ("belief", "matrix", "read", "kinds", "agreement"))
    kinds = pd.read_csv(tmp_path / "kinds.csv")
    assert set(kinds["measure"]) == {"belief_change", "effect", "read_rfh", "importance"}


# ---- the experiment


def test_the_summary_tells_how_many_more_answers_change_with_the_sentence_that_heads_read_most(tmp_path):
    rows = [
        # perturbation, control, share that agrees, of the control, difference with its interval
        ("without_most_read", "without_little_read", 0.4, 0.9, -0.5, -0.7, -0.3),
        ("without_most_read", "cut_100", 0.4, 1.0, -0.6, -0.8, -0.4),
        ("most_read_result", "little_read_result", 0.8, 0.9, -0.1, -0.25, 0.05),
    ]
    columns = ["perturbation", "control", "share", "control_share", "difference", "low", "high"]
    table = pd.DataFrame(rows, columns=columns).assign(measure="agreement", n_problems=40, test="a test", p_holm=0.01)
    write_csv(tmp_path / "comparisons.csv", table, provenance({"model": "m", "dataset": "d"}))
    labels = {"model_labels": {"m": "M"}, "dataset_labels": {"d": "D"}}
    found = find_read_sentences([tmp_path / "comparisons.csv"], labels)
    told = [(cells["sentence"].text, cells["difference, points"].text) for _, cells in found.rows]
    assert told == [("result replaced", "+10.0 [\N{MINUS SIGN}5.0, +25.0]"), ("taken out", "+50.0 [+30.0, +70.0]")]
    assert found.rows[1][1]["changed, most read"].text == "60 %" and found.rows[1][1]["difference, points"].sign == 1
    assert found.sentences[0].startswith("Replacing") and found.sentences[0].endswith("in no case.")
    assert found.sentences[1].startswith("Taking out") and found.sentences[1].endswith("in the one case.")


def given(read, lines=("Start north", "1 left west", "2 right north", "Final answer is north.")):
    """A reasoning in lines of about three tokens, of which the heads read the given amounts."""
    tokenizer = load_tokenizer(ROOT / "resources" / "models" / "tiny-qwen")
    ids = tokenizer.encode("".join(f"{line}\n" for line in lines), add_special_tokens=False)
    pieces = token_pieces(tokenizer, ids)
    spans = list(pairwise(sentence_bounds(pieces)))
    trace = Trace("u", 0, Reasoning([], True, ids, pieces), "north", "north", ["north", "west"])
    known = None if read is None else list(zip(spans, read, strict=True))
    return Given(trace, None, [], tokenizer, {}, random.Random(0), read=known)


def text_after(kind, asked):
    return text_of(asked.tokenizer, PERTURBATION_KINDS[kind].function(asked).token_ids).splitlines()


def test_the_sentence_most_read_is_taken_out_and_one_like_it_that_is_read_little():
    asked = given([0.1, 0.9, 0.2, 0.3])
    assert text_after("without_most_read", asked) == ["Start north", "2 right north", "Final answer is north."]
    # of the two that are read least, the one of the same length
    assert text_after("without_little_read", asked) == ["Start north", "1 left west", "Final answer is north."]


def test_the_result_in_the_sentence_most_read_is_replaced_and_no_other():
    asked, end = given([0.1, 0.9, 0.2, 0.3]), "Final answer is north."
    assert text_after("most_read_result", asked) == ["Start north", "1 left north", "2 right north", end]
    assert text_after("little_read_result", asked) == ["Start north", "1 left west", "2 right west", end]
    with pytest.raises(NotPerturbed, match="no result in the sentence"):
        text_after("most_read_result", given([0.9, 0.1, 0.1], ("Let me look.", "1 left west", "2 right north")))


def test_without_what_is_read_nothing_is_perturbed():
    few = given([0.1, 0.2], ("1 left west", "2 right north"))
    for asked, reason in ((given(None), "not measured"), (few, "fewer than three")):
        with pytest.raises(NotPerturbed, match=reason):
            text_after("without_most_read", asked)


def test_what_heads_read_is_that_of_the_sentences_store(folder, store):
    settings = {"decoding": "greedy", "n_read_heads": 2}
    read = read_by_heads(folder / "attention.h5", folder / "ranks.parquet", settings)
    with open_hdf5(store) as file:
        for number, uid in enumerate(file["uid"].asstr()[:]):
            bounds, shares = read[uid, 0]
            assert list(bounds) == [place for place in file["sentence_bounds"][number] if place >= 0]
            assert np.allclose(shares, file["read"][number, 1, : len(shares)], atol=1e-6)
    assert read_by_heads(folder / "attention.h5", folder / "ranks.parquet", settings | {"decoding": "sampled"}) == {}


# ---- known answers


def frame(curves, **measures):
    """Sentences of equal length, one curve of probabilities per trace."""
    parts = []
    for number, curve in enumerate(curves):
        n = len(curve) - 1
        part = {"uid": f"p{number}", "sample": 0, "sentence": range(n + 1), "place": np.arange(n + 1) / n}
        part |= {"probability": curve, "is_own": [int(p > 0.5) for p in curve]}
        part |= {name: [np.nan, *values[number]] for name, values in measures.items()}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def test_pooled_belief_is_that_after_the_last_whole_sentence():
    table = belief_table(frame([[0.1, 0.2, 0.9], [0.3, 0.4, 1.0]]), STATISTICS).set_index("place")
    assert table["probability"].round(6).tolist() == [0.2] * 5 + [0.3] * 5 + [0.95]
    assert table["share_own"].tolist() == [0.0] * 10 + [1.0] and (table["n_problems"] == 2).all()


def test_settling_by_correctness_and_level():
    traces = pd.DataFrame(
        {
            "uid": [f"p{k}" for k in range(12)], "sample": 0, "level": [1] * 6 + [2] * 6, "n_sentences": 4,
            "is_correct": [1.0] * 6 + [0.0] * 6, "settled_after": [0] + [1] * 5 + [np.nan] * 6,
            "share_after": [1.0] + [0.75] * 5 + [0.0] * 6, "area": 0.5,
        }
    )  # fmt: skip
    table = settling_table(traces, STATISTICS).set_index("group")
    assert table["n_settled"].to_dict() == {"all": 6, "right": 6, "wrong": 0, "level 1": 6, "level 2": 0}
    assert table.loc["all", "n_settled_before"] == 1
    assert table.loc["right", "share_after"] == pytest.approx((1 + 5 * 0.75) / 6)
    assert table.loc["wrong", "p"] < 0.01 and table.loc["all", "rank_correlation"] < -0.9
    again = pd.concat([traces, traces.assign(sample=1)])
    assert settling_table(again, STATISTICS)["p"].isna().all()  # samples are not problems


def test_agreement_is_the_mean_rank_correlation_over_problems():
    rng = np.random.default_rng(0)
    effect = [rng.permutation(6).astype(float) for _ in range(8)]
    same, opposite = [np.exp(e) for e in effect], [-e for e in effect]
    others = {name: [rng.normal(size=6) for _ in effect] for name in ("effect_matched", "read", "read_matched")}
    table = agreement_table(
        frame([[0.5] * 7] * 8, effect=effect, effect_rfh=same, read_rfh=opposite, belief_change=same, **others),
        STATISTICS,
    ).set_index(["first", "second"])
    assert table.loc[("effect", "effect_rfh"), ["rank_correlation", "pooled"]].tolist() == pytest.approx([1, 1])
    assert table.loc[("effect", "read_rfh"), "rank_correlation"] == pytest.approx(-1)
    assert table.loc[("effect", "read_rfh"), "p"] == pytest.approx(2 / 2**8)
    assert abs(table.loc[("effect", "read"), "rank_correlation"]) < 0.6


def test_the_sentence_most_read_is_compared_with_one_like_it_that_is_little_read():
    rows = []
    for problem in range(8):
        # of the two that are little read, the third is as long as the second, which is read most
        trace = {"uid": f"p{problem}", "sample": 0, "sentence": range(5), "n_tokens": [0, 9, 4, 4, 5], "greedy": "a"}
        trace |= {"read_rfh": [np.nan, 0.1, 0.9, 0.1, 0.5]}
        for suffix in ("", "_rfh", "_matched"):
            trace |= {f"effect{suffix}": [np.nan, 9, 3 + problem, 1, 9]}
            trace |= {f"greedy_without{suffix}": ["", "b", "b", "b" if problem < 2 else "a", "b"]}
        rows.append(pd.DataFrame(trace))
    table = experiment_table(pd.concat(rows, ignore_index=True), STATISTICS).set_index(["arm", "measure"])
    changed, effect = table.loc[("all", "changed")], table.loc[("rfh", "effect")]
    assert (changed["most"], changed["little"], changed["difference"]) == (1, 0.25, 0.75)
    assert (effect["most"], effect["little"]) == (6.5, 1) and effect["p"] == pytest.approx(2 / 2**8)
    assert changed["p"] == pytest.approx(2 / 2**6)  # two of the eight differ in nothing


def test_the_stand_in_is_the_cheapest_measure_that_agrees():
    traces = pd.DataFrame({"n_sentences": [4, 6], "n_run": [50, 50], "n_belief": [40, 60], "n_suppression": [100, 200]})
    pairs = [("belief_change", "effect", 0.3, 0.5), ("effect", "read", -0.1, 0.2), ("effect", "read_rfh", 0.1, 0.2),
             ("effect", "read_matched", 0.1, 0.4), ("importance", "effect", 0.1, 0.9),
             ("importance", "read", -0.1, 0.1)]  # fmt: skip
    agreement = pd.DataFrame(pairs, columns=["first", "second", "low", "rank_correlation"])
    table = cost_table(traces, agreement, 300.0).set_index("measure")
    assert table["passes"].loc[["read", "belief_change", "effect", "importance"]].tolist() == [1, 2, 4, 30]
    assert table.loc["effect", ["stand_in", "rank_correlation"]].tolist() == ["read_matched", 0.4]
    assert table.loc["importance", "stand_in"] == "effect" and table["stand_in"].isna().sum() == 6
    assert "importance" not in cost_table(traces, agreement, np.nan)["measure"].tolist()


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("So the final answer is 4.", "answer"), (r"Thus \boxed{4}.", "answer"), ("Wait, that is 5.", "backtrack"),
        ("等等 不对。", "backtrack"), ("Let me double-check this.", "check"), ("Let me set up equations.", "plan"),
        ("3 + 4 = 7", "compute"), ("It is a nice day.", "other"), ("Hmm.", "backtrack"),
    ],
)  # fmt: skip
def test_kinds_of_sentences_are_told_by_their_words(sentence, kind):
    assert category(sentence) == kind

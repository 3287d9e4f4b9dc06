"""The summary: its numbers, its sentences, the cost, and its pages."""

import base64
import gzip
import io
import json
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from pretended_summary import DOT, ORIGIN, write, write_pretended
from prose import NUMBER, sentences
from r2a.figures.registry import CATEGORIES, caption, draw
from r2a.statistics import TOO_FEW_TO_DRAW
from r2a.store import provenance, why_empty, write_csv, write_parquet
from r2a.study import load_study
from r2a.summary.accuracy import find_accuracy
from r2a.summary.cost import cost
from r2a.summary.index import write_index
from r2a.summary.judging import find_judge_scores
from r2a.summary.mechanism import find_mediation
from r2a.summary.page import COORDINATE, verdict_table, write_summary
from r2a.summary.patching import find_patching
from r2a.summary.perturbation import find_perturbation, find_perturbation_funnel
from r2a.summary.registry import FINDINGS, Cell, Found, finding_inputs
from r2a.summary.words import NONE, in_cases, points, word

# ---- findings


def test_the_verdicts_are_those_of_the_first_decoding_with_their_intervals_and_tests(tmp_path):
    inputs = write_pretended(tmp_path)
    found = find_accuracy(**inputs["accuracy"], settings={})
    cell = found.verdicts["effect, points"]["Model M", "Data D"]
    assert cell.text == "+50.0 [+40.0, +60.0]"
    assert cell.note == "n = 40 problems; exact McNemar, p = 0.001; greedy"
    assert cell.sign == 1 and not cell.is_small
    assert found.verdicts["right, with · without"]["Model M", "Data D"].paired == (0.9, 0.4)
    assert found.sentences == ["More answers are right with reasoning, beyond chance, in the one case."]


def test_patching_is_told_at_the_layer_where_it_restores_most_and_held_against_its_control_there(tmp_path):
    place = {"component": "resid_pre", "direction": "clean_to_corrupted", "role": "answer", "n_pairs": 30}
    curves = [
        place | {"probe": "plain", "layer": 0, "mean": 0.2, "low": 0.1, "high": 0.3, "flip_rate": 0.1},
        place | {"probe": "plain", "layer": 1, "mean": 0.9, "low": 0.8, "high": 0.95, "flip_rate": 0.7},
        place | {"probe": "plain", "layer": 2, "mean": 1, "low": 1, "high": 1, "flip_rate": 1, "role": "final"},
        place | {"probe": "boxed", "layer": 0, "mean": 1, "low": 1, "high": 1, "flip_rate": 0},
    ]
    at = {
        "component": "resid_pre",
        "control": "unrelated_answer",
        "n_pairs": 30,
        "low": 0.1,
        "high": 0.2,
        "p_holm": 0.01,
    }
    controls = [
        at | {"probe": "plain", "layer": 1, "mean": 0.15, "difference_low": 0.6, "difference_high": 0.8},
        at | {"probe": "boxed", "layer": 0, "mean": 0.15, "difference_low": 0.6, "difference_high": 0.8},
    ]
    nan = float("nan")
    hand_off = [
        {"probe": "plain", "layer": nan, "low": nan, "high": nan, "defined_share": 0, "n_pairs": 30, "n_templates": 3}
    ]
    tables = {"curves": curves, "controls": controls, "hand_off": hand_off}
    found = find_patching(
        **{name: [write(tmp_path / f"{name}.csv", rows)] for name, rows in tables.items()}, settings={}
    )
    flip = found.verdicts["patching flips it"]["Model M", "Data D"]
    assert (flip.text, flip.sign) == ("70 %", 1)
    assert "at layer 1 restores 0.90 [0.80, 0.95], another question's answer 0.15 [0.10, 0.20]; p = 0.01" in flip.note
    assert found.verdicts["hand-off layer"]["Model M", "Data D"].text == "none"
    plain, boxed = (cells for _, cells in found.rows)
    assert plain["strongest in the reasoning"].text == "answer, layer 1: 0.90"  # the last token is not part of it
    assert plain["course"].text == "answer 0 to 1, final 2"
    assert (boxed["flips"].text, boxed["flips"].sign) == ("0 %", 0)  # a patch that flips nothing has no mark


def test_what_another_reasoning_implies_is_marked_beyond_one_half(tmp_path):
    other = {
        "perturbation": "other_reasoning", "kind": "other_reasoning", "cut": None, "by": "all",
        "n_problems": 50, "n_implied": 50, "agreement": 0.1, "agreement_low": 0, "agreement_high": 0.2,
        "valid_share": 1.0,
    }  # fmt: skip
    compared = {"measure": "agreement", "perturbation": "other_reasoning", "control": "cut_100", "n_problems": 50}
    compared |= {"difference": -0.9, "low": -1, "high": -0.8, "test": "exact McNemar", "p_holm": 0.001}
    for follows, sign in ((0.53, 0), (0.9, 1)):
        row = other | {"follows": follows, "follows_low": follows - 0.1, "follows_high": follows + 0.1}
        tables = {"perturbation": [row], "comparisons": [compared], "funnel": [{"outcome": "perturbed"}]}
        paths = {name: [write(tmp_path / f"{name}.csv", rows)] for name, rows in tables.items()}
        cell = find_perturbation(**paths, settings={}).verdicts["follows another text"]["Model M", "Data D"]
        assert cell.sign == sign


def test_a_change_of_the_text_has_one_row_with_what_it_was_made_in_and_why_not_elsewhere(tmp_path):
    cut = {"perturbation": "cut_25", "kind": "cut", "cut": 25}
    rows = [cut | {"outcome": outcome, "n_traces": n} for outcome, n in {"perturbed": 9, "not drawn": 4}.items()]
    filler = {"perturbation": "filler", "kind": "filler", "cut": None}
    rows += [
        filler | {"outcome": outcome, "n_traces": n} for outcome, n in {"perturbed": 8, "one line alone": 1}.items()
    ]
    found = find_perturbation_funnel([write(tmp_path / "funnel.csv", rows)], settings={})
    shown = [[cell.text for cell in cells.values()] for _, cells in found.rows]
    assert shown == [["25 % of it", "9", "4", NONE], ["filler of equal length", "8", "0", "1: one line alone"]]


def test_the_share_through_rfhs_is_told_at_the_layer_where_the_whole_effect_is_strongest(tmp_path):
    rows = []
    for layer, whole in enumerate((0.4, 0.9)):
        for heads, part in (("all", 1), ("rfh", 0.6), ("matched", 0.1), ("rest", 0.3)):
            of = {"probe": "plain", "path": heads, "layer": layer, "n_pairs": 30, "mean": whole * part}
            shares = {"share": part - layer / 10, "share_low": part - 0.2, "share_high": part + 0.1}
            rows.append(of | {"low": 0, "high": 1} | shares)
    found = find_mediation([write(tmp_path / "mediation.csv", rows)], settings={})
    assert found.verdicts["share through RFHs"]["Model M", "Data D"].text == "50 % [40, 70]"
    assert found.sentences[0].endswith("than as many matched heads in the one case.")


def test_what_rests_on_few_is_grey_and_what_has_no_interval_has_no_mark():
    assert Cell(text="1", n=19).is_small and not Cell(text="1", n=20).is_small
    assert Cell(text="1", value=1, zero=0).sign == 0
    assert Cell(text="1", low=-2, high=-1, zero=0).sign == -1


def test_a_test_that_was_not_made_leaves_no_note_and_no_word():
    no_test = pd.read_csv(io.StringIO("difference,test\n0.5,\n"))["test"][0]  # one problem is too few for any
    assert points(0.5, 0.2, 0.8, 1, no_test, "too few").note == "n = 1 problems; too few"
    assert points(math.nan, math.nan, math.nan, 1, no_test).note == "n = 1 problems"
    assert word(no_test).text == NONE


def test_a_judges_score_is_raised_where_every_judge_says_so_in_the_first_decoding(tmp_path):
    place = {"area": "all", "n_problems": 30, "n_common": 30, "n_floor": 30, "score_with": 7, "score_without": 6}
    place |= {"difference": 1.0, "high": 2.0, "wilcoxon_p": 0.01, "model": "Model M"}
    place |= {"floor_difference": 1, "floor_low": 0.5, "floor_high": 2}
    rows = [
        place | {"dataset": dataset, "judge": judge, "decoding": decoding, "low": low}
        for dataset, lows in {"D": (0.5, -0.5), "E": (0.5, 0.5)}.items()
        for judge, low in zip("AB", lows, strict=True)
        for decoding in ("greedy", "sampled")
    ]
    found = find_judge_scores(write(tmp_path / "judge_effect.csv", rows), settings={})
    assert found.sentences == ["By A and B, reasoning raises the score of open-ended answers in 1 of 2 cases."]


def test_cases_are_counted_in_words():
    assert [in_cases(so) for so in ([True], [False], [True, True], [True] * 3, [False] * 2, [True, False])] == [
        "in the one case", "in no case", "in both cases", "in all 3 cases", "in no case", "in 1 of 2 cases",
    ]  # fmt: skip


def test_a_model_has_a_row_a_dataset_and_what_was_not_measured_is_left_open():
    cell = Cell(text="1")
    found = {
        "a": Found(verdicts={"x": {("M", "D"): cell, ("N", "D"): cell}}),
        "b": Found(verdicts={"y": {("M", "E"): cell}}),
    }
    columns, rows = verdict_table(found)
    assert columns == [("x", "a"), ("y", "b")]
    assert [(row["model"], row["dataset"], row["n_datasets"], row["cells"]) for row in rows] == [
        ("M", "D", 2, [cell, None]), ("M", "E", 0, [None, cell]), ("N", "D", 1, [cell, None]),
    ]  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_has_a_caption_that_says_what_its_numbers_are(name):
    one = FINDINGS[name]
    assert one.category in CATEGORIES and re.fullmatch(r"[A-Z].{30,}\.", one.caption)
    assert one.purpose.endswith(".")


def test_the_findings_of_a_study_read_the_files_of_the_models_and_datasets_that_have_them():
    study = load_study(
        {
            "study": "mine", "seed": 1, "models": {"m": {"path": "resources/models/tiny-qwen"}},
            "datasets": {
                "d": {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"},
                "p": {"kind": "comparison_pairs", "path": "resources/datasets/comparisons.csv"},
            },
            "decodings": {"greedy": {"temperature": 0}},
        }
    )  # fmt: skip
    inputs = finding_inputs(study)
    assert inputs["accuracy__effect"] == "<results>/tables/effect.csv"
    assert inputs["patching__curves"] == ["<results>/tables/m/p/patching_curves.csv"]
    assert not [name for name in inputs if name.startswith(("variants", "judge"))]


# ---- the pages


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.mark.parametrize("damage", ["", "{", "\0\0"])
def test_a_study_whose_verdicts_are_damaged_is_left_out_of_the_index_and_stops_no_other(damage, tmp_path, caplog):
    write_pretended(tmp_path, "Qwen", render=True)
    (tmp_path / "results/torn").mkdir()
    (tmp_path / "results/torn/verdicts.json").write_text(damage)
    write_index(tmp_path / "results")
    assert "mine" in (tmp_path / "results/index.html").read_text()
    assert "torn/verdicts.json: is damaged" in caplog.text


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "{{ 7 * 7 }} |a|"]
)
def test_names_are_text_wherever_they_stand(hostile, tmp_path):
    write_pretended(tmp_path, hostile, render=True)
    write_index(tmp_path / "results")
    for page in (tmp_path / "results/mine/summary.html", tmp_path / "results/index.html"):
        parser = Tags()
        parser.feed(page.read_text())
        assert not any(name.startswith("on") for _, attributes in parser.found for name in attributes)
        assert not [attributes for tag, attributes in parser.found if tag == "img" and attributes.get("src") == "x"]
        assert "49" not in re.findall(r"<td[^>]*>(.*?)</td>", page.read_text())
    assert not re.search(r"(?<!\\)<(script|img)", (tmp_path / "results/mine/summary.md").read_text())


def test_no_sentence_has_more_than_two_numbers_and_none_is_said_twice_in_a_section(tmp_path):
    write_pretended(tmp_path, render=True)
    page = (tmp_path / "results/mine/summary.html").read_text()
    said = sentences(page, "said")
    assert len(said) >= 2
    assert len(set(said)) == len(said)
    assert not [sentence for sentence in sentences(page) if len(NUMBER.findall(sentence)) > 2]


def test_the_page_holds_each_figure_once_compressed_with_its_caption_and_numbers(tmp_path):
    write_pretended(tmp_path, render=True)
    page = (tmp_path / "results/mine/summary.html").read_text()
    (packed,) = re.findall(r'id="packed-figure-accuracy">([^<]*)<', page)
    (glyphs,) = re.findall(r'id="packed-glyphs">([^<]*)<', page)
    outline = "M 9 0 L 30 0 L 30 20 L 9 20 z"
    assert json.loads(gzip.decompress(base64.b64decode(glyphs))) == {"DejaVuSans-41": outline}
    expected = DOT.replace("3.14159", "3.14").replace(f' d="{outline}"', "")
    assert gzip.decompress(base64.b64decode(packed)).decode() == expected
    assert caption("accuracy", {"confidence": 0.95}).split(";")[0] in page
    assert 'href="figures/accuracy.csv"' in page and 'href="figures/accuracy.svg"' in page


def test_a_scale_in_a_figure_keeps_its_digits():
    assert COORDINATE.findall("scale(0.015625) M 12.34567 0.98765 L 7.125") == ["12.34567", "7.125"]


def test_the_page_and_the_texts_say_that_models_are_toys_only_where_they_are(tmp_path):
    write_pretended(tmp_path / "toys", render=True)
    write_pretended(tmp_path / "real", render=True, is_toy=False)
    for name in ("summary.html", "summary.md", "summary.txt"):
        toys, real = ((tmp_path / kind / "results/mine" / name).read_text() for kind in ("toys", "real"))
        assert "oy models" in toys and "oy models" not in real


def test_the_page_and_the_short_text_say_what_a_column_of_verdicts_means(tmp_path):
    write_pretended(tmp_path, render=True)
    meaning = "right with reasoning minus right without it, in percentage points"
    for name in ("summary.html", "summary.md"):
        assert f"{meaning}." in (tmp_path / "results/mine" / name).read_text()


def test_what_is_empty_is_told_with_its_reason_once_a_model(tmp_path):
    write_pretended(tmp_path, render=True, empty="no pair can be used")
    for name in ("summary.html", "summary.md"):
        text = (tmp_path / "results/mine" / name).read_text()
        assert text.count("Model M, Data D: nothing to measure: no pair can be used") == 1


def perturbed(n_problems, n_implied):
    """A table with one kind of perturbation, over n problems."""
    row = {"kind": "other_reasoning", "cut": None, "by": "all", "n_problems": n_problems, "n_implied": n_implied}
    row |= {"valid_share": 1.0, "original_accuracy": 0.5}
    for name in ("agreement", "accuracy", "follows"):
        row |= {name: 0.5, f"{name}_low": 0.1, f"{name}_high": 0.9}
    return [row]


def write_early(folder):
    area = {"by": "all", "group": "all", "n_problems": 50, "n_samples": 1, "area": 0.5, "low": 0.4, "high": 0.6}
    return write(folder / "early.csv", [area])


def test_means_over_fewer_than_five_problems_are_not_drawn(tmp_path):
    settings = {"is_toy": False, "confidence": 0.95, "model_label": "Model M", "dataset_label": "Data D"}
    for n in (4, 5):
        table = write(tmp_path / f"{n}.csv", perturbed(n, 4))
        draw(["perturbation"], {"table": table, "early": write_early(tmp_path)}, tmp_path / str(n), settings)
    assert why_empty(tmp_path / "4/perturbation.csv") == TOO_FEW_TO_DRAW
    drawn = pd.read_csv(tmp_path / "5/perturbation.csv")
    assert drawn["agreement"].tolist() == [0.5] and drawn["follows"].isna().all()  # four implied answers are known


def test_a_figure_with_nothing_to_show_is_absent_from_the_page_and_its_reason_is_told_once(tmp_path):
    settings = {"study": "mine", "is_toy": False, "confidence": 0.95, "model_labels": {}, "dataset_labels": {}}
    of_one = settings | {"model": "m", "dataset": "d", "model_label": "Model M", "dataset_label": "Data D"}
    decodings, folder = tmp_path / "decodings.csv", tmp_path / "figures"
    write_csv(decodings, pd.DataFrame(columns=["model", "dataset", "n_problems"]), provenance({}))
    draw(["decodings"], {"decodings": decodings}, folder, settings)
    of_few = {
        "perturbation": {
            "table": write(tmp_path / "perturbation.csv", perturbed(4, 4)),
            "early": write_early(tmp_path),
        },
        "carriers": {
            name: write(tmp_path / f"{name}.csv", [{"probe": "plain", "role": "final", "n_pairs": 3}])
            for name in ("carriers", "agreement")
        },
    }
    for name, read in of_few.items():
        draw([name], read, folder / "m/d", of_one)
    pages = [tmp_path / end for end in ("summary.html", "summary.md", "summary.txt", "verdicts.json")]
    figures = [folder / "decodings.png", *(folder / f"m/d/{name}.png" for name in of_few)]
    write_summary({}, figures, [], tmp_path / "benchmarks", *pages, settings)
    for page in pages[:2]:
        text = page.read_text()
        assert text.count("all models, decodings: the study has one decoding.") == 1
        assert text.count(f"Model M, Data D: {TOO_FEW_TO_DRAW}.") == 1
        assert "packed-figure-" not in text


def test_the_index_lists_every_study_with_its_table(tmp_path):
    write_pretended(tmp_path, render=True)
    later = tmp_path / "results/later"
    later.mkdir()
    verdicts = json.loads((tmp_path / "results/mine/verdicts.json").read_text())
    (later / "verdicts.json").write_text(json.dumps(verdicts | {"study": "later"}))
    write_index(tmp_path / "results")
    index = (tmp_path / "results/index.html").read_text()
    assert all(f'<h2><a href="{study}/summary.html">' in index for study in ("mine", "later"))
    assert index.count("+50.0") >= 2


# ---- cost

BENCHMARK = "s\tmax_rss\tthreads\tresources\n{seconds}\t{rss}\t{threads}\t{{'gpu': {gpus}, 'tmpdir': '/tmp'}}\n"


def test_cost_is_wall_time_times_threads_and_gpus_and_speed_is_tokens_over_wall_time(tmp_path):
    jobs = {"traces/m/d": (3600, 2000, 4, 2), "traces/m/e": (1800, 3500, 4, 2), "grades/m/d": (720, "NA", 1, 0)}
    for name, (seconds, rss, threads, gpus) in jobs.items():
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BENCHMARK.format(seconds=seconds, rss=rss, threads=threads, gpus=gpus))
    traces = tmp_path / "d.parquet"
    write_parquet(traces, pd.DataFrame({"completion_token_ids": [[1] * 50_000, [2] * 4_000]}), provenance(ORIGIN))
    told = cost(tmp_path / "benchmarks", [traces], {"m": "Model M"})
    table = dict(told.stages)
    assert table["traces"] == ["2", "1.500", "6.000", "3.000", "3.5"]
    assert table["grades"][:4] == ["1", "0.200", "0.200", "0.000"]
    assert table["all"] == ["3", "1.700", "6.200", "3.000", "3.5"]
    assert told.speeds == [("Model M", "54,000", "10")]


def test_what_no_benchmark_recorded_is_not_made_up(tmp_path):
    assert cost(tmp_path / "benchmarks", [], {}).stages == []
    path = tmp_path / "grades/m/d.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\tmax_rss\n3600\t1000\n")
    assert dict(cost(tmp_path, [], {}).stages)["all"] == ["1", "1.000", "not recorded", "not recorded", "1.0"]

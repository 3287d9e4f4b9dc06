"""The summary's answers, its cost, and the page that it is read as."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from r2a.store import provenance, write_csv, write_parquet
from r2a.summary.answers import answer_sentences
from r2a.summary.cost import cost_lines
from r2a.summary.page import page

ORIGIN = {"model": "m", "model_label": "Model M", "dataset": "d", "dataset_label": "Data D"}


def write(path, rows):
    write_csv(path, pd.DataFrame(rows), provenance(ORIGIN))
    return path


def effect(model, decoding="greedy", by="all", difference=0.5):
    return {
        "model": model, "dataset": "Data D", "decoding": decoding, "by": by, "difference": difference,
        "low": difference - 0.1, "high": difference + 0.1,
    }  # fmt: skip


def test_the_answer_is_one_sentence_a_model_with_intervals_of_all_three_measures(tmp_path):
    rows = [effect("Model M"), effect("Model M", by="area", difference=0.9), effect("Model M", "sampled"), effect("N")]
    shown = {"kind": "other_reasoning", "by": "all", "n_implied": 50}
    follows = [
        shown | {"follows": 0.53, "follows_low": 0.41, "follows_high": 0.65},
        shown | {"follows": 0.9, "follows_low": 0.8, "follows_high": 0.95, "by": "area"},
        shown | {"follows": 0.1, "follows_low": 0, "follows_high": 0.2, "kind": "filler"},
    ]
    place = {"probe": "plain", "component": "resid_pre", "direction": "clean_to_corrupted", "role": "answer"}
    curves = [
        place | {"mean": 0.2, "low": 0.1, "high": 0.3},
        place | {"mean": 0.9, "low": 0.8, "high": 0.95},
        place | {"mean": 1.0, "low": 1, "high": 1, "role": "final"},
        place | {"mean": 1.0, "low": 1, "high": 1, "probe": "boxed"},
    ]
    inputs = {
        "effect": write(tmp_path / "effect.csv", rows),
        "perturbation": [write(tmp_path / "perturbation.csv", follows)],
        "curves": [write(tmp_path / "curves.csv", curves)],
    }
    first, second = answer_sentences(inputs)
    numbers = re.findall(r"[+-]?[\d.]+ %? ?\[[^\]]*\]", first)
    assert numbers == ["+50.0 [+40.0, +60.0]", "53 % [41, 65]", "0.90 [0.80, 0.95]"]
    assert first.startswith("- **Model M**: reasoning changes accuracy by")
    assert second == "- **N**: reasoning changes accuracy by +50.0 [+40.0, +60.0] points (Data D)."


BENCHMARK = "s\tmax_rss\tthreads\tresources\n{seconds}\t{rss}\t{threads}\t{{'gpu': {gpus}, 'tmpdir': '/tmp'}}\n"


def cost_table(folder, traces=()):
    lines = cost_lines(folder, traces, {"m": "Model M"})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells[2:]}, lines


def test_cost_is_wall_time_times_threads_and_gpus_and_speed_is_tokens_over_wall_time(tmp_path):
    jobs = {"traces/m/d": (3600, 2000, 4, 2), "traces/m/e": (1800, 3500, 4, 2), "grades/m/d": (720, "NA", 1, 0)}
    for name, (seconds, rss, threads, gpus) in jobs.items():
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BENCHMARK.format(seconds=seconds, rss=rss, threads=threads, gpus=gpus))
    traces = tmp_path / "d.parquet"
    write_parquet(traces, pd.DataFrame({"completion_token_ids": [[1] * 50_000, [2] * 4_000]}), provenance(ORIGIN))
    table, lines = cost_table(tmp_path / "benchmarks", [traces])
    assert table["traces"] == ["2", "1.500", "6.000", "3.000", "3.5"]
    assert table["grades"][:4] == ["1", "0.200", "0.200", "0.000"]
    assert table["all"] == ["3", "1.700", "6.200", "3.000", "3.5"]
    assert lines[-1].startswith("- **Model M** generated 54,000 tokens, 10 a second")


def test_without_pairs_in_use_and_without_benchmarks_there_is_a_summary_all_the_same(tmp_path):
    place = {"probe": "plain", "component": "resid_pre", "direction": "clean_to_corrupted", "role": "answer"}
    curves = write(tmp_path / "curves.csv", [place | {"mean": 0.0, "low": 0.0, "high": 0.0}])
    curves.write_text(curves.read_text().splitlines()[0] + "\n")
    inputs = {"effect": write(tmp_path / "effect.csv", [effect("Model M")]), "perturbation": [], "curves": [curves]}
    assert answer_sentences(inputs) == [
        "- **Model M**: reasoning changes accuracy by +50.0 [+40.0, +60.0] points (Data D)."
    ]
    assert cost_lines(tmp_path / "benchmarks", [], {}) == ["No benchmark was kept."]


def test_what_no_benchmark_recorded_is_not_made_up(tmp_path):
    path = tmp_path / "grades/m/d.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\tmax_rss\n3600\t1000\n")
    assert cost_table(tmp_path)[0]["all"] == ["1", "1.000", "not recorded", "not recorded", "1.0"]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:a())"]
)
def test_the_page_has_no_markup_but_markdowns(hostile, tmp_path):
    parser = Tags()
    parser.feed(page(f"# {hostile}\n\n- {hostile}\n\n| {hostile} |\n| --- |\n| {hostile} |\n", hostile, tmp_path))
    assert {tag for tag, _ in parser.found} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "ul", "li", "div", "table", "thead", "tbody", "tr",
        "th", "td",
    }  # fmt: skip
    assert not any(name.startswith("on") for _, attributes in parser.found for name in attributes)


def test_the_page_holds_what_the_summary_says_and_its_pictures(tmp_path):
    (tmp_path / "map.png").write_bytes(b"a picture")
    text = "# Title\n\n> **Toy.** Not real.\n\n- one [table](tables/x.csv)\n\n![map](map.png)\n\n"
    text += "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    shown = page(text, "Title", tmp_path)
    for part in ("<h1>Title</h1>", "<strong>Toy.</strong>", 'href="tables/x.csv">table</a>', "<td>2</td>"):
        assert part in shown
    assert '<img src="data:image/png;base64,YSBwaWN0dXJl" alt="map"' in shown  # base64 of the bytes above

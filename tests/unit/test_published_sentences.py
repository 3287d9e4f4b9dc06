"""Sentences and their kinds, against those published by the authors of Thought Anchors (Bogdan et al. 2025).

From github.com/interp-reasoning/thought-anchors.com, src/app/data: 40 reasonings of R1-Distill-Llama-8B and
R1-Distill-Qwen-14B, cut into 5,814 sentences, each given a kind by a language model. Read from a clone at
../shared/reference/thought-anchors.com, if there is one.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from r2a.text.categories import category
from r2a.text.sentences import sentence_bounds

KINDS = {
    "final_answer_emission": "answer", "self_checking": "check", "uncertainty_management": "backtrack",
    "plan_generation": "plan", "active_computation": "compute",
}  # fmt: skip


@pytest.fixture(scope="module")
def published(reference: Path) -> list[tuple[str, list[dict]]]:
    """The text and the sentences of each reasoning."""
    folder = reference / "thought-anchors.com" / "src" / "app" / "data"
    files = sorted(folder.glob("deepseek-r1-distill-*/*/*/chunks_labeled.json"))
    if not files:
        pytest.skip(f"no sentences at {folder}: clone github.com/interp-reasoning/thought-anchors.com into {reference}")
    texts = [json.loads(file.with_name("base_solution.json").read_text())["full_cot"] for file in files]
    return [(text, json.loads(file.read_text())) for text, file in zip(texts, files, strict=True)]


def test_sentences_begin_where_the_published_ones_do_but_for_numbers_abbreviations_and_formulas(published):
    n_same, missing = 0, []
    for text, sentences in published:
        theirs, at = [], 0
        for sentence in sentences:
            found = text.find(sentence["chunk"], at)
            if found >= 0:
                theirs.append(found)
                at = found + len(sentence["chunk"])
        whole = text[theirs[0] : at]
        starts = [place + len(whole[place:]) - len(whole[place:].lstrip()) for place in sentence_bounds(list(whole))]
        ours = {theirs[0] + place for place in starts}
        n_same += len(ours & {*theirs})
        missing += [text[:place].rstrip()[-4:] for place in theirs if place not in ours]
    assert n_same == pytest.approx(5431, abs=10) and len(missing) == pytest.approx(267, abs=10)
    # they also end sentences at a factorial, a list's number, an abbreviation, dots, and the end of a formula's line
    assert np.mean([end.endswith(("!", ".")) for end in missing]) > 0.95


def test_kinds_by_cue_words_agree_with_the_published_ones_beyond_chance(published):
    pairs = [
        (KINDS[sentence["function_tags"][0]], category(sentence["chunk"]))
        for _, sentences in published
        for sentence in sentences
        if (sentence["function_tags"] or [""])[0] in KINDS
    ]
    agreement = np.mean([theirs == ours for theirs, ours in pairs])
    chance = sum(
        np.mean([a == kind for a, _ in pairs]) * np.mean([b == kind for _, b in pairs]) for kind in KINDS.values()
    )
    assert len(pairs) == 4066 and agreement == pytest.approx(0.65, abs=0.02)
    assert (agreement - chance) / (1 - chance) == pytest.approx(0.46, abs=0.02)

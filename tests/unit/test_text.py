"""Sentences and cue words in the languages in which models reason, and the tokens that contain them."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2a.models import load_tokenizer, token_pieces
from r2a.store import add_axis, add_column, axis_labels, new_hdf5, open_hdf5
from r2a.study import load_study
from r2a.text.characters import whole_text
from r2a.text.cues import ALL_CUE_WORDS, CUE_WORDS, is_cue_token
from r2a.text.sentences import piece_spans, sentence_bounds, sentence_spans, split_sentences, token_bounds

ROOT = Path(__file__).parents[2]


def cut(text):
    return [sentence.strip() for sentence in split_sentences(text)]


# ---- where sentences end; the sentences of a case are separated by |

WESTERN = [
    # full stops that end a sentence, and ones inside numbers and names of versions
    "So 3.5 + 2 = 5.5. | Version 1.2.3 runs on Python 3.11. | Yes!",
    "It costs 1,000.50 dollars. | Write to me@example.com or see www.example.com. | Done?!",
    "Go 3.5 on. | Wait, checking.",
    # abbreviations
    "E.g. 7 is prime, i.e. odd (cf. above). | Dr. Smith, Mrs. Hall et al. (2020) agree.",
    "See Fig. 3, Eq. (2) and Appendix A, vol. B of it. | Then go to p. 12.",
    "It weighs approx. 5 kg vs. 6 lb. before, etc. and so on. | Pens, ink, etc. | We buy them.",
    "It opens at 9 a.m. on Mondays. | It closes at 5 p.m. | We left.",
    "She lives in the U.S. near a Ph.D. student. | He left the U.S. | Then he came.",
    "No. | That's wrong. | See No. 5 there. | Is it? | No. | 5 is odd.",
    "J. R. R. Tolkien met Donald E. Knuth. | By A. Turing.",
    "The answer is B. | Next, point A. | Set x = C. | Consider D.",
    "12 in. by 3 ft. long. | It is 12 in. | We go on.",
    # lists and steps keep their numbers
    "1. Add the numbers. | 2. Divide by two. | 3. Done.",
    "Two ways: first.\n | a. Apples are red.\n | b. Bananas are not.\n | - a dash\n | * a star",
    "Step 1. Compute it. | **Step 2. Check it.** | Then stop.",
    "IV. The fourth one. | (2) The second one.",
    # formulas and code
    r"We have $x = 3. Y$ and \(a. B\) so. | Then $x = 5.$ | Next one.",
    "So\n | \\[\nx = 1. Y\n\\]\n | and $$a.\nB$$ hold.",
    "\\begin{aligned}a &= 1. B\\\\\nc\\end{aligned} | \\boxed{A. B}. | Next.".replace(" | \\boxed", " \\boxed"),
    "```python\nx = f(1). Y\n\nprint(x)\n```\n | Then `a. B` runs.",
    "He paid $5. | Then he paid $6. | So $11.",
    "5! = 120 and n! is big. | (n-1)! / 2 is odd! | |n|! is too, as v . w is. | Great! | so there.",
    # ellipses
    "Hmm... let me think. | Hmm... | Let me think again… and again.",
    "1, 2, ..., n and 1 + 2 + ... + 100. | Add 1, 2, ... 10.",
    # quotation marks and brackets after the mark, or before the next sentence
    '"Stop!" he said. | (Why? | Because.) | “Go.” | “No.”',
    "**Answer: 5.** | Then *done.* | It holds.[3] | So it is (see there).",
    # line ends, white space
    "one line\n | another\n\n | - third",
    "Is that right? | yes. | so it is.",
    # other languages
    "Am 3. Mai war z. B. das Wetter gut. | Dann kam der 2. Fall usw. | Das war d.h. gut.",
    "Это т. е. пример. | Подождите! | См. рис. 3. | Да и т. д. | Конец.",
    "¿Es cinco? | ¡No! | Es p. ej. seis. | El Sr. Pérez dijo que no.",
    "Attendez ! | C'est p. ex. cinq. | M. Dupont et Mme. Hall.",
    "यह पाँच है। | नहीं। | ठीक।",
    "ما هو؟ | هو خمسة.",
]
UNSPACED = [
    "嗯，我先算一下。|等等，不对！|我再检查一下。",
    "答案是5.|然后是6?|不对!|1.5是小数。",
    "他说：“对吗？”|然后（真的吗？）走了。|（完。）|好",
    "嗯……让我想想。|1.计算\n|2.检查",
    "これは３．５です。|待って、違う！|「はい。」|と言った。",
    "설명합니다. |잠깐, 다시 확인하자! |맞다.",
    "So 5。|Wait，不对。|Check it. |好的。",
    "ไทยไม่มีจุด ยังไม่จบ\n|บรรทัดใหม่",
]


@pytest.mark.parametrize("marked", WESTERN)
def test_a_sentence_ends_at_its_mark_and_nowhere_else(marked):
    assert cut(marked.replace(" | ", " ").replace("\n ", "\n")) == [part.strip() for part in marked.split(" | ")]


@pytest.mark.parametrize("marked", UNSPACED)
def test_a_sentence_without_spaces_ends_at_its_mark(marked):
    assert cut(marked.replace("|", "")) == [part.strip() for part in marked.split("|")]


def test_white_space_at_the_beginning_is_no_sentence():
    assert split_sentences("\n\nOkay.\n\nSo.") == ["\n\nOkay.\n\n", "So."]
    assert split_sentences(" \n") == [" \n"]
    assert split_sentences("") == []


ALPHABET = st.sampled_from(
    [*"ab A1.?!…\n \t$\\()[]{}\"'`*。！？、再检“”」", "$$", "\\[", "\\]", "```", "i.e. ", "Dr. "]
)


@given(st.lists(ALPHABET, max_size=60).map("".join) | st.text(max_size=60))
@settings(max_examples=400)
def test_sentences_tile_the_text(text):
    spans = sentence_spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)
    assert not text.strip() or all(text[start:end].strip() for start, end in spans)


@pytest.mark.parametrize(
    "unit", ["$", "\\[ ", "`", "...", " ...", "(((", "\\boxed{", "。", "1.", "```\n", "a.b", "\t \n"]
)
def test_a_models_endless_loop_is_cut_like_any_text(unit):
    text = unit * (40_000 // len(unit))
    assert "".join(split_sentences(text)) == text


# ---- sentences as tokens

PIECES = [
    "\n",
    "Go",
    " 3",
    ".",
    "5",
    " on",
    ".",
    " W",
    "ait",
    ",",
    " che",
    "cking",
    ".\n\n",
    "\n",
    "check",
    "!",
    " Done",
]


def test_a_token_belongs_to_the_sentence_of_its_first_character_that_is_no_white_space():
    bounds = sentence_bounds(PIECES, 100)
    found = ["".join(PIECES[a - 100 : b - 100]) for a, b in pairwise(bounds)]
    assert found == ["\nGo 3.5 on.", " Wait, checking.\n\n\n", "check!", " Done"]
    assert sentence_bounds(["no", " end"], 7) == [7, 9]
    assert sentence_bounds([], 7) == [7]


def test_a_token_over_two_sentences_belongs_to_the_first_and_leaves_the_other_the_rest():
    pieces = ["好", "。不", "对", "。等。", "完"]
    spans = sentence_spans("".join(pieces))
    assert token_bounds(pieces, spans) == [0, 2, 4, 4, 5]  # no token starts in 等。's rest
    assert sentence_bounds(pieces) == [0, 2, 4, 5]


@given(st.lists(st.text("a。. \n", max_size=4), max_size=12))
def test_sentences_tile_the_tokens(pieces):
    spans = sentence_spans("".join(pieces))
    bounds = token_bounds(pieces, spans)
    assert bounds == sorted(bounds)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(pieces), len(spans) + 1) if spans else True


def test_characters_of_several_tokens_are_whole_in_the_tokens_text():
    tokenizer = load_tokenizer(ROOT / "resources/models/tiny-qwen")
    text = "我再检查。 check 🙂 é"
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = token_pieces(tokenizer, ids)
    assert "".join(pieces) == text
    assert len(pieces) == len(ids) > len(text)
    is_cue = is_cue_token(pieces, ALL_CUE_WORDS)
    cues = [span for span, cue in zip(piece_spans(pieces), is_cue, strict=True) if cue]
    assert sorted({character for start, end in cues for character in text[start:end]}) == sorted(set(" check检查"))
    n_bytes = len(tokenizer.encode("检查", add_special_tokens=False))
    assert sum(is_cue) == n_bytes + 1  # every byte of both characters, and " check"


def test_half_a_character_stays_as_it_is():
    tokenizer = load_tokenizer(ROOT / "resources/models/tiny-qwen")
    ids = tokenizer.encode("再x", add_special_tokens=False)
    assert token_pieces(tokenizer, ids[1:])[-1] == "x"
    assert len(token_pieces(tokenizer, ids[1:])) == len(ids) - 1


# ---- cue words


def cues_in(text, words=ALL_CUE_WORDS):
    """The parts of a text that are cues, with one token per character."""
    marked = "".join(c if cue else "\0" for c, cue in zip(text, is_cue_token(list(text), words), strict=True))
    return [part for part in marked.split("\0") if part]


def test_cue_words_are_whole_words_in_either_case_whatever_their_tokens():
    found = is_cue_token(PIECES, ["wait", "Check", "Hmm"])
    assert [piece for piece, cue in zip(PIECES, found, strict=True) if cue] == [" W", "ait", "check"]


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        ("Wait, let me check; rechecking. HMM", ["Wait", "check", "HMM"]),
        ("等等，我再检查一下。", ["等等", "检查"]),
        ("苹果、香蕉等等。等等，不对！", ["等等", "不对"]),
        ("对不对？不对称的图形，不對。", ["不對"]),
        ("让我wait一下，check下", ["wait", "check"]),
        ("待って、違う。間違いを確認する。", ["待って", "違う", "確認"]),
        ("잠깐만, 다시 확인하자. 아니, 아니메는 아니야.", ["잠깐", "확인", "아니", "아니"]),
        ("Espera, un momento. Esperanza no.", ["Espera", "un momento"]),
        ("Attends ! Vérifions. Attendre", ["Attends", "Vérifions"]),
        ("Warte, Moment mal. Ich überprüfe das. at the moment", ["Warte", "Moment mal", "überprüfe"]),
        ("ПОДОЖДИТЕ, проверим. Стопка", ["ПОДОЖДИТЕ", "проверим"]),
        ("Aspetta, un attimo: verifichiamo", ["Aspetta", "un attimo", "verifichiamo"]),
        ("So the halt is near, stop here. In fact, at a time.", []),
    ],
)
def test_cue_words_of_a_language_are_found_and_parts_of_other_words_are_not(text, cues):
    assert cues_in(text) == cues


def test_words_that_are_given_are_the_only_ones():
    assert cues_in("Wait, 等等 hmm 也许", ["也许", "hmm"]) == ["hmm", "也许"]


def test_the_default_words_are_the_tables_and_english_has_the_papers():
    study = load_study(
        {
            "study": "test",
            "seed": 1,
            "models": {"tiny": {"path": str(ROOT / "resources/models/tiny-qwen")}},
            "datasets": {"mine": {"kind": "problems", "path": str(ROOT / "README.md")}},
            "decodings": {"greedy": {"temperature": 0}},
        }
    )
    assert study.attention.cue_words == ALL_CUE_WORDS
    assert CUE_WORDS["English"] == ("Wait", "Alternatively", "Hmm", "check")


# ---- characters


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("plain é 再 🙂", "plain é 再 🙂"),
        ("a\0b", "a\ufffdb"),
        ("\ud83d \\boxed{1}", "\ufffd \\boxed{1}"),
        ("\ud83d\ude42", "🙂"),
        ("\ude42\ud83d", "\ufffd\ufffd"),
    ],
)
def test_a_text_that_no_file_can_hold_is_made_whole_and_stored(tmp_path, text, whole):
    assert whole_text(text) == whole
    with new_hdf5(tmp_path / "store.h5", {}) as file:
        add_axis(file, "token", [text, "second"])
        add_column(file, "piece", "token", [text, "second"])
    with open_hdf5(tmp_path / "store.h5") as file:
        assert axis_labels(file, "token") == [whole, "second"]
        assert list(file["piece"].asstr()[:]) == [whole, "second"]

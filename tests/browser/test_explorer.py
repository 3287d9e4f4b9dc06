"""The trace explorer as its readers use it: in a real browser, opened from disk."""

import base64
import csv
import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest
from axe_core_python.selenium import Axe
from explorer_stores import write_study

from r2a.explorer import KATEX, LIMIT
from r2a.traces import Bounds
from waiting import wait_until

HOSTILE = [
    "</script><script>window.isOwned = true</script>",
    "<img src=x onerror='window.isOwned = true'>",
    '"});window.isOwned=true;({"a":"',
    '=HYPERLINK("http://127.0.0.1")\u2028`${window.isOwned = true}`',
    "<style>body { display: none }</style><!-- \u202e ]]>",
]
WAIT = """
const done = arguments[arguments.length - 1];
(function look() { r2aExplorer.opened()?.then(done) ?? setTimeout(look, 20); })();
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    texts = {
        f"walk-{k:03}": ("Where do you face?", "Start north.\n1 left west\n" * 4, "you face west.") for k in range(60)
    }
    texts |= {f"hostile-{k}": (text, text * 2, text) for k, text in enumerate(HOSTILE)}
    texts["long"] = ("Where do you face?", "1 left west\n" * 2500, "you face west.")
    return write_study(tmp_path_factory.mktemp("results") / "pretended", texts, patched="walk-003")


def open_page(browser, page, place=""):
    browser.get("about:blank")
    browser.get(f"file://{page}{place}")
    browser.execute_async_script(WAIT)


def tokens(browser):
    """(text, alpha of its background, position) of every token on the screen."""
    script = """const alpha = (colour) => colour ? Number(colour.match(/, ([\\d.]+)\\)$/)?.[1] ?? 1) : 0;
        return [...document.querySelectorAll('#text .line > span')].map((span) =>
            [span.textContent, alpha(span.style.backgroundColor), span.token])"""
    return browser.execute_script(script)


def click(browser, token, shift=False):
    """A click on the token at a position of the trace."""
    browser.execute_script(
        """const span = [...document.querySelectorAll('#text .line span')].find((one) => one.token === arguments[0]);
        for (const kind of ['pointerdown', 'pointerup'])
            span.dispatchEvent(new PointerEvent(kind, {bubbles: true, shiftKey: arguments[1]}));""",
        token, shift,
    )  # fmt: skip


def press(browser, key):
    browser.execute_script(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", key
    )


def handed_over(page, number):
    """What the page loads for a trace."""
    return json.loads((page.parent / f"data/0/{number}.js").read_text().split(",", 1)[1].rstrip(");\n"))


def shares(trace, source):
    """Attention [shown answer token, token]."""
    packed = trace["attention"][source]
    return np.frombuffer(base64.b64decode(packed["float16"]), "<f2").reshape(packed["shape"]).astype(float)


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_it_opens_from_a_disk_and_lists_every_trace(browser, page):
    open_page(browser, page)
    assert "66 of 66 traces" in browser.find_element("id", "count").text
    assert "Toy models" in browser.find_element("id", "toy").text
    assert tokens(browser)[0][0] == "<|begin|>"
    assert errors(browser) == []


def test_the_answer_lights_what_it_attends_to_and_a_reasoning_token_those_that_read_it(browser, page):
    open_page(browser, page, "#t=0&source=1.2")
    bounds = Bounds(*json.loads((page.parent / "data/0/0.js").read_text().split(",", 1)[1].rstrip(");\n"))["bounds"])
    click(browser, bounds.answer)
    lit = {position for _, alpha, position in tokens(browser) if alpha > 0}
    assert lit == {bounds.reasoning, bounds.answer}  # half on the reasoning's first token, half on itself
    click(browser, bounds.reasoning)
    lit = {position for _, alpha, position in tokens(browser) if alpha > 0}
    assert lit == set(range(bounds.answer, bounds.eos))
    click(browser, bounds.reasoning + 1)
    assert not [position for _, alpha, position in tokens(browser) if alpha > 0]


def test_a_permalink_opens_what_it_was_copied_from(browser, page):
    open_page(browser, page, "#t=3&source=1.2")
    for key in ("ArrowRight", "ArrowRight", "v"):
        press(browser, key)
    place = browser.execute_script("return location.hash")
    shown = browser.find_element("id", "sentences").text
    open_page(browser, page, place)
    assert browser.execute_script("return location.hash") == place
    assert browser.find_element("id", "sentences").text == shown
    assert "walk-003" in browser.find_element("id", "facts").text


def test_the_summarys_link_opens_a_model_and_dataset_by_name(browser, page):
    open_page(browser, page, "#c=m/d")
    assert browser.execute_script("return r2aExplorer.state.c") == "0"
    assert "walk-000" in browser.find_element("id", "facts").text


def test_a_study_made_later_can_be_chosen_from_an_earlier_ones_page(browser, tmp_path):
    texts = {"only-one": ("Where?", "1 left west\n", "you face west.")}
    page = write_study(tmp_path / "pretended", texts)
    open_page(browser, page)
    study = browser.find_element("id", "study")
    assert study.text.split() == ["pretended"]
    write_study(tmp_path / "later", texts)
    open_page(browser, page)
    study = browser.find_element("id", "study")
    assert study.text.split() == ["pretended", "later"]
    study.find_element("css selector", "option[value=later]").click()
    wait_until(lambda: browser.current_url.startswith(f"file://{tmp_path}/later/explorer/index.html"))
    browser.execute_async_script(WAIT)
    assert "only-one" in browser.find_element("id", "facts").text
    assert errors(browser) == []


def test_a_page_copied_away_from_the_other_studies_stands_alone(browser, page, tmp_path):
    copied = shutil.copytree(page.parent, tmp_path / "explorer") / "index.html"
    open_page(browser, copied)
    assert browser.find_element("id", "study").text.split() == ["pretended"]
    assert "66 of 66 traces" in browser.find_element("id", "count").text
    assert all("explorers.js" in message for message in errors(browser))


def test_the_chosen_trace_is_in_view_in_the_list(browser, page):
    open_page(browser, page, "#t=50")
    look = "const place = document.querySelector('#traces li.chosen')?.getBoundingClientRect(), box = "
    look += "document.getElementById('traces').getBoundingClientRect(); "
    look += "return place && place.top >= box.top && place.bottom <= box.bottom"
    wait_until(lambda: browser.execute_script(look))


def test_the_reasoning_is_coloured_by_what_the_answer_owes_to_its_sentences(browser, page):
    open_page(browser, page, "#t=1&by=belief_change")
    content = json.loads((page.parent / "data/0/1.js").read_text().split(",", 1)[1].rstrip(");\n"))
    cut = content["sentences"]
    spans = "[...document.querySelectorAll('#text .line span')]"
    colours = browser.execute_script(f"return {spans}.map((one) => [one.token, one.style.backgroundColor])")
    lit = {token: colour for token, colour in colours if colour}
    assert set(lit) == {*range(*cut[:2]), *range(*cut[-2:])}  # two nats for it, and one against it
    assert len({lit[cut[0]], lit[cut[-2]]}) == 2
    title = f"""const span = {spans}.find((one) => one.token === arguments[0]);
        span.dispatchEvent(new PointerEvent('pointermove', {{bubbles: true}}));
        return span.title"""
    told = browser.execute_script(title, cut[-2])
    assert f"sentence {len(cut) - 1}: change of belief in the answer -1.000 (nat)" in told
    assert "suppression in the RFHs 0.250" in told and "reading by the RFHs 0.125" in told
    assert browser.execute_script(title, cut[0] - 1) == ""  # no part of the reasoning
    assert "below 0 in orange" in browser.find_element("id", "told").text
    assert browser.find_element("id", "legend").text == "-2.000 to 2.000 nat"
    copied = """const done = arguments[arguments.length - 1];
        navigator.clipboard.writeText = async (text) => done(text);
        document.getElementById('copy-svg').click()"""
    picture = ElementTree.fromstring(browser.execute_async_script(copied))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[-2:] == ["-2.000 to 2.000 nat", "walk-001, M, change of belief in the answer"]
    stops = {stop.get("stop-color") for stop in picture.iter("{http://www.w3.org/2000/svg}stop")}
    assert len(stops) == 2  # for it, and against it
    by = browser.find_element("id", "by")
    by.find_element("css selector", "option[value=effect]").click()
    assert {token for token, *_ in [(p, a) for _, a, p in tokens(browser) if a > 0]} == set(range(cut[0], cut[-1]))
    assert "by=effect" in browser.execute_script("return location.hash")
    by.find_element("css selector", "option[value=attention]").click()
    assert "of a token's attention" in browser.find_element("id", "legend").text
    assert errors(browser) == []


def test_a_sentence_under_the_pointer_underlines_what_needs_it_and_a_click_tells_the_answer_without_it(browser, page):
    open_page(browser, page, "#t=1&by=belief_change")
    cut = json.loads((page.parent / "data/0/1.js").read_text().split(",", 1)[1].rstrip(");\n"))["sentences"]
    spans = "[...document.querySelectorAll('#text .line span')]"
    underlined = f"""const span = {spans}.find((one) => one.token === arguments[0]);
        span.dispatchEvent(new PointerEvent('pointermove', {{bubbles: true}}));
        return {spans}.filter((one) => one.style.boxShadow).map((one) =>
            [one.token, Number(one.style.boxShadow.match(/[\\d.]+(?=\\))/)[0])])"""
    marks = dict(browser.execute_script(underlined, cut[0]))
    assert set(marks) == set(range(cut[1], cut[-1]))  # it serves all later sentences,
    assert marks[cut[-2]] > 2 * marks[cut[1]]  # and the last one most
    assert {token for token, _ in browser.execute_script(underlined, cut[1])} == set(range(cut[2], cut[-1]))
    click(browser, cut[0] + 3)
    assert browser.execute_script("return r2aExplorer.state.sel") == f"{cut[0]}-{cut[1] - 1}"  # the whole sentence
    told = browser.find_element("id", "without").text
    assert "Closed before it\n“east”; its own answer has a log-probability of -3.000 nat" in told
    assert "Closed after it\n“west”; its own answer has a log-probability of -1.000 nat" in told
    assert "Hidden from what follows\n“north”; its own answer loses 0.250 nat" in told
    assert "Hidden from the RFHs alone\n“west”; its own answer loses 0.250 nat" in told
    assert f"Needed most by\nsentence {len(cut) - 1} 4.000 nat, sentence 2 0.500 nat" in told
    browser.find_element("css selector", "#without button").click()
    assert f"without sentence {len(cut) - 1} of {len(cut) - 1}" in browser.find_element("id", "without").text
    open_page(browser, page, "#t=2&by=belief_change")
    click(browser, browser.execute_script("return r2aExplorer.trace().sentences[0]"))
    assert "not measured for this trace; traces marked ◆ have it" in browser.find_element("id", "without").text
    assert errors(browser) == []


def test_a_resampled_trace_is_coloured_by_importance_and_tells_what_was_written_anew(browser, page):
    open_page(browser, page, "#t=1")
    cut = handed_over(page, 1)["sentences"]
    browser.find_element("css selector", "#by option[value=importance]").click()
    assert {position for _, alpha, position in tokens(browser) if alpha > 0} == set(range(*cut[:2]))
    assert browser.find_element("id", "legend").text == "0 to 3.000 nat"
    click(browser, cut[0])
    told = browser.find_element("id", "without").text
    assert "Resampled from before it\n“north” 2 times, “west” 1 times" in told
    assert "Resampled from after it\n“west” 1 times" in told
    open_page(browser, page, "#t=2&by=importance")  # not resampled
    assert not browser.find_elements("css selector", "#by option[value=importance]")
    assert errors(browser) == []


def test_a_long_traces_file_is_small_and_tells_of_how_many_answer_tokens_it_has_the_exact_attention(browser, tmp_path):
    texts = {"short": ("Where?", "1 left west\n", "west."), "long": ("Where?", "1 left west\n" * 2300, "west. " * 200)}
    page = write_study(tmp_path / "long", texts)
    trace = handed_over(page, 1)
    assert LIMIT / 2 < (page.parent / "data/0/1.js").stat().st_size < LIMIT
    bounds, rows = Bounds(*trace["bounds"]), trace["rows"]
    n_answer = bounds.eos - bounds.answer
    assert n_answer > 2 * len(rows) > 50 and (rows[0], rows[-1]) == (bounds.answer, bounds.eos - 1)
    planted = np.zeros((len(rows), bounds.end))
    planted[:, bounds.reasoning] = 0.5
    planted[np.arange(len(rows)), rows] = 0.5
    assert np.array_equal(shares(trace, "1.2"), planted)
    open_page(browser, page, "#t=1&source=1.2")
    told = browser.find_element("id", "told")
    assert f"what {len(rows)} of the answer's {n_answer} tokens pay, mean" in told.text
    assert browser.find_element("id", "legend").text.startswith("0 to 0.500")
    click(browser, bounds.reasoning)
    assert (
        told.text
        == f"Colour: what each answer token pays to the selection, of {len(rows)} of the answer's {n_answer} tokens."
    )
    absent = min({*range(bounds.answer, bounds.eos)} - set(rows))
    browser.execute_script("r2aExplorer.select(arguments[0], arguments[0])", absent)
    assert told.text.endswith("What it pays itself is not here.")
    browser.execute_script("r2aExplorer.select(arguments[0], arguments[0])", rows[1])
    assert told.text == "Colour: what the selected answer token pays."
    press(browser, "ArrowRight")
    assert browser.execute_script("return r2aExplorer.state.sel") == f"{rows[2]}-{rows[2]}"
    select = "r2aExplorer.state.by = 'effect'; r2aExplorer.select(arguments[0], arguments[0])"
    browser.execute_script(select, bounds.reasoning)
    assert "too many sentences to show it here" in browser.find_element("id", "without").text
    assert errors(browser) == []


def test_of_very_many_heads_a_traces_file_has_the_best_and_every_mean_over_all(browser, tmp_path):
    texts = {"walk": ("Where?", "1 left west\n" * 750, "west."), "also": ("Where?", "1 left west\n", "west.")}
    page = write_study(tmp_path / "wide", texts, n_heads=1400)
    trace = handed_over(page, 0)
    assert (page.parent / "data/0/0.js").stat().st_size < LIMIT
    assert 100 < len(trace["attention"]) < 1400 and trace["n_heads"] == 2800
    bounds = Bounds(*trace["bounds"])
    for source, share in {"1.1399": 0.5, "rfhs": 0.5, "all": 0.5 / 2800}.items():
        assert shares(trace, source)[:, bounds.reasoning] == pytest.approx(share, rel=1e-3)
    packed, sources = trace["sentence_mass"], trace["sources"]
    mass = np.frombuffer(base64.b64decode(packed["float16"]), "<f2").reshape(packed["shape"])
    assert len(sources) == len(mass) < 2800 and {"rfhs", "all", "1.1399"} <= {*sources}
    assert mass[[sources.index(name) for name in ("1.1399", "rfhs", "all")], 0] == pytest.approx(
        [0.5, 0.5, 0.5 / 2800], rel=1e-3
    )
    open_page(browser, page, "#t=0")
    assert f"{len(trace['attention']) - 2} of 2800 heads are here" in browser.find_element("id", "told").text
    assert errors(browser) == []


def test_katex_is_as_npm_serves_it_and_has_its_licence():
    sums = dict(reversed(line.split()) for line in (KATEX / "SHA256SUMS").read_text().splitlines())
    files = {str(path.relative_to(KATEX)) for path in KATEX.rglob("*") if path.is_file()}
    assert files - {"SHA256SUMS", "README.md"} == sums.keys() and "LICENSE" in sums
    assert {name: hashlib.sha256((KATEX / name).read_bytes()).hexdigest() for name in sums} == sums


FORMULAS = r"""Let $x = \frac{1}{2}$ and \(y\), which costs $5 and then $10, so
\[ \sum_{k=1}^n k = \frac{n(n+1)}{2} \]
and \begin{pmatrix} a & b \end{pmatrix}, thus \boxed{\frac{3}{4}}.
"""
HOSTILE_FORMULAS = [
    r"$\href{javascript:window.isOwned=true}{x}$", r"$\includegraphics{http://127.0.0.1/x.png}$",
    r"$\htmlStyle{position:fixed}{x}$", r"$\htmlData{token=0}{x}$", r"$\text{<img src=x onerror=window.isOwned=true>}$",
    r"$\def\a{\a\a}\a$", r"$\frac{1}{$", r"$\unknown{1}$", r"$\kern-900em x$", r"$\rule{900em}{900em}$",
    "$" + "{" * 900 + "x" + "}" * 900 + "$", r"\boxed{" * 60, r"\begin{array}{" * 60, "$" * 999, r"\[" * 999,
]  # fmt: skip


@pytest.fixture(scope="module")
def formulas(tmp_path_factory):
    texts = {"formulas": ("Find $x^2$.", FORMULAS, r"\boxed{1}"), "long": ("Find $x^2$.", FORMULAS * 100, "1")}
    texts |= {f"hostile-{k}": ("Find it.", f"before {text} after", "1") for k, text in enumerate(HOSTILE_FORMULAS)}
    return write_study(tmp_path_factory.mktemp("results") / "formulas", texts)


def sources(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#text .formula')].map((one) => one.getAttribute('aria-label'))"
    )


def test_formulas_are_rendered_where_they_stand_and_a_price_is_none(browser, formulas):
    open_page(browser, formulas, "#t=0")
    assert sources(browser) == [
        "x^2", r"x = \frac{1}{2}", "y", r" \sum_{k=1}^n k = \frac{n(n+1)}{2} ",
        r"\begin{pmatrix} a & b \end{pmatrix}", r"\boxed{\frac{3}{4}}", r"\boxed{1}",
    ]  # fmt: skip
    script = "return document.fonts.ready.then(() => document.fonts.check('16px KaTeX_Main'))"
    assert browser.execute_script(script)
    places = """const lines = [...document.querySelectorAll('#text .line')].map((line) => line.getBoundingClientRect());
        return lines.sort((a, b) => a.top - b.top).map((box) => [box.top, box.bottom])"""
    lines = browser.execute_script(places)
    assert all(later[0] >= line[1] - 1 for line, later in pairwise(lines))  # none overlaps another
    assert errors(browser) == []


def test_every_token_is_there_when_formulas_are_switched_off_and_a_rendered_one_has_its_strongest_tokens_colour(
    browser, formulas
):
    open_page(browser, formulas, "#t=0&source=1.2")
    content = json.loads((formulas.parent / "data/0/0.js").read_text().split(",", 1)[1].rstrip(");\n"))
    texts, bounds = content["tokens"], Bounds(*content["bounds"])
    assert len(tokens(browser)) < len(texts)
    lit = browser.execute_script("""const last = [...document.querySelectorAll('#text .line span')]
        .filter((one) => one.token !== undefined && one.querySelector('.formula')).at(-1);
        last.firstChild.dispatchEvent(new PointerEvent('pointerdown', {bubbles: true}));
        return [last.token, last.last]""")
    assert (lit[0], lit[1]) == (bounds.answer, bounds.eos - 1)  # the answer is one formula
    assert browser.execute_script("return r2aExplorer.state.sel") == f"{lit[0]}-{lit[1]}"
    own = {position: alpha for _, alpha, position in tokens(browser)}
    assert own[lit[0]] > 0 and own[bounds.reasoning] > 0
    press(browser, "f")
    assert [text for text, *_ in tokens(browser)] == [text.replace("\n", "⏎") for text in texts]
    assert browser.execute_script("return document.querySelectorAll('.formula').length") == 0
    assert "formulas=no" in browser.execute_script("return location.hash")


def test_of_a_long_trace_only_the_formulas_in_view_are_rendered(browser, formulas):
    open_page(browser, formulas, "#t=1")
    assert 5 < len(sources(browser)) < 100
    # scrolling sets lines' heights
    down = "const box = document.getElementById('text'); box.scrollTop = 1e6; return box.textContent"
    wait_until(lambda: "<|end|>" in browser.execute_script(down))
    assert len(sources(browser)) < 100


@pytest.mark.parametrize("number", range(len(HOSTILE_FORMULAS)))
def test_a_hostile_formula_links_loads_runs_and_covers_nothing(browser, formulas, number):
    open_page(browser, formulas, f"#t={2 + number}")
    assert browser.execute_script("return window.isOwned === undefined")
    assert (
        browser.execute_script("return document.querySelectorAll('#text a, #text img, #text [data-token]').length") == 0
    )
    shown = browser.find_element("id", "text").text
    assert "before" in shown and "after" in shown
    script = """return [...document.querySelectorAll('#text .formula')].every((one) =>
        getComputedStyle(one).position === 'static' && one.offsetHeight < 300)"""
    assert browser.execute_script(script)
    assert errors(browser) == []


def test_a_trace_whose_sentences_were_not_measured_is_coloured_by_attention(browser, page):
    open_page(browser, page, "#t=0&by=belief_change")
    assert not browser.find_element("id", "measure").is_displayed()
    assert "of a token's attention" in browser.find_element("id", "legend").text


def test_a_heads_scores_are_told_with_their_intervals_and_only_scores_can_be_chosen(browser, page):
    open_page(browser, page, "#t=0&source=1.2")
    browser.execute_script("""document.querySelectorAll('#map rect')[5].dispatchEvent(new MouseEvent('mouseenter'))""")
    assert browser.find_element("id", "head").text.splitlines()[1:] == ["a2r 1 [0.900, 1]"]
    assert browser.find_element("id", "score").text.split() == ["a2r"]


def test_several_heads_light_their_mean(browser, page):
    open_page(browser, page, "#t=0&source=1.2")
    bounds = Bounds(*json.loads((page.parent / "data/0/0.js").read_text().split(",", 1)[1].rstrip(");\n"))["bounds"])
    click(browser, bounds.answer)
    script = "return document.querySelectorAll('#map rect')[0].dispatchEvent(new MouseEvent('click', {shiftKey: true}))"
    browser.execute_script(script)
    assert browser.execute_script("return r2aExplorer.state.source") == "1.2+0.0"
    lit = {position for _, alpha, position in tokens(browser) if alpha > 0}
    assert lit == {0, bounds.reasoning, bounds.answer}  # the first token by head 0.0, the others by head 1.2
    browser.execute_script(script)
    assert browser.execute_script("return r2aExplorer.state.source") == "1.2"


def test_a_line_ends_between_words(browser, page):
    open_page(browser, page, "#t=0")
    script = "return [...document.querySelectorAll('#text .line:not(.title)')].map((line) => line.textContent)"
    lines = [line for line in browser.execute_script(script) if line.strip("⏎ ")]
    starts = [line for line in lines if not line.startswith((" ", "<", "Start", "1", "Where", "you", "⏎"))]
    assert starts == []


def test_the_strip_shows_where_attention_lies_and_leads_there(browser, page):
    open_page(browser, page, "#t=65&source=1.2")
    blue = """const strip = document.getElementById('strip'), pen = strip.getContext('2d');
        return [...Array(strip.height).keys()].filter((y) => {
            const [red, , blue] = pen.getImageData(7, y, 1, 1).data;
            return blue - red > 40; }).map((y) => y / strip.height)"""
    found = browser.execute_script(blue)
    assert found and max(found) < 0.1  # head 1.2 reads only the first sentence
    browser.execute_script("document.getElementById('strip').dispatchEvent(new MouseEvent('click', {clientY: 400}))")
    wait_until(lambda: browser.execute_script("return document.getElementById('text').scrollTop > 0"))


def test_two_models_stand_side_by_side_on_one_problem(browser, tmp_path):
    texts = {"walk": ("Where do you face?", "Start north.\n1 left west\n", "you face west.")}
    open_page(browser, write_study(tmp_path / "two", texts, ("m", "n")), "#c=m/d&t=0")
    beside = browser.find_element("id", "beside")
    assert beside.text.strip() == "N, with reasoning"
    assert "right" in browser.find_element("css selector", "#other h2").text
    assert "west" in browser.find_element("css selector", "#other .text").text
    assert errors(browser) == []


def test_search_filters_the_list(browser, page):
    open_page(browser, page)
    browser.find_element("id", "search").send_keys("walk-01")
    assert "10 of 66 traces" in browser.find_element("id", "count").text
    browser.find_element("id", "search").send_keys("7")
    assert len(browser.find_elements("css selector", "#traces li:not([aria-hidden])")) == 1


def test_keys_walk_through_traces_and_heads(browser, page):
    open_page(browser, page, "#t=0")
    press(browser, "ArrowDown")
    browser.execute_async_script(WAIT)
    assert "walk-001" in browser.find_element("id", "facts").text
    before = browser.execute_script("return r2aExplorer.state.source")
    press(browser, "]")
    assert browser.execute_script("return r2aExplorer.state.source") != before


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_models_text_is_shown_and_never_run(browser, page, number):
    open_page(browser, page, f"#t={60 + number}")
    assert browser.execute_script("return window.isOwned === undefined")
    assert browser.execute_script("return getComputedStyle(document.body).display") == "grid"
    shown = "".join(text for text, *_ in tokens(browser))
    assert HOSTILE[number].replace("\u2028", "").replace("\u202e", "")[:12] in shown.replace("\u2028", "")
    assert [message for message in errors(browser) if "Content Security" not in message] == []


def test_what_is_shown_can_be_saved(browser, page, downloads):
    open_page(browser, page, "#t=60&source=1.2")
    assert list(downloads.iterdir()) == []
    for suffix in ("csv", "svg", "png"):
        browser.find_element("id", f"save-{suffix}").click()
    # under another name while it is being saved, or empty
    wait_until(
        lambda: sorted(path.suffix for path in downloads.iterdir() if path.stat().st_size) == [".csv", ".png", ".svg"]
    )
    kept = {path.suffix: path for path in downloads.iterdir()}
    with open(kept[".csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    prompt = [row["token"] for row in rows if row["segment"] == "prompt"]
    assert not [token for token in prompt if token.startswith("=")]  # a spreadsheet would take it for a formula
    assert "".join(prompt).replace("'", "") == HOSTILE[0]
    assert sum(float(row["attention"]) for row in rows) == pytest.approx(1, abs=1e-3)
    texts = ElementTree.parse(kept[".svg"]).getroot().iter("{http://www.w3.org/2000/svg}text")
    assert HOSTILE[0][:9] in "".join(text.text or "" for text in texts)
    assert kept[".png"].read_bytes().startswith(b"\x89PNG")


def test_of_a_long_trace_only_what_is_visible_is_drawn(browser, page):
    open_page(browser, page, "#t=65&source=1.2")
    n_tokens = browser.execute_script("return document.querySelector('#text .line.title').parentNode.offsetHeight / 20")
    assert n_tokens > 500  # lines
    assert len(tokens(browser)) < 1500
    press(browser, "ArrowRight")  # to the answer's first token, at the end
    assert "west" in "".join(text for text, *_ in tokens(browser))
    assert "answer, " in browser.find_element("id", "text").text


def test_a_small_screen_scrolls_in_one_direction_only(browser, page):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(browser, page, "#t=0")
    assert browser.execute_script("return document.documentElement.scrollWidth <= 390")
    ends = browser.execute_script(
        "return [...document.querySelectorAll('.pane .text')].map((box) => box.getBoundingClientRect().bottom)"
    )
    assert browser.execute_script("return document.querySelector('aside').getBoundingClientRect().top") >= max(ends)
    assert browser.execute_script("return document.getElementById('text').clientWidth") > 300


VIEWS = {
    "tokens": "#t=0&source=1.2", "sentences": "#t=1&view=sentences", "measured": "#t=1&by=belief_change",
    "patched": "#t=3",
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious_in_any_view_and_theme(browser, page, view, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    open_page(browser, page, VIEWS[view])
    if view == "measured":
        click(browser, handed_over(page, 1)["sentences"][0])
        assert browser.find_element("id", "without").is_displayed()
    assert browser.find_element("id", "pair").is_displayed() == (view == "patched")
    found = Axe().run(browser)["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    assert errors(browser) == []


@pytest.mark.parametrize("paper", ["#ffffff", "#14171b"])
def test_a_tokens_text_can_be_read_on_every_colour(browser, page, paper):
    open_page(browser, page)
    script = """return arguments[1].flatMap((rgb) => [...Array(100).keys()].map((k) =>
        [rgb, (k + 1) / 100, r2aExplorer.inkOn(rgb, (k + 1) / 100, arguments[0])]))"""
    heats = ["0, 114, 178", "86, 180, 233", "230, 159, 0", "240, 160, 60"]
    below = np.array([int(paper[k : k + 2], 16) for k in (1, 3, 5)])
    for rgb, alpha, ink in browser.execute_script(script, paper, heats):
        mixed = (alpha * np.array(rgb.split(","), float) + (1 - alpha) * below) / 255
        linear = np.where(mixed <= 0.04045, mixed / 12.92, ((mixed + 0.055) / 1.055) ** 2.4)
        light = linear @ [0.2126, 0.7152, 0.0722]  # WCAG 2's relative luminance; 4.5 is its contrast for text
        contrast = 1.05 / (light + 0.05) if ink == "#ffffff" else (light + 0.05) / 0.05
        assert contrast > 4.5, (rgb, alpha)

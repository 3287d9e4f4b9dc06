"""The summary's pages in a real browser, opened from disk."""

import json

import pytest
from axe_core_python.selenium import Axe

from pretended_summary import write_pretended
from r2a.store import write_text
from r2a.summary.index import write_index
from r2a.summary.page import render_page
from r2a.watch import Run, RunningJob
from waiting import wait_until

HOSTILE = "\"><img src=x onerror='window.isOwned = true'><script>window.isOwned = true</script>"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summary")
    write_pretended(folder, HOSTILE, render=True, n_models=3)
    later = folder / "results/later"
    later.mkdir()
    verdicts = json.loads((folder / "results/mine/verdicts.json").read_text())
    (later / "verdicts.json").write_text(json.dumps(verdicts | {"study": "later"}))
    write_index(folder / "results")
    return folder / "results"


@pytest.fixture(params=["mine/summary.html", "index.html"])
def page(results, request):
    return f"file://{results}/{request.param}"


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_it_scrolls_in_one_direction_only_runs_no_text_and_logs_no_error(browser, page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script("return window.isOwned === undefined && document.images.length < 2")
    assert "onerror" in browser.find_element("tag name", "body").text
    assert errors(browser) == []


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_it_is_light_or_dark_as_the_system_is(browser, page, scheme, is_dark):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(colour.split("(")[1].split(",")[0]) < 60) == is_dark


def test_a_figure_is_unpacked_when_a_link_leads_to_it_and_not_before(browser, results):
    browser.get(f"file://{results}/mine/summary.html")
    assert browser.execute_script("return !document.querySelector('#figure-accuracy img').hasAttribute('src')")
    browser.execute_script("location.hash = '#figure-accuracy'")
    loaded = "const picture = document.querySelector('#figure-accuracy img'); return picture.naturalWidth"
    assert wait_until(lambda: browser.execute_script(loaded)) == 40
    assert browser.execute_script("return document.querySelector('#section-answers-figures').open")
    letter = """const canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
        pen.drawImage(document.querySelector('#figure-accuracy img'), 0, 0);
        return [...pen.getImageData(30, 20, 1, 1).data]"""
    assert browser.execute_script(letter) == [0, 0, 0, 255]  # its outline is back in its place
    assert errors(browser) == []


def test_every_verdict_leads_to_its_section_and_tells_its_n_and_test_on_focus(browser, results):
    browser.get(f"file://{results}/mine/summary.html")
    missing = """return [...document.querySelectorAll('a[href^="#"]')].map((one) => one.hash.slice(1))
        .filter((id) => !document.getElementById(id))"""
    assert browser.execute_script(missing) == []
    browser.execute_script("document.querySelectorAll('.verdicts td a')[1].focus()")
    note = wait_until(lambda: browser.execute_script("return document.getElementById('note').textContent"))
    assert note.startswith("n = 40 problems; exact")


def test_a_click_on_a_heading_sorts_by_value_and_another_the_other_way_round(browser, results):
    browser.get(f"file://{results}/mine/summary.html#accuracy")
    values = """const head = [...document.querySelectorAll('#accuracy th')].find((one) => one.textContent === 'with');
        head.querySelector('button').click();
        return [...document.querySelectorAll('#accuracy tbody tr')]
            .map((row) => Number(row.cells[head.cellIndex].dataset.value))"""
    falling, rising = browser.execute_script(values), browser.execute_script(values)
    assert len(falling) == 6
    assert falling == sorted(falling, reverse=True) and rising == sorted(rising) and rising != falling


def test_two_studies_stand_side_by_side(browser, results):
    browser.get(f"file://{results}/index.html")
    shown = browser.find_element("id", "compared").text
    assert "mine" in shown and "later" in shown and "+50.0" in shown
    assert len(browser.find_elements("css selector", "#compared tbody")) == 3


def test_axe_finds_nothing_serious_in_either_theme_with_all_that_is_closed_opened(browser, page):
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(page)
        browser.execute_script("for (const box of document.querySelectorAll('details')) box.open = true")
        found = Axe().run(browser)["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_on_paper_it_is_light_and_open_without_navigation_and_no_table_is_cut(browser, results):
    size = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # a sheet of A4 between its margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(f"file://{results}/mine/summary.html")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert browser.execute_script(style, "body", "backgroundColor") == "rgb(255, 255, 255)"
    assert browser.execute_script(style, "#contents", "display") == "none"
    assert browser.execute_script(style, ".verdicts td", "display") == "table-cell"
    closed = "return [...document.querySelectorAll('details:not(.figures)')].every((box) => box.open)"
    assert browser.execute_script(closed)
    assert browser.execute_script(style, ".figures", "display") == "none"
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    # a heading is repeated on each page only if it is unbroken and not a button
    assert browser.execute_script(style, "#accuracy thead", "breakInside") == "avoid"
    assert browser.execute_script(style, "#accuracy th button", "display") == "contents"
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return !document.querySelector('details[open]')")


def test_the_table_of_verdicts_stands_under_the_questions_that_it_answers(browser, results):
    browser.get(f"file://{results}/mine/summary.html")
    asked = "return [...document.querySelectorAll('.groups th')].map((one) => [one.innerText.trim(), one.colSpan])"
    assert browser.execute_script(asked) == [["Does reasoning improve answers?", 2]]


def test_the_page_of_a_run_loads_itself_again_and_axe_finds_nothing_serious_in_it(browser, tmp_path):
    job = RunningJob("traces/m/d", "7 on here", 1.0, True, "loads m", 3, 8, "2.0 per second")
    run = Run("mine", (4, 9), 1, [job], [("0", "traces/m/d")], 48.0, [("grades", "ERROR")], "12:00:00")
    page = tmp_path / "watch.html"
    page.write_text(render_page("watch.html.j2", "watch", run=run, seconds=1000))
    browser.get(f"file://{page}")
    found = Axe().run(browser)["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    write_text(page, render_page("watch.html.j2", "watch", run=run, seconds=1))
    browser.get(f"file://{page}")
    run.time = "12:00:03"
    write_text(page, render_page("watch.html.j2", "watch", run=run, seconds=1))
    wait_until(lambda: browser.execute_script("return document.body?.innerText.includes('12:00:03')"))
    assert errors(browser) == []

"""The summary's page in a real browser, from a disk."""

import base64

import pytest

from r2a.summary.page import page

TEXT = "# Title\n\n![dot](dot.png)\n\n| " + " | ".join(["a long heading"] * 20) + " |\n" + "| --- " * 20 + "|\n"
DOT = base64.b64decode(  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@pytest.fixture
def summary(tmp_path):
    (tmp_path / "dot.png").write_bytes(DOT)
    (tmp_path / "summary.html").write_text(page(TEXT, "Title", tmp_path))
    return f"file://{tmp_path}/summary.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_its_pictures_load_and_it_scrolls_in_one_direction_only(browser, summary, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(summary)
        assert browser.execute_script("return document.querySelector('img').naturalWidth") == 1
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_it_is_light_or_dark_as_the_system_is(browser, summary, scheme, paper):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(summary)
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == paper
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

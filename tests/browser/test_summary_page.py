"""The summary's page in a real browser, from a disk."""

import pytest

from r2a.summary.page import page

TEXT = "# Title\n\n![dot](dot.svg)\n\n| " + " | ".join(["a long heading"] * 20) + " |\n" + "| --- " * 20 + "|\n"
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="900" height="400"><circle r="9"/></svg>'


@pytest.mark.parametrize("width", [390, 1280])
def test_its_pictures_load_and_it_scrolls_in_one_direction_only(browser, tmp_path, width):
    (tmp_path / "dot.svg").write_text(DOT)
    (tmp_path / "summary.html").write_text(page(TEXT, "Title"))
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(f"file://{tmp_path}/summary.html")
        assert browser.execute_script("return document.querySelector('img').naturalWidth") == 900
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_it_is_light_or_dark_as_the_system_is(browser, tmp_path, scheme, paper):
    (tmp_path / "summary.html").write_text(page(TEXT, "Title"))
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(f"file://{tmp_path}/summary.html")
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == paper
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
